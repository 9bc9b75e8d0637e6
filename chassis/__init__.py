"""The microservice chassis: the infrastructure that all services share.

It contains no business term, and code moves here when two services need it. A service:

    class Service:
        name = "orders"

        db = Database(Base)
        outbox = Outbox()
        billing = RpcProxy("billing", ["statement"], batched=["withdraw"])

        @rpc
        def get(self, order_id: str) -> dict[str, Any] | None:
            with self.db.autocommit() as connection:
                return store.get(connection, order_id)

        @event_handler("users", "user_created")
        def handle_user_created(self, events: list[dict[str, Any]]) -> None: ...

        @timer(interval=1)
        def retry_pending(self) -> None: ...

Start and stop:
    container         starts and stops a service, logs each worker
    lifecycle         the steps of a start and a stop
    settings          settings from config.yaml
    secret_files      secrets from files
    health            /healthz, /readyz, /startedz and /metrics
    metrics           the metrics of /metrics
    logs              structured log lines
    loops             reports a loop that is stuck
    timers            @timer, with a monotonic clock
    deadlines         the time that is left for the work in progress

Broker:
    broker            connects, declares, publishes on one connection
    publishers        publishes with and without confirms
    consumer          the connection that receives requests, replies and events
    amqp_transport    the socket of py-amqp
    broker_checks     checks permissions, and that the broker drops no events
    patches           all patches of other libraries

Calls and events:
    rpc               @rpc and calls of other services
    coalescer         sends calls in batches
    outcomes          outcomes of the items of a batch
    schemas           marshmallow fields
    errors            the faults that services exchange
    outbox            events in the transaction of their state
    events            @event_handler, with retries and dead letters
    retries           rules for failed events: bisection of a batch, retries

Database:
    db                connections, and the wait for the schema
    database_limits   limits of waits
    database_checks   requirements on a database
    lookups           host names without blocking

Commands:
    migrate           creates tables and queues
    dead_letters      lists and redrives dead letters
    cli               shared by the commands
"""
