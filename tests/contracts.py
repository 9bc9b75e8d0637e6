"""The samples in docs/contracts/, which hold the two sides of a message together.

An event's sample is its payload; an RPC method's has a `request` (its keyword arguments) and the
`answer` to it. The producer's test runs the real code and compares; the consumer's feeds the sample.
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
    """The payload of an event: `event_sample("orders.order_paid")`."""
    return _sample("events", name)


def rpc_sample(name: str) -> dict[str, Any]:
    """Request and answer of a method: `rpc_sample("billing.withdraw")`."""
    return _sample("rpc", name)


def methods_with_samples(service: str) -> list[str]:
    """The RPC methods of a service that have a sample."""
    return sorted(
        path.stem.partition(".")[2]
        for path in (CONTRACTS / "rpc").glob(f"{service}.*.json")
    )


def rpc_methods(service: type, config: dict[str, Any]) -> list[str]:
    """The RPC methods a service class has."""
    entrypoints = Container(service, config).entrypoints
    return sorted(e.method_name for e in entrypoints if isinstance(e, Rpc))


def alike(value: Any) -> Any:
    """`value` without what differs from one message to the next: ids and times."""
    if isinstance(value, dict):
        return {name: alike(part) for name, part in value.items()}
    if isinstance(value, list):
        return [alike(part) for part in value]
    if isinstance(value, str):
        for mark, pattern in VARYING.items():
            value = pattern.sub(mark, value)
    return value


def _sample(kind: str, name: str) -> dict[str, Any]:
    sample: dict[str, Any] = json.loads(
        (CONTRACTS / kind / f"{name}.json").read_text(encoding="utf-8")
    )
    return sample
