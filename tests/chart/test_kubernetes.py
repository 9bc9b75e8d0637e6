"""Kubernetes accepts every object, from the oldest to the newest supported version."""

import functools
import json
from copy import deepcopy
from typing import Any

import pytest
from kubernetes_validate import SchemaNotFoundError, ValidationError, utils, validate

from tests.chart import custom
from tests.chart.helm import SETS, Object, name_of, objects

KUBERNETES = ("1.28", "1.32", "1.36")
# The schemas are megabytes of JSON. Without the cache they are read again for each object.
utils.schema_contents = functools.cache(utils.schema_contents)


@functools.cache
def _fault(text: str, version: str) -> str | None:
    try:
        validate(json.loads(text), version, strict=True)
    except (ValidationError, SchemaNotFoundError) as exc:
        return f"{'.'.join(map(str, getattr(exc, 'path', ())))}: {exc.message}"
    return None


def faults(found: list[Object], version: str) -> list[str]:
    """Return the errors by the strict schemas of Kubernetes and of upstream's CRDs."""
    checked = [(each, _any_fault(each, version)) for each in found]
    return [
        f"{each['kind']}/{name_of(each)}: {fault}" for each, fault in checked if fault
    ]


def _any_fault(found: Object, version: str) -> str | None:
    if custom.is_custom(found):
        return custom.fault(found)
    return _fault(json.dumps(found, sort_keys=True), version)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_accepts_every_object(name: str, version: str) -> None:
    assert faults(objects(name), version) == []


# Errors in custom resources that upstream's schemas refuse: the path, the set of values and the
# wrong value.
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
def test_an_invalid_custom_resource_is_noticed(place: str) -> None:
    name, value = WRONG_CUSTOM[place]
    steps = place.split(".")
    kind, *path, last = (int(each) if each.isdigit() else each for each in steps)
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
    ids=["unknown key", "wrong type", "removed version", "unknown version"],
)
def test_an_invalid_object_is_noticed(wrong: dict[str, Any], version: str) -> None:
    assert faults([wrong], version)
