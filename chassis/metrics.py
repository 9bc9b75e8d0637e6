"""The metrics of `/metrics` (Prometheus), one registry a process. Times are in seconds."""

from prometheus_client import Counter, Gauge, Histogram

HANDLED = Histogram(
    "shop_worker_seconds", "Time a worker took.", ["service", "method", "outcome"]
)
RPC_CALLS = Histogram(
    "shop_rpc_call_seconds", "Time a call waited.", ["service", "method"]
)
BATCH_ITEMS = Histogram(
    "shop_batch_items",
    "Items of one batch.",
    ["service", "method"],
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
EVENTS = Counter("shop_events_handled_total", "Events handled.", ["queue", "outcome"])
EVENTS_PAUSED = Gauge(
    "shop_events_paused", "1 while the handler of a queue pauses.", ["queue"]
)
LOOP_BUSY = Gauge(
    "shop_loop_busy_seconds", "Time of a loop's current step.", ["service", "loop"]
)
OUTBOX_PUBLISHED = Counter(
    "shop_outbox_published_total", "Events published.", ["service"]
)
OUTBOX_UNSENT = Gauge("shop_outbox_unsent", "Unsent events.", ["service"])
OUTBOX_OLDEST = Gauge(
    "shop_outbox_oldest_unsent_seconds", "Age of the oldest unsent event.", ["service"]
)
