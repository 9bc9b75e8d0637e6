"""Schemas of the custom resources, as strict as kubernetes-validate is with Kubernetes' own.

Written by hand after the upstream CRDs, for the fields that the chart uses: what else stands in an
object is a mistake here. Gateway API v1, KEDA v2 (keda.sh/v1alpha1, its rabbitmq scaler), and
Prometheus operator (monitoring.coreos.com/v1).
"""

from typing import Any

import jsonschema

from tests.chart.helm import Object

NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", "maxLength": 253}
TEXT = {"type": "string", "minLength": 1}
TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
PORT = {"type": "integer", "minimum": 1, "maximum": 65535}
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
COUNT = {"type": "integer", "minimum": 0}


def closed(required: str = "", **fields: Any) -> dict[str, Any]:
    """A map with these fields and no others; the required ones are named in one text."""
    needed = required.split()
    return {"type": "object", "properties": fields, "required": needed, "additionalProperties": False}


def listed(items: dict[str, Any], most: int, least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


PATH = closed("type value", type={"enum": ["Exact", "PathPrefix"]}, value={"type": "string", "pattern": "^/"})
PARENT = closed("name", name=NAME, namespace=NAME, sectionName=NAME, port=PORT, group=TEXT, kind=TEXT)
SELECTOR = closed(
    matchLabels=TEXTS,
    matchExpressions=listed(
        closed("key operator", key=TEXT, operator=TEXT, values=listed(TEXT, most=99)), most=99
    ),
)
RABBITMQ = closed(
    "protocol queueName mode value",
    protocol={"const": "amqp"},
    hostFromEnv=TEXT,
    queueName=TEXT,
    mode={"enum": ["QueueLength"]},  # MessageRate asks RabbitMQ's HTTP API, which is not there
    value={"type": "string", "pattern": "^[1-9][0-9]*$"},  # of metadata all is text
)
SPECS = {
    ("gateway.networking.k8s.io/v1", "HTTPRoute"): closed(
        "parentRefs rules",
        parentRefs=listed(PARENT, most=32),
        hostnames=listed(NAME, most=16),
        rules=listed(
            closed(
                matches=listed(closed(path=PATH), most=64),
                backendRefs=listed(closed("name port", name=NAME, port=PORT), most=16),
            ),
            most=16,
        ),
    ),
    ("keda.sh/v1alpha1", "ScaledObject"): closed(
        "scaleTargetRef triggers",
        scaleTargetRef=closed("name", name=NAME),
        minReplicaCount=COUNT,
        maxReplicaCount=COUNT,
        triggers=listed(closed("type metadata", type={"const": "rabbitmq"}, metadata=RABBITMQ), most=99),
    ),
    ("monitoring.coreos.com/v1", "ServiceMonitor"): closed(
        "selector endpoints",
        jobLabel=TEXT,
        selector=SELECTOR,
        endpoints=listed(closed("port", port=TEXT, path=TEXT, interval=DURATION), most=9),
    ),
}
METADATA = closed("name labels", name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)


def is_custom(found: Object) -> bool:
    return (found["apiVersion"], found["kind"]) in SPECS


def fault(found: Object) -> str | None:
    """What is wrong with a custom resource."""
    spec = SPECS[found["apiVersion"], found["kind"]]
    schema = closed("apiVersion kind metadata spec", apiVersion=TEXT, kind=TEXT, metadata=METADATA, spec=spec)
    error = jsonschema.Draft202012Validator(schema).iter_errors(found)
    return next((f"{each.json_path}: {each.message}" for each in error), None)
