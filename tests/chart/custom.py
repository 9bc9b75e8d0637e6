"""Schemas of the custom resources: those of upstream's CRDs, made as strict as kubernetes-validate is.

Gateway API v1.0, KEDA 2.10 and the Prometheus operator (dev/chart/tools.py). The API server drops what a
CRD does not know; here it is a mistake. What KEDA's scalers make of their metadata, no CRD says: that one is
by hand.
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
    """A map with these fields and no others; the required ones are named in one text."""
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
RABBITMQ = closed(
    "protocol queueName mode value",
    protocol={"const": "amqp"},
    hostFromEnv=TEXT,
    queueName=TEXT,
    mode={
        "enum": ["QueueLength"]
    },  # MessageRate asks RabbitMQ's HTTP API, which is not there
    value={"type": "string", "pattern": "^[1-9][0-9]*$"},  # of metadata all is text
)


@functools.cache
def validator(api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    path = FILES[api_version, kind]
    assert path.exists(), f"{path} is missing: `make test-chart` fetches it"
    schema = strict(json.loads(path.read_text()))
    schema["properties"]["metadata"] = METADATA
    if kind == "ScaledObject":
        trigger = schema["properties"]["spec"]["properties"]["triggers"]["items"][
            "properties"
        ]
        trigger |= {"type": {"const": "rabbitmq"}, "metadata": RABBITMQ}
    return jsonschema.Draft202012Validator(schema)


def strict(schema: Any) -> Any:
    """The schema, without room for fields that it does not name."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: strict(each) for key, each in schema.items()}
    is_map = (
        isinstance(schema.get("properties"), dict)
        and schema.get("type", "object") == "object"
    )
    return {"additionalProperties": False, **inner} if is_map else inner


def is_custom(found: Object) -> bool:
    return (found["apiVersion"], found["kind"]) in FILES


def fault(found: Object) -> str | None:
    """What is wrong with a custom resource."""
    errors = validator(found["apiVersion"], found["kind"]).iter_errors(found)
    return next((f"{each.json_path}: {each.message}" for each in errors), None)
