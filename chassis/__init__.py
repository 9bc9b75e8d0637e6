"""The microservice chassis: the code that all services share.

It is infrastructure only, and knows no business noun. Code belongs here if two services use it.

amqp_transport    the socket of a broker connection
bisection         finds the events of a batch that fail
broker            broker connections and outgoing messages
broker_user       checks the permissions of the service's broker user
cli               settings and error lines of the commands
coalescer         combines concurrent calls into batches
consumer          the consumer connection of a service
container         start and stop of a service
database_checks   requirements of a database, and the time limits of its role
database_limits   limits on database connections
db                the database of a service
dead_letters      the command that lists and redrives dead letters
deadlines         the remaining time of the current work
errors            faults that cross the wire, and classification of exceptions
events            handlers of events in batches, with retries and dead letters
health            /healthz, /readyz, /startedz, /metrics
logs              one structured line for each event
lookups           resolves host names without blocking
loops             reports a loop that is stuck
metrics           the metrics of /metrics
migrate           creates tables and declares queues
moves             moves messages to another queue without loss
outbox            events, written in the transaction of their change, and their relay
outcomes          outcomes of RPC methods: validated arguments, items, pages
patches           all changes to the behaviour of libraries
pending_confirms  the confirms that a publisher waits for
publishers        publishers of confirmed and of transient messages
queue_limits      checks that the broker keeps the messages in queues
retries           rules for events that failed
rpc               calls with deadlines, and RPC methods
schemas           the marshmallow fields that services share
secret_files      secrets from files
settings          config.yaml, read strictly
timers            @timer, by a monotonic clock
"""
