"""Every object is one that Kubernetes takes, from the oldest to the newest version that is promised."""

import functools
import json
from typing import Any

import pytest
from kubernetes_validate import SchemaNotFoundError, ValidationError, utils, validate

from tests.chart.helm import SETS, Object, name_of, objects

KUBERNETES = ("1.28", "1.32", "1.36")
# What Kubernetes itself does not know and no schema of its own describes: checked by hand, below.
CUSTOM = {
    "gateway.networking.k8s.io/v1": {"HTTPRoute"},
    "keda.sh/v1alpha1": {"ScaledObject", "TriggerAuthentication"},
    "monitoring.coreos.com/v1": {"ServiceMonitor"},
}

# The schemas are megabytes of JSON, read anew for each object otherwise.
utils.schema_contents = functools.cache(utils.schema_contents)


def is_custom(found: Object) -> bool:
    return found["kind"] in CUSTOM.get(found["apiVersion"], ())


@functools.cache
def _fault(text: str, version: str) -> str | None:
    try:
        validate(json.loads(text), version, strict=True)
    except (ValidationError, SchemaNotFoundError) as exc:
        return f"{'.'.join(map(str, getattr(exc, 'path', ())))}: {exc.message}"
    return None


def faults(found: list[Object], version: str) -> list[str]:
    """What Kubernetes' own schemas, strictly, do not allow in these objects."""
    built_in = [each for each in found if not is_custom(each)]
    checked = [(each, _fault(json.dumps(each, sort_keys=True), version)) for each in built_in]
    return [f"{each['kind']}/{name_of(each)}: {fault}" for each, fault in checked if fault]


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_takes_every_object(name: str, version: str) -> None:
    assert faults(objects(name), version) == []


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize(
    "wrong",
    [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "a"}, "spec": {"selectors": {}}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"count": 1}},
        {"apiVersion": "policy/v1beta1", "kind": "PodDisruptionBudget", "metadata": {"name": "a"}},
    ],
    ids=["an unknown key", "a wrong type", "a version that is gone"],
)
def test_what_kubernetes_refuses_is_noticed(wrong: dict[str, Any], version: str) -> None:
    assert faults([wrong], version)
