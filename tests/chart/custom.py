"""Schemas of the custom resources: upstream's CRDs, made as strict as kubernetes-validate.

They are those of Gateway API v1.0, KEDA 2.10 and the Prometheus operator (dev/chart/tools.py). The
API server drops fields that a CRD does not know. Here they are errors. No CRD describes the
metadata of KEDA's scalers, so RABBITMQ does.
"""

import functools
import json
from typing import Any

import jsonschema

from dev.chart.tools import CRDS
from tests.chart.helm import Object

FILES = {(crd.api_version, crd.kind): crd.path for crd in CRDS}
NAME = {
    "type": "string",
    "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$",
    "maxLength": 253,
}
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}


def closed(required: str = "", **fields: Any) -> dict[str, Any]:
    """Return the schema of a map with these fields only; `required` is space-separated."""
    needed = required.split()
    return {
        "type": "object",
        "properties": fields,
        "required": needed,
        "additionalProperties": False,
    }


METADATA = closed(
    "name labels", name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS
)
# The metadata of KEDA's RabbitMQ scaler, in which every value is a string. The mode MessageRate
# would need RabbitMQ's HTTP API, which the chart does not start.
RABBITMQ = closed(
    "protocol queueName mode value",
    protocol={"const": "amqp"},
    hostFromEnv=TEXT,
    queueName=TEXT,
    mode={"enum": ["QueueLength"]},
    value={"type": "string", "pattern": "^[1-9][0-9]*$"},
)


@functools.cache
def validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    path = FILES[api_version, kind]
    assert path.exists(), f"{path} is missing: `make test-chart` fetches it"
    schema = strict(json.loads(path.read_text()))
    schema["properties"]["metadata"] = METADATA
    if kind == "ScaledObject":
        triggers = schema["properties"]["spec"]["properties"]["triggers"]
        trigger = triggers["items"]["properties"]
        trigger |= {"type": {"const": "rabbitmq"}, "metadata": RABBITMQ}
    return jsonschema.Draft202012Validator(schema)


def strict(schema: Any) -> Any:
    """Return the schema with unknown fields forbidden."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(each) for key, each in schema.items()}
    has_fields = isinstance(schema.get("properties"), dict)
    is_map = has_fields and schema.get("type", "object") == "object"
    return {"additionalProperties": False, **inner} if is_map else inner


def is_custom(found: Object) -> bool:
    return (found["apiVersion"], found["kind"]) in FILES


def fault(found: Object) -> str | None:
    """Return the first schema error of a custom resource, or None."""
    errors = validator(found["apiVersion"], found["kind"]).iter_errors(found)
    return next((f"{each.json_path}: {each.message}" for each in errors), None)
