"""With all values that the schema allows, the objects are valid and keep the properties."""

from typing import Any

from hypothesis import HealthCheck, given, note, settings

from tests.chart.helm import (
    Object,
    component,
    containers,
    name_of,
    of,
    pods,
    render,
    selects,
)
from tests.chart.pod_security import violations
from tests.chart.strategies import PARTS, values
from tests.chart.test_kubernetes import KUBERNETES, faults
from tests.chart.test_pods import HANDLERS, PROBES, allowed_evictions, min_replicas
from tests.chart.test_references import missing

# Each example takes a quarter of a second.
MAX_EXAMPLES = 120


@settings(
    max_examples=MAX_EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(values(), PARTS)
def test_allowed_values_render_valid_objects(
    given_values: dict[str, Any], release: str
) -> None:
    found = render(given_values, release=release)
    for version in KUBERNETES:
        assert faults(found, version) == []
    check_names(found)
    for made_by, pod in pods(found).items():
        note(made_by)
        assert violations({"metadata": {}, **pod}) == []
        check_containers(pod, given_values)
    check_selectors(found)
    check_budgets(found)
    assert missing(found, given_values) == []


def check_names(found: list[Object]) -> None:
    names = [(each["kind"], name_of(each)) for each in found]
    assert len(names) == len(set(names))
    for kind, name in names:
        # A longer name makes a label of a pod or a host name too long.
        assert len(name) <= (52 if kind in ("StatefulSet", "CronJob") else 63)


def check_containers(pod: Object, given_values: dict[str, Any]) -> None:
    registry = given_values.get("global", {}).get("imageRegistry")
    for container in containers(pod):
        assert not container["image"].endswith((":latest", ":"))
        assert not registry or container["image"].startswith(f"{registry}/")
        names = [variable["name"] for variable in container.get("env", [])]
        assert len(names) == len(set(names))
        for probe in PROBES:
            assert len(container.get(probe, {"exec": None}).keys() & HANDLERS) == 1


def check_selectors(found: list[Object]) -> None:
    for each in of(found, "Deployment", "StatefulSet"):
        selected = [
            made_by
            for made_by, pod in pods(found).items()
            if selects(each["spec"]["selector"], pod)
        ]
        assert selected == [f"{each['kind']}/{name_of(each)}"]
    for each in of(found, "Service"):
        selector = {"matchLabels": each["spec"]["selector"]}
        selected = [pod for pod in pods(found).values() if selects(selector, pod)]
        assert [component(pod) for pod in selected] == [component(each)]


def check_budgets(found: list[Object]) -> None:
    for budget in of(found, "PodDisruptionBudget"):
        (guarded,) = [
            each
            for each in of(found, "Deployment")
            if selects(budget["spec"]["selector"], each["spec"]["template"])
        ]
        assert allowed_evictions(budget["spec"], min_replicas(found, guarded)) >= 1
