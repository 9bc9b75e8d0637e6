"""Every object is one that Kubernetes takes, from the oldest to the newest version that is promised."""

import functools
import json
from copy import deepcopy
from typing import Any

import pytest
from kubernetes_validate import SchemaNotFoundError, ValidationError, utils, validate

from tests.chart import custom
from tests.chart.helm import SETS, Object, name_of, objects

KUBERNETES = ("1.28", "1.32", "1.36")
# The schemas are megabytes of JSON, read anew for each object otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)


@functools.cache
def _fault(text: str, version: str) -> str | None:
    try:
        validate(json.loads(text), version, strict=True)
    except (ValidationError, SchemaNotFoundError) as exc:
        return f"{'.'.join(map(str, getattr(exc, 'path', ())))}: {exc.message}"
    return None


def faults(found: list[Object], version: str) -> list[str]:
    """What Kubernetes' own schemas, strictly, and those of upstream's CRDs do not allow in these objects."""
    checked = [(each, _any_fault(each, version)) for each in found]
    return [
        f"{each['kind']}/{name_of(each)}: {fault}" for each, fault in checked if fault
    ]


def _any_fault(found: Object, version: str) -> str | None:
    return (
        custom.fault(found)
        if custom.is_custom(found)
        else _fault(json.dumps(found, sort_keys=True), version)
    )


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_takes_every_object(name: str, version: str) -> None:
    assert faults(objects(name), version) == []


# What upstream's schemas refuse of each custom resource of the chart: a path in it, and another value there.
WRONG_CUSTOM: dict[str, tuple[str, Any]] = {
    "HTTPRoute.spec.rules.0.matches.0.path.type": ("gateway-api", "Prefix"),
    "HTTPRoute.spec.rules.0.backendRefs.0.port": ("gateway-api", "http"),
    "HTTPRoute.spec.parents": ("gateway-api", []),
    "ScaledObject.spec.minReplicaCount": ("scaling", "1"),
    "ScaledObject.spec.triggers.0.type": ("scaling", "rabbit"),
    "ScaledObject.spec.triggers.0.metadata.value": ("scaling", 50),
    "ScaledObject.spec.scaleTargetRef.deployment": ("scaling", "shop-orders"),
    "ServiceMonitor.spec.endpoints.0.port": ("closed", 8001),
    "ServiceMonitor.spec.endpoints.0.scrape": ("closed", "30s"),
    "ServiceMonitor.spec.selector.labels": ("closed", {}),
}


@pytest.mark.parametrize("place", WRONG_CUSTOM)
def test_what_a_crd_refuses_is_noticed(place: str) -> None:
    name, value = WRONG_CUSTOM[place]
    kind, *path, last = (
        int(step) if step.isdigit() else step for step in place.split(".")
    )
    (found, *_) = deepcopy([each for each in objects(name) if each["kind"] == kind])
    assert faults([found], KUBERNETES[0]) == []
    target: Any = found
    for step in path:
        target = target[step]
    target[last] = value
    assert faults([found], KUBERNETES[0])


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize(
    "wrong",
    [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "a"},
            "spec": {"selectors": {}},
        },
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "a"},
            "data": {"count": 1},
        },
        {
            "apiVersion": "policy/v1beta1",
            "kind": "PodDisruptionBudget",
            "metadata": {"name": "a"},
        },
        {"apiVersion": "keda.sh/v1", "kind": "ScaledObject", "metadata": {"name": "a"}},
    ],
    ids=[
        "an unknown key",
        "a wrong type",
        "a version that is gone",
        "one that never was",
    ],
)
def test_what_kubernetes_refuses_is_noticed(
    wrong: dict[str, Any], version: str
) -> None:
    assert faults([wrong], version)
