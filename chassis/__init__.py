"""The microservice chassis: what every service needs and none should write again.

Infrastructure only. It knows no business noun; what it takes in, two services use.

amqp              publishing, both ways
cli               settings and error lines of the commands
coalescer         combines concurrent calls into batches
connections       limits on database connections
container         a service's life: start, stop
database_checks   what a database must have, and the role's time limits
db                connections, and the schema
dead_letters      the command that lists and redrives dead letters
deadlines         how much time is left
errors            faults that cross the wire, and classification of exceptions
events            handlers of events in batches, with retries and dead letters
health            /healthz, /readyz, /startedz, /metrics
logs              one structured line an event
lookups           host names, without blocking
loops             which loop is stuck
metrics           what /metrics shows
migrate           creates tables and declares queues
moves             confirmed copies of messages into other queues
outbox            events, written in the transaction of their change, and their relay
outcomes          outcomes of RPC methods: validated arguments, items, pages
queue_limits      checks that the broker keeps the events in queues
queues            the consumer connection of a service
retries           rules for events that failed
rpc               calls with deadlines, and RPC methods
schemas           the marshmallow fields that services share
secret_files      secrets from files
settings          config.yaml, read strictly
timers            @timer, by a monotonic clock
transport         the broker's socket
"""
