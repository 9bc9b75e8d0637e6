"""Who may talk to whom: nobody to anybody, but for what is said here."""

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
DATABASE, BROKER = "10.1.0.5", "10.2.0.5"  # in values/external.yaml
OF_BROKER = (*SERVICES, "migrations", *COMMANDS)
OF_DATABASES = (*WITH_TABLES, "migrations", "audit", "replay")
# From whom to whom on which port, when the servers are the chart's own.
SAID = {
    *((client, "rabbitmq", "amqp") for client in OF_BROKER),
    *((client, "postgresql", "postgresql") for client in OF_DATABASES),
    ("test", "gateway", "http"),
}


def settings(name: str) -> Object:
    return merged(user_values(name))


GUARDED = [name for name in SETS if settings(name)["networkPolicy"]["enabled"]]
EVERY_GUARDED_SET = pytest.mark.parametrize("name", GUARDED)


def policies(name: str) -> list[Object]:
    return of(objects(name), "NetworkPolicy")


def ends(name: str) -> dict[str, Object]:
    """The pods of the chart by component, as ends of connections."""
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
        for who, end in ends(name).items():
            specs = [each["spec"] for each in policies(name)]
            assert any(
                selects(each["podSelector"], end) and direction in each["policyTypes"]
                for each in specs
            ), who


@EVERY_GUARDED_SET
def test_pods_of_the_suite_talk_to_each_other_as_said_and_not_otherwise(
    name: str,
) -> None:
    found = ends(name)
    for source in found:
        for target in found.keys() - {source}:
            for word, port in PORTS.items():
                goes_through = allowed(
                    policies(name), found[source], found[target], port
                )
                assert goes_through == ((source, target, word) in SAID), (
                    f"{source} -> {target}:{port}"
                )


@EVERY_GUARDED_SET
def test_nobody_else_reaches_more_than_the_gateway_and_where_it_is_asked_for_the_metrics(
    name: str,
) -> None:
    meant = {("gateway", "http")}
    if settings(name)["serviceMonitor"]["enabled"]:
        meant |= {(service, "health") for service in SERVICES}
    for other in (STRANGER, ELSEWHERE, INTERNET):
        assert reached_by(name, other) <= meant


def reached_by(name: str, other: Object) -> set[tuple[str, str]]:
    return {
        (target, word)
        for target, end in ends(name).items()
        for word, port in PORTS.items()
        if allowed(policies(name), other, end, port)
    }


def test_everybody_reaches_the_gateway_by_default() -> None:
    for other in (STRANGER, ELSEWHERE, INTERNET):
        assert reached_by("default", other) == {("gateway", "http")}


def test_those_who_are_named_reach_the_gateway_the_metrics_and_the_servers_and_nobody_else() -> (
    None
):
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
def test_nobody_calls_out_but_for_names_and_servers_that_are_elsewhere(
    name: str,
) -> None:
    given = settings(name)
    for source, end in ends(name).items():
        reached = {
            port
            for port in (80, 443, 5432, 5671, 5672)
            if allowed(policies(name), end, INTERNET, port)
        }
        assert reached <= elsewhere(given, source), source
        assert allowed(policies(name), end, INTERNET, 53, "UDP") == (
            source not in ("postgresql", "rabbitmq")
        )


def elsewhere(given: Object, source: str) -> set[int]:
    """The ports of the servers that are not the chart's own and that this component uses."""
    ports = set()
    if not given["postgresql"]["enabled"] and source in OF_DATABASES:
        ports.add(given["externalPostgresql"]["port"])
    if not given["rabbitmq"]["enabled"] and source in OF_BROKER:
        ports.add(given["externalRabbitmq"]["port"])
    return ports


@EVERY_GUARDED_SET
def test_names_are_asked_for_where_it_is_said(name: str) -> None:
    asked = settings(name)["networkPolicy"]["dnsPorts"]
    for source, end in ends(name).items():
        for port in (53, 5353):
            goes_through = {
                allowed(policies(name), end, INTERNET, port, protocol)
                for protocol in ("UDP", "TCP")
            }
            assert goes_through == {
                port in asked and source not in ("postgresql", "rabbitmq")
            }


def test_no_port_is_named_which_not_all_network_plugins_know() -> None:
    for name in GUARDED:
        for each in policies(name):
            rules = [*each["spec"].get("ingress", []), *each["spec"].get("egress", [])]
            assert all(
                isinstance(port["port"], int)
                for rule in rules
                for port in rule["ports"]
            )


def test_the_policy_in_the_readme_opens_what_istio_needs_and_nothing_else() -> None:
    (block,) = re.findall(
        r"```yaml\n([^`]*name: shop-istio\n[^`]*)```", (CHART / "README.md").read_text()
    )
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


def test_servers_elsewhere_are_reached() -> None:
    found = ends("external")
    for source in OF_DATABASES:
        assert allowed(policies("external"), found[source], host(DATABASE), 5432)
    for source in OF_BROKER:
        assert allowed(policies("external"), found[source], host(BROKER), 5671)
    for source in ("gateway", "dead", "redrive"):
        assert not allowed(policies("external"), found[source], host(DATABASE), 5432)
    assert not allowed(policies("external"), found["users"], INTERNET, 5432)
