"""What NetworkPolicies let through, worked out as Kubernetes does.

https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that no policy of a
direction selects is open in that direction; else what any of them names goes through. A connection
needs the leave of both ends.
"""

from ipaddress import ip_address, ip_network
from typing import Any

from tests.chart.helm import NAMESPACE, Object, selects


def pod(
    labels: dict[str, str],
    namespace: str = NAMESPACE,
    ports: dict[str, int] | None = None,
) -> Object:
    """One end of a connection: a pod with its labels and the names of its ports."""
    return {
        "metadata": {"labels": labels},
        "namespace": namespace,
        "ports": ports or {},
    }


def host(address: str) -> Object:
    """One end of a connection that is no pod."""
    return {"address": address, "ports": {}}


def allowed(
    policies: list[Object],
    source: Object,
    target: Object,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Whether a connection from `source` to this port of `target` goes through."""
    return all(
        _open(policies, end, direction, other, target, port, protocol)
        for end, direction, other in (
            (source, "Egress", target),
            (target, "Ingress", source),
        )
    )


def _open(
    policies: list[Object],
    end: Object,
    direction: str,
    other: Object,
    target: Object,
    port: int,
    protocol: str,
) -> bool:
    if "address" in end or end["namespace"] != NAMESPACE:
        return True  # these policies have no say there
    mine = [
        each["spec"] for each in policies if _concerns(each["spec"], end, direction)
    ]
    rules = [rule for spec in mine for rule in spec.get(direction.lower()) or []]
    side = {"Egress": "to", "Ingress": "from"}[direction]
    return not mine or any(
        _peers(rule.get(side), other)
        and _ports(rule.get("ports"), target, port, protocol)
        for rule in rules
    )


def _concerns(spec: Object, end: Object, direction: str) -> bool:
    return selects(spec["podSelector"], end) and direction in spec["policyTypes"]


def _peers(peers: list[Object] | None, other: Object) -> bool:
    return not peers or any(_peer(each, other) for each in peers)


def _peer(peer: Object, other: Object) -> bool:
    if "address" in other:
        block = peer.get("ipBlock")
        return block is not None and _within(block, other["address"])
    if "ipBlock" in peer:
        return False  # pods are not meant by addresses
    if "namespaceSelector" not in peer:
        return other["namespace"] == NAMESPACE and selects(peer["podSelector"], other)
    namespace = pod({"kubernetes.io/metadata.name": other["namespace"]})
    return selects(peer["namespaceSelector"], namespace) and selects(
        peer.get("podSelector", {}), other
    )


def _within(block: Object, address: str) -> bool:
    inside = ip_address(address) in ip_network(block["cidr"])
    return inside and not any(
        ip_address(address) in ip_network(each) for each in block.get("except", [])
    )


def _ports(ports: list[Any] | None, target: Object, port: int, protocol: str) -> bool:
    return not ports or any(
        each.get("protocol", "TCP") == protocol and _same(each, target, port)
        for each in ports
    )


def _same(each: Object, target: Object, port: int) -> bool:
    wanted = each.get("port", port)
    first = target["ports"].get(wanted) if isinstance(wanted, str) else wanted
    return first is not None and first <= port <= each.get("endPort", first)
