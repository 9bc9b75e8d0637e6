"""The microservice chassis: what every service needs and none should write again.

Infrastructure only. It knows no business noun; what it takes in, two services use.

settings    config.yaml, read strictly         logs       one structured line an event
container   a service's life: start, stop      health     /healthz, /readyz, /startedz, /metrics
amqp        publishing, both ways              transport  the broker's socket
rpc         calls, and their answering side    deadlines  how much time is left
coalescer   natural batching of calls          outbox     events, written with the state they tell of
events      handlers that retry, then park     dead       shows and redrives what is parked
db          connections, and the schema        queues     the consumer connection of a service
migrate     makes tables and queues            schemas    the marshmallow fields that all services use
errors      the faults that cross the wire     metrics    what /metrics shows
lookups     host names, without blocking       connections  limits on database connections
loops       which loop is stuck                timers     @timer, by a monotonic clock
database_checks  what a database must have, and the role's time limits
"""
