"""The samples in docs/contracts/, which both sides of a message are tested with.

An event's sample is its payload. An RPC method's sample has a `request` (keyword arguments) and the
`reply`. The producer's test compares its real message. The consumer's test receives the sample.
"""

import json
import re
from pathlib import Path
from typing import Any

from chassis.container import Container
from chassis.rpc import Rpc

CONTRACTS = Path(__file__).parent.parent / "docs" / "contracts"
VARYING = {
    "<id>": re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}"),
    "<time>": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"),
}


def event_sample(name: str) -> dict[str, Any]:
    """Return the payload of an event: `event_sample("orders.order_paid")`."""
    return _sample("events", name)


def rpc_sample(name: str) -> dict[str, Any]:
    """Return request and reply of a method: `rpc_sample("billing.withdraw")`."""
    return _sample("rpc", name)


def methods_with_samples(service: str) -> list[str]:
    """Return the RPC methods of a service that have a sample."""
    samples = (CONTRACTS / "rpc").glob(f"{service}.*.json")
    return sorted(path.stem.partition(".")[2] for path in samples)


def rpc_methods(service: type, config: dict[str, Any]) -> list[str]:
    """Return the RPC methods of a service class."""
    entrypoints = Container(service, config).entrypoints
    return sorted(e.method_name for e in entrypoints if isinstance(e, Rpc))


def alike(value: Any) -> Any:
    """Return `value` with marks instead of ids and times, which differ each time."""
    if isinstance(value, dict):
        return {name: alike(part) for name, part in value.items()}
    if isinstance(value, list):
        return [alike(part) for part in value]
    if isinstance(value, str):
        for mark, pattern in VARYING.items():
            value = pattern.sub(mark, value)
    return value


def _sample(kind: str, name: str) -> dict[str, Any]:
    text = (CONTRACTS / kind / f"{name}.json").read_text(encoding="utf-8")
    sample: dict[str, Any] = json.loads(text)
    return sample
