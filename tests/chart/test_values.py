"""Both versions of helm refuse wrong values, with a message that names the error."""

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from tests.chart.helm import CHART, DEFAULTS, VERSIONS, HelmError, merged, of, render
from tests.chart.test_kubernetes import KUBERNETES, faults

BOTH = pytest.mark.parametrize("version", VERSIONS)
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
# Maps that accept any key: the user chooses the keys, or Kubernetes checks the content.
OPEN_MAPS = {
    "additionalProperties",
    "nodeAffinity",
    "podAffinity",
    "podAntiAffinity",
    "podSelector",
    "namespaceSelector",
}
UNKNOWN = [
    "replica",
    "global.registry",
    "image.name",
    "serviceDefaults.replicaCount",
    "serviceDefaults.image",
    "services.shipping",
    "services.users.replica",
    "services.users.image.name",
    "services.users.livenessProbe.httpget",
    "services.users.podDisruptionBudget.max",
    "services.gateway.resources.request",
    "migrations.replicas",
    "ingress.hosts",
    "httpRoute.gateway",
    "httpRoute.timeouts.idle",
    "networkPolicy.from",
    "serviceMonitor.namespace",
    "postgresql.persistence.sizes",
    "postgresql.password",
    "externalPostgresql.password",
    "externalPostgresql.admin.password",
    "rabbitmq.replicas",
    "externalRabbitmq.uri",
    "tokenSecret.value",
    "trustedCA.ca",
    "audit.enabled",
    "test.enabled",
]


def of_users(values: dict[str, Any]) -> dict[str, Any]:
    """Return values of the service users."""
    return {"services": {"users": values}}


WRONG = {
    "replica counts are numbers": ("serviceDefaults.replicas", "two"),
    "replica counts are not negative": ("services.users.replicas", -1),
    "switches are booleans": ("ingress.enabled", "yes"),
    "maps are maps": ("services.users", ["replicas"]),
    "lists are lists": ("extraEnv", {"name": "LOG_LEVEL"}),
    "strings are strings": ("ingress.host", 7),
    "a currency has three letters": ("currency", "Euro"),
    "a level is a level of logging": ("logLevel", "LOUD"),
    "a pull policy is one of Kubernetes'": ("image.pullPolicy", "Sometimes"),
    "a schedule is a cron expression": ("audit.schedule", "every night"),
    "an address family exists": ("ipFamilies", ["IPv5"]),
    "a host has no port": ("externalPostgresql.host", "db:5432"),
    "an address has no brackets": ("externalRabbitmq.host", "[::1]"),
    "a port is at most 65535": ("externalPostgresql.port", 70000),
    "a digest is complete": ("services.users.image.digest", "sha256:abc"),
    "a tag has no space": ("image.tag", "a b"),
    "a quantity is a number": ("postgresql.persistence.size", "much"),
    "a label's value has no space": ("commonLabels.team", "a b"),
    "a label's key has no space": ("commonLabels", {"a b": "c"}),
    "an annotation's key has one prefix": ("podAnnotations", {"a/b/c": "d"}),
    "a wildcard has one level": ("ingress.tls", [{"hosts": ["*.*.example.org"]}]),
    "a host is in lower case": ("ingress.host", "Shop.example.org"),
    "a name has no empty part": ("priorityClassName", "a..b"),
    "a variable has a name": ("extraEnv", [{"value": "1"}]),
    "a variable is a string": ("extraEnv", [{"name": "DB_POOL_SIZE", "value": 12}]),
    "a probe is for its own pod": (
        "services.users.livenessProbe",
        {"tcpSocket": {"port": 1, "host": "a.org"}},
    ),
    "names leave room for suffixes": ("fullnameOverride", "a" * 41),
    "a timeout has a unit": ("httpRoute.timeouts.request", "60"),
    "a path starts with a slash": ("publicPaths", ["users"]),
    "an exact path starts with a slash": ("exactPublicPaths", ["page"]),
    "a budget allows an eviction": (
        "services.users.podDisruptionBudget.maxUnavailable",
        0,
    ),
}
# Values that contradict each other: a part of the message, and the values.
CONTRADICTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "two scalers for one service": (
        "autoscaling and keda",
        of_users({"autoscaling": {"enabled": True}, "keda": {"enabled": True}}),
    ),
    "scaling by queue without a queue": (
        "no queue",
        {"services": {"gateway": {"keda": {"enabled": True}}}},
    ),
    "more minReplicas than maxReplicas": (
        "more than maxReplicas",
        of_users({"autoscaling": {"enabled": True, "minReplicas": 5}}),
    ),
    "scaling by a share of no CPU": (
        "resources.requests.cpu",
        of_users(
            {
                "autoscaling": {"enabled": True},
                "resources": {"requests": {"cpu": None}},
            }
        ),
    ),
    "a stop delay as long as the stop": (
        "stopDelaySeconds",
        {"services": {"gateway": {"stopDelaySeconds": 20}}},
    ),
    "a kill before the end of the stop": (
        "terminationGracePeriodSeconds",
        {"services": {"gateway": {"terminationGracePeriodSeconds": 20}}},
    ),
    "a probe with two handlers": (
        "one handler",
        of_users(
            {"livenessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}
        ),
    ),
    "a budget that allows no eviction": (
        "podDisruptionBudget",
        of_users({"replicas": 1, "podDisruptionBudget": {"minAvailable": 1}}),
    ),
    "a name that is not allowed for a Service": (
        "start with a letter",
        {"fullnameOverride": "1st-shop"},
    ),
    "two families with SingleStack": (
        "ipFamilies names two",
        {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]},
    ),
    # Kubernetes would default to SingleStack.
    "two families without a policy": (
        "need ipFamilyPolicy",
        {"ipFamilies": ["IPv6", "IPv4"]},
    ),
    "no databases": ("externalPostgresql.host", {"postgresql": {"enabled": False}}),
    "databases without passwords": (
        "externalPostgresql.existingSecret",
        {"postgresql": {"enabled": False}, "externalPostgresql": {"host": "a"}},
    ),
    "databases twice": (
        "externalPostgresql is set",
        {"externalPostgresql": {"host": "a"}},
    ),
    "a pooler for the chart's own databases": (
        "externalPostgresql is set",
        {"externalPostgresql": {"direct": {"host": "a"}}},
    ),
    "parameters of unused databases": (
        "externalPostgresql is set",
        {"externalPostgresql": {"parameters": "sslmode=require"}},
    ),
    "passwords of the chart's own databases for external ones": (
        "externalPostgresql.existingSecret",
        {
            "postgresql": {"enabled": False, "existingSecret": "a"},
            "externalPostgresql": {"host": "a", "existingSecret": "b"},
        },
    ),
    "no broker": ("externalRabbitmq.host", {"rabbitmq": {"enabled": False}}),
    "a broker without passwords": (
        "externalRabbitmq.existingSecret",
        {"rabbitmq": {"enabled": False}, "externalRabbitmq": {"host": "a"}},
    ),
    "a broker twice": ("externalRabbitmq is set", {"externalRabbitmq": {"host": "a"}}),
    "passwords of an unused broker": (
        "externalRabbitmq is set",
        {"externalRabbitmq": {"existingSecret": "a"}},
    ),
    "passwords of the chart's own broker for an external one": (
        "externalRabbitmq.existingSecret",
        {
            "rabbitmq": {"enabled": False, "existingSecret": "a"},
            "externalRabbitmq": {"host": "a", "existingSecret": "b"},
        },
    ),
    "passwords twice": (
        "makeDefinitions",
        {
            "rabbitmq": {"enabled": False},
            "externalRabbitmq": {
                "host": "a",
                "existingSecret": "b",
                "makeDefinitions": True,
            },
        },
    ),
    "permitPrevious with the user's own definitions": (
        "rabbitmq.permitPrevious",
        {"rabbitmq": {"existingSecret": "a", "permitPrevious": True}},
    ),
    "permitPrevious on the chart's unused broker": (
        "externalRabbitmq.permitPrevious",
        {
            "rabbitmq": {"enabled": False, "permitPrevious": True},
            "externalRabbitmq": {"host": "a", "makeDefinitions": True},
        },
    ),
    "unrestricted users on the chart's unused broker": (
        "externalRabbitmq.restrictedUsers",
        {
            "rabbitmq": {"enabled": False, "restrictedUsers": False},
            "externalRabbitmq": {"host": "a", "makeDefinitions": True},
        },
    ),
    "unrestricted users on an unused external broker": (
        "externalRabbitmq is set",
        {"externalRabbitmq": {"restrictedUsers": False}},
    ),
    "permitPrevious without definitions": (
        "makeDefinitions=false",
        {
            "rabbitmq": {"enabled": False},
            "externalRabbitmq": {
                "host": "a",
                "existingSecret": "b",
                "permitPrevious": True,
            },
        },
    ),
    "a CA for no server": ("is not used", {"trustedCA": {"existingSecret": "a"}}),
    "a CA for servers without TLS": (
        "is not used",
        {
            "rabbitmq": {"enabled": False},
            "externalRabbitmq": {"host": "a", "existingSecret": "b"},
            "trustedCA": {"existingSecret": "a"},
        },
    ),
    "a CA twice": (
        "set one of them",
        {"trustedCA": {"existingSecret": "a", "existingConfigMap": "b"}},
    ),
    "a route without a Gateway": ("parentRefs", {"httpRoute": {"enabled": True}}),
    "a variable of the chart's own": (
        "AMQP_URI",
        {"extraEnv": [{"name": "AMQP_URI", "value": "a"}]},
    ),
    "a file beside the chart's variable": (
        "AMQP_URI_FILE is set",
        {"extraEnv": [{"name": "AMQP_URI_FILE", "value": "/run/secrets/amqp"}]},
    ),
    "a variable twice": (
        "DB_POOL_SIZE",
        {
            "extraEnv": [{"name": "DB_POOL_SIZE", "value": "1"}],
            **of_users({"extraEnv": [{"name": "DB_POOL_SIZE", "value": "2"}]}),
        },
    ),
    "the latest image": ("latest", {"image": {"tag": "latest"}}),
    "the latest image of one service": (
        "latest",
        of_users({"image": {"tag": "latest"}}),
    ),
    "the latest database": ("latest", {"postgresql": {"image": {"tag": "latest"}}}),
}


def at(path: str, value: Any) -> dict[str, Any]:
    """Return nested maps with a value at a dotted path."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


@BOTH
@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_key_is_refused_by_name(path: str, version: str) -> None:
    with pytest.raises(HelmError, match=path.rpartition(".")[2]):
        render(at(path, "a"), version)


@BOTH
@pytest.mark.parametrize("rule", WRONG)
def test_a_wrong_value_is_refused_by_path(rule: str, version: str) -> None:
    path, value = WRONG[rule]
    message = rf"(?s)values don't meet.*{path.rpartition('.')[2]}"
    with pytest.raises(HelmError, match=message):
        render(at(path, value), version)


@BOTH
@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictory_values_are_refused(name: str, version: str) -> None:
    message, values = CONTRADICTIONS[name]
    with pytest.raises(HelmError, match=message):
        render(values, version)


@BOTH
def test_a_release_name_not_allowed_for_a_service_is_refused(version: str) -> None:
    with pytest.raises(HelmError, match="fullnameOverride"):
        render({}, version, release="shop.v1")
    assert render({"fullnameOverride": "shop-v1"}, version, release="shop.v1")


@BOTH
def test_a_large_number_in_a_file_stays_an_integer(version: str) -> None:
    """helm reads numbers in a file as floats, and would print 2592000 as 2.592e+06."""
    values = {
        "migrations": {
            "activeDeadlineSeconds": 3000000,
            "ttlSecondsAfterFinished": 2592000,
        },
        **of_users({"keda": {"enabled": True, "queueLength": 1000000}}),
        "networkPolicy": {"rabbitmqFrom": [{"namespaceSelector": {}}]},
    }
    found = render(values, version)
    jobs = [each["spec"] for each in of(found, "Job")]
    jobs += [each["spec"]["jobTemplate"]["spec"] for each in of(found, "CronJob")]
    assert {repr(each["ttlSecondsAfterFinished"]) for each in jobs} == {"2592000"}
    assert repr(jobs[0]["activeDeadlineSeconds"]) == "3000000"
    (scaled,) = of(found, "ScaledObject")
    assert scaled["spec"]["triggers"][0]["metadata"]["value"] == "1000000"


def places(values: Any, path: str = "") -> Iterator[str]:
    """Yield the dotted paths of all values, and of the maps that contain them."""
    for key, inner in values.items():
        yield f"{path}.{key}".removeprefix(".")
        if isinstance(inner, dict):
            yield from places(inner, f"{path}.{key}")


# Optional values: Kubernetes has its own default, or serviceDefaults has one.
OPTIONAL = re.compile(r"(.*\.resources|serviceDefaults\.\w+Probe|services)\..*")


@pytest.mark.parametrize(
    "path", [path for path in places(DEFAULTS) if not OPTIONAL.fullmatch(path)]
)
def test_removing_a_required_value_is_an_error(path: str) -> None:
    """`null`, or a key without content, removes a default."""
    missing = jsonschema.Draft7Validator(SCHEMA).iter_errors(merged(at(path, None)))
    assert [error.validator for error in missing] == ["required"]


@BOTH
@pytest.mark.parametrize(
    "path",
    ["postgresql", "global", "networkPolicy.enabled", "serviceDefaults.keda.enabled"],
)
def test_helm_names_the_missing_value(path: str, version: str) -> None:
    message = rf"(?s)values don't meet.*{path.rpartition('.')[2]}"
    with pytest.raises(HelmError, match=message):
        render(at(path, None), version)


@pytest.mark.parametrize(
    "path", [path for path in places(DEFAULTS) if OPTIONAL.fullmatch(path)]
)
def test_without_an_optional_value_objects_are_valid(path: str) -> None:
    assert faults(render(at(path, None)), KUBERNETES[-1]) == []


def maps(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield all schemas of maps in a schema, with their paths."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, inner in schema.items():
            yield from maps(inner, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from maps(inner, f"{path}.{index}")


def test_every_map_of_the_schema_is_closed_or_explicitly_open() -> None:
    found = dict(maps(SCHEMA))
    assert len(found) > 20
    for path, schema in found.items():
        is_explicit = "additionalProperties" in schema
        assert is_explicit or path.rpartition(".")[2] in OPEN_MAPS, path


def test_the_defaults_are_valid() -> None:
    assert render(DEFAULTS)
