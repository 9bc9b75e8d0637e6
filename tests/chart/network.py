"""Evaluates NetworkPolicies as Kubernetes does.

A pod that no policy of a direction selects is open in that direction. Otherwise a connection needs
one policy that allows it. Both ends of a connection must allow it. See
https://kubernetes.io/docs/concepts/services-networking/network-policies/.
"""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

from tests.chart.helm import NAMESPACE, Object, selects


def pod(
    labels: dict[str, str],
    namespace: str = NAMESPACE,
    ports: dict[str, int] | None = None,
) -> Object:
    """Return one end of a connection: a pod with its labels and named ports."""
    return {
        "metadata": {"labels": labels},
        "namespace": namespace,
        "ports": ports or {},
    }


def host(address: str) -> Object:
    """Return one end of a connection that is outside the cluster."""
    return {"address": address, "ports": {}}


def allowed(
    policies: list[Object],
    source: Object,
    target: Object,
    port: int,
    protocol: str = "TCP",
) -> bool:
    """Return whether the policies allow a connection to this port of `target`."""
    to_port = partial(_allows_port, target=target, port=port, protocol=protocol)
    leaves = _allows(policies, source, "Egress", target, to_port)
    return leaves and _allows(policies, target, "Ingress", source, to_port)


def _allows(
    policies: list[Object],
    end: Object,
    direction: str,
    other: Object,
    to_port: Callable[[list[Any] | None], bool],
) -> bool:
    """Return whether one end of a connection allows it in a direction."""
    if "address" in end or end["namespace"] != NAMESPACE:
        # The policies are for the namespace of the release only.
        return True
    specs = [each["spec"] for each in policies]
    own = [spec for spec in specs if _applies_to(spec, end, direction)]
    rules = [rule for spec in own for rule in spec.get(direction.lower()) or []]
    side = {"Egress": "to", "Ingress": "from"}[direction]
    return not own or any(
        _matches_any(rule.get(side), other) and to_port(rule.get("ports"))
        for rule in rules
    )


def _applies_to(spec: Object, end: Object, direction: str) -> bool:
    return selects(spec["podSelector"], end) and direction in spec["policyTypes"]


def _matches_any(peers: list[Object] | None, other: Object) -> bool:
    return not peers or any(_matches(each, other) for each in peers)


def _matches(peer: Object, other: Object) -> bool:
    if "address" in other:
        block = peer.get("ipBlock")
        return block is not None and _is_within(block, other["address"])
    if "ipBlock" in peer:
        # An address block does not match pods.
        return False
    if "namespaceSelector" not in peer:
        return other["namespace"] == NAMESPACE and selects(peer["podSelector"], other)
    namespace = pod({"kubernetes.io/metadata.name": other["namespace"]})
    in_namespace = selects(peer["namespaceSelector"], namespace)
    return in_namespace and selects(peer.get("podSelector", {}), other)


def _is_within(block: Object, address: str) -> bool:
    if ip_address(address) not in ip_network(block["cidr"]):
        return False
    exceptions = [ip_network(each) for each in block.get("except", [])]
    return not any(ip_address(address) in each for each in exceptions)


def _allows_port(
    ports: list[Any] | None, target: Object, port: int, protocol: str
) -> bool:
    return not ports or any(
        each.get("protocol", "TCP") == protocol and _contains(each, target, port)
        for each in ports
    )


def _contains(each: Object, target: Object, port: int) -> bool:
    wanted = each.get("port", port)
    first = target["ports"].get(wanted) if isinstance(wanted, str) else wanted
    return first is not None and first <= port <= each.get("endPort", first)
