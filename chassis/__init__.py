"""The microservice chassis: what every service needs and none should write again.

Infrastructure only. It knows no business noun; what it takes in, two services use.

amqp              publishing, both ways
coalescer         natural batching of calls
command           what the commands of the chassis share
connections       limits on database connections
container         a service's life: start, stop
database_checks   what a database must have, and the role's time limits
db                connections, and the schema
dead              shows and redrives dead letters
deadlines         how much time is left
errors            the faults that cross the wire
events            handlers that retry, then dead-letter
health            /healthz, /readyz, /startedz, /metrics
logs              one structured line an event
lookups           host names, without blocking
loops             which loop is stuck
metrics           what /metrics shows
migrate           makes tables and queues
moves             confirmed copies of messages into other queues
outbox            events, written with the state they tell of
queue_limits      tries whether the broker's limits drop events
queues            the consumer connection of a service
retries           what becomes of an event that failed
rpc               calls, and their answering side
schemas           the marshmallow fields that all services use
settings          config.yaml, read strictly
timers            @timer, by a monotonic clock
transport         the broker's socket
"""
