"""The microservice chassis: what every service needs and none should write again.

Infrastructure only. It knows no business noun; what it takes in, two services use.

settings    config.yaml, read strictly          logs       one structured line an event
container   a service's life: start, stop       health     /healthz, /readyz, /metrics
amqp        publishing, both ways               transport  the broker's socket
rpc         calls with a deadline, and their answering side
deadlines   how much time the work at hand has
coalescer   natural batching of calls
events      handlers that retry, then park
dead        shows and redrives what is parked
outbox      events written with the state they tell of, and the relay that publishes them
db          connections, timeouts, waiting for the schema
queues      the consumer connection of a service
migrate     makes the tables and declares the queues
schemas     the marshmallow fields that all services use
errors      the faults that cross the wire     metrics    what /metrics shows
"""
