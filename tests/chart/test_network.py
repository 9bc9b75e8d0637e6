"""The connections that the chart's network policies allow. All others are closed."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.chart.environment import COMMANDS, SERVICES, WITH_TABLES
from tests.chart.helm import (
    CHART,
    SETS,
    Object,
    component,
    containers,
    labels,
    merged,
    objects,
    of,
    pods,
    selects,
    user_values,
)
from tests.chart.network import allowed, host, pod

PORTS = {"http": 8000, "health": 8001, "postgresql": 5432, "amqp": 5672}
STRANGER = pod({"app": "stranger"})
ELSEWHERE = pod({"app": "browser"}, namespace="ingress")
INTERNET = host("203.0.113.7")
# The addresses in values/external.yaml.
DATABASE, BROKER = "10.1.0.5", "10.2.0.5"
BROKER_CLIENTS = (*SERVICES, "migrations", *COMMANDS)
DATABASE_CLIENTS = (*WITH_TABLES, "migrations", "audit", "replay")
# The allowed connections (source, target, port) if the servers are the chart's own.
CONNECTIONS = {
    *((client, "rabbitmq", "amqp") for client in BROKER_CLIENTS),
    *((client, "postgresql", "postgresql") for client in DATABASE_CLIENTS),
    ("test", "gateway", "http"),
}


def settings(name: str) -> Object:
    return merged(user_values(name))


GUARDED = [name for name in SETS if settings(name)["networkPolicy"]["enabled"]]
EVERY_GUARDED_SET = pytest.mark.parametrize("name", GUARDED)


def policies(name: str) -> list[Object]:
    return of(objects(name), "NetworkPolicy")


def ends(name: str) -> dict[str, Object]:
    """Return the pods of the chart by component, as ends of connections."""
    found = pods(objects(name)).values()
    return {
        component(each): pod(labels(each), ports=dict(_ports(each))) for each in found
    }


def _ports(found: Object) -> Iterator[tuple[str, int]]:
    for container in containers(found):
        for port in container.get("ports", []):
            yield port["name"], port["containerPort"]


def test_all_sets_but_one_have_policies() -> None:
    assert len(GUARDED) == len(SETS) - 1
    (unguarded,) = set(SETS) - set(GUARDED)
    assert policies(unguarded) == []


@EVERY_GUARDED_SET
def test_every_pod_is_closed_in_both_directions(name: str) -> None:
    for direction in ("Ingress", "Egress"):
        for source, end in ends(name).items():
            specs = [each["spec"] for each in policies(name)]
            assert any(
                selects(each["podSelector"], end) and direction in each["policyTypes"]
                for each in specs
            ), source


@EVERY_GUARDED_SET
def test_pods_can_open_only_the_listed_connections(
    name: str,
) -> None:
    found = ends(name)
    for source in found:
        for target in found.keys() - {source}:
            for port_name, port in PORTS.items():
                is_allowed = allowed(policies(name), found[source], found[target], port)
                connection = (source, target, port_name)
                assert is_allowed == (connection in CONNECTIONS), connection


@EVERY_GUARDED_SET
def test_others_reach_only_the_gateway_and_with_a_monitor_the_metrics(
    name: str,
) -> None:
    expected = {("gateway", "http")}
    if settings(name)["serviceMonitor"]["enabled"]:
        expected |= {(service, "health") for service in SERVICES}
    for other in (STRANGER, ELSEWHERE, INTERNET):
        assert reached_by(name, other) <= expected


def reached_by(name: str, other: Object) -> set[tuple[str, str]]:
    return {
        (target, port_name)
        for target, end in ends(name).items()
        for port_name, port in PORTS.items()
        if allowed(policies(name), other, end, port)
    }


def test_any_client_reaches_the_gateway_by_default() -> None:
    for other in (STRANGER, ELSEWHERE, INTERNET):
        assert reached_by("default", other) == {("gateway", "http")}


def test_only_named_peers_reach_the_gateway_metrics_and_servers() -> None:
    assert reached_by("closed", ELSEWHERE) == {("gateway", "http")}
    assert reached_by("closed", pod({}, namespace="monitoring")) == {
        (each, "health") for each in SERVICES
    }
    assert reached_by("closed", pod({}, namespace="keda")) == {("rabbitmq", "amqp")}
    assert reached_by("closed", pod({}, namespace="backup")) == {
        ("postgresql", "postgresql")
    }
    assert reached_by("closed", STRANGER) == reached_by("closed", INTERNET) == set()


@EVERY_GUARDED_SET
def test_pods_connect_out_only_to_dns_and_external_servers(
    name: str,
) -> None:
    given = settings(name)
    for source, end in ends(name).items():
        reached = {
            port
            for port in (80, 443, 5432, 5671, 5672)
            if allowed(policies(name), end, INTERNET, port)
        }
        assert reached <= external_ports(given, source), source
        needs_dns = source not in ("postgresql", "rabbitmq")
        assert allowed(policies(name), end, INTERNET, 53, "UDP") == needs_dns


def external_ports(given: Object, source: str) -> set[int]:
    """Return the ports of the external servers that this component uses."""
    ports = set()
    if not given["postgresql"]["enabled"] and source in DATABASE_CLIENTS:
        ports.add(given["externalPostgresql"]["port"])
    if not given["rabbitmq"]["enabled"] and source in BROKER_CLIENTS:
        ports.add(given["externalRabbitmq"]["port"])
    return ports


@EVERY_GUARDED_SET
def test_dns_is_allowed_on_the_given_ports_only(name: str) -> None:
    dns_ports = settings(name)["networkPolicy"]["dnsPorts"]
    for source, end in ends(name).items():
        needs_dns = source not in ("postgresql", "rabbitmq")
        for port in (53, 5353):
            is_allowed = {
                allowed(policies(name), end, INTERNET, port, protocol)
                for protocol in ("UDP", "TCP")
            }
            assert is_allowed == {port in dns_ports and needs_dns}


def test_policies_have_port_numbers_instead_of_names() -> None:
    """Not all network plugins support names of ports."""
    for name in GUARDED:
        for each in policies(name):
            rules = [*each["spec"].get("ingress", []), *each["spec"].get("egress", [])]
            ports = [port["port"] for rule in rules for port in rule["ports"]]
            assert all(isinstance(port, int) for port in ports)


def test_the_readmes_policy_for_istio_opens_only_its_connections() -> None:
    readme = (CHART / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n([^`]*name: shop-istio\n[^`]*)```", readme)
    opened = [*policies("default"), yaml.safe_load(block)]
    istiod = pod({"app": "istiod"}, namespace="istio-system")
    for end in ends("default").values():
        assert allowed(opened, end, istiod, 15012)
        assert allowed(opened, end, INTERNET, 53, "UDP")
        for source in ("169.254.7.127", "fd16:9254:7127:1337:ffff:ffff:ffff:ffff"):
            assert all(
                allowed(opened, host(source), end, port) for port in PORTS.values()
            )
        assert allowed(opened, STRANGER, end, 15008)
        assert not allowed(opened, end, INTERNET, 443)
        assert not allowed(opened, STRANGER, end, 5432)


def test_external_servers_are_reached() -> None:
    found = ends("external")
    for source in DATABASE_CLIENTS:
        assert allowed(policies("external"), found[source], host(DATABASE), 5432)
    for source in BROKER_CLIENTS:
        assert allowed(policies("external"), found[source], host(BROKER), 5671)
    for source in ("gateway", "dead", "redrive"):
        assert not allowed(policies("external"), found[source], host(DATABASE), 5432)
    assert not allowed(policies("external"), found["users"], INTERNET, 5432)
