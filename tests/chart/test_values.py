"""Values that are wrong are refused with words that say what is wrong, by both versions of helm."""

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
# Of these maps any key is the user's own, or Kubernetes checks what is inside.
FREE = {
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
WRONG = {
    "replica counts are numbers": ("serviceDefaults.replicas", "two"),
    "replica counts are not negative": ("services.users.replicas", -1),
    "switches are booleans": ("ingress.enabled", "yes"),
    "maps are maps": ("services.users", ["replicas"]),
    "lists are lists": ("extraEnv", {"name": "LOG_LEVEL"}),
    "texts are texts": ("ingress.host", 7),
    "a currency has three letters": ("currency", "Euro"),
    "a level is one of logging's": ("logLevel", "LOUD"),
    "a policy is one of Kubernetes'": ("image.pullPolicy", "Sometimes"),
    "a schedule is one": ("audit.schedule", "every night"),
    "an address family is one": ("ipFamilies", ["IPv5"]),
    "a host has no port": ("externalPostgresql.host", "db:5432"),
    "an address has no brackets": ("externalRabbitmq.host", "[::1]"),
    "a port is one": ("externalPostgresql.port", 70000),
    "a digest is one": ("services.users.image.digest", "sha256:abc"),
    "a tag is one": ("image.tag", "a b"),
    "a quantity is one": ("postgresql.persistence.size", "much"),
    "a label's value is one": ("commonLabels.team", "a b"),
    "a label's key is one": ("commonLabels", {"a b": "c"}),
    "an annotation's key has one prefix": ("podAnnotations", {"a/b/c": "d"}),
    "a wildcard is of one level": ("ingress.tls", [{"hosts": ["*.*.example.org"]}]),
    "a host is written small": ("ingress.host", "Shop.example.org"),
    "a name has no empty part": ("priorityClassName", "a..b"),
    "a variable has a name": ("extraEnv", [{"value": "1"}]),
    "a variable is a text": ("extraEnv", [{"name": "DB_POOL_SIZE", "value": 12}]),
    "a probe asks nobody else": (
        "services.users.livenessProbe",
        {"tcpSocket": {"port": 1, "host": "a.org"}},
    ),
    "names leave room for what follows": ("fullnameOverride", "a" * 41),
    "a path starts with a slash": ("publicPaths", ["users"]),
    "a budget lets somebody go": (
        "services.users.podDisruptionBudget.maxUnavailable",
        0,
    ),
}
# Values that are well formed each and do not go together: what is said, and the values.
TOGETHER: dict[str, tuple[str, dict[str, Any]]] = {
    "two that scale one service": (
        "autoscaling and keda",
        {
            "services": {
                "users": {"autoscaling": {"enabled": True}, "keda": {"enabled": True}}
            }
        },
    ),
    "a queue for a service that has none": (
        "no queue",
        {"services": {"gateway": {"keda": {"enabled": True}}}},
    ),
    "more at least than at most": (
        "more than maxReplicas",
        {"services": {"users": {"autoscaling": {"enabled": True, "minReplicas": 5}}}},
    ),
    "a share of nothing": (
        "resources.requests.cpu",
        {
            "services": {
                "users": {
                    "autoscaling": {"enabled": True},
                    "resources": {"requests": {"cpu": None}},
                }
            }
        },
    ),
    "a stop that is over before it ends": (
        "stopDelaySeconds",
        {"services": {"gateway": {"stopDelaySeconds": 20}}},
    ),
    "a kill before the stop is over": (
        "terminationGracePeriodSeconds",
        {"services": {"gateway": {"terminationGracePeriodSeconds": 20}}},
    ),
    "a probe of two kinds": (
        "one handler",
        {
            "services": {
                "users": {
                    "livenessProbe": {
                        "exec": {"command": ["a"]},
                        "tcpSocket": {"port": 1},
                    }
                }
            }
        },
    ),
    "a budget that lets nobody go": (
        "podDisruptionBudget",
        {
            "services": {
                "users": {"replicas": 1, "podDisruptionBudget": {"minAvailable": 1}}
            }
        },
    ),
    "a name that no Service may have": (
        "start with a letter",
        {"fullnameOverride": "1st-shop"},
    ),
    "one family that is two": (
        "ipFamilies names two",
        {"ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4", "IPv6"]},
    ),
    "two families without a policy, which Kubernetes takes for one": (
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
    "a pooler's server for databases that are the chart's own": (
        "externalPostgresql is set",
        {"externalPostgresql": {"direct": {"host": "a"}}},
    ),
    "parameters of databases that are not used": (
        "externalPostgresql is set",
        {"externalPostgresql": {"parameters": "sslmode=require"}},
    ),
    "passwords of the chart's own databases for others": (
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
    "passwords of a broker that is not used": (
        "externalRabbitmq is set",
        {"externalRabbitmq": {"existingSecret": "a"}},
    ),
    "passwords of the chart's own broker for another": (
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
    "rights of the previous version in definitions of the user's own": (
        "rabbitmq.permitPrevious",
        {"rabbitmq": {"existingSecret": "a", "permitPrevious": True}},
    ),
    "rights of the previous version on a broker that is not used": (
        "externalRabbitmq.permitPrevious",
        {
            "rabbitmq": {"enabled": False, "permitPrevious": True},
            "externalRabbitmq": {"host": "a", "makeDefinitions": True},
        },
    ),
    "users with more rights on a broker that is not used": (
        "externalRabbitmq.restrictedUsers",
        {
            "rabbitmq": {"enabled": False, "restrictedUsers": False},
            "externalRabbitmq": {"host": "a", "makeDefinitions": True},
        },
    ),
    "users with more rights on a broker that is elsewhere, which is not used": (
        "externalRabbitmq is set",
        {"externalRabbitmq": {"restrictedUsers": False}},
    ),
    "rights of the previous version in no definitions": (
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
    "a CA for nothing": ("in vain", {"trustedCA": {"existingSecret": "a"}}),
    "a CA for a server that is not encrypted": (
        "in vain",
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
    "a route of no Gateway": ("parentRefs", {"httpRoute": {"enabled": True}}),
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
            "services": {
                "users": {"extraEnv": [{"name": "DB_POOL_SIZE", "value": "2"}]}
            },
        },
    ),
    "the latest image": ("latest", {"image": {"tag": "latest"}}),
    "the latest image of one service": (
        "latest",
        {"services": {"users": {"image": {"tag": "latest"}}}},
    ),
    "the latest database": ("latest", {"postgresql": {"image": {"tag": "latest"}}}),
}


def at(path: str, value: Any) -> dict[str, Any]:
    """`a.b` and a value as nested maps."""
    for part in reversed(path.split(".")):
        value = {part: value}
    return value


@BOTH
@pytest.mark.parametrize("path", UNKNOWN)
def test_a_key_that_is_not_known_is_refused_and_named(path: str, version: str) -> None:
    with pytest.raises(HelmError, match=path.rpartition(".")[2]):
        render(at(path, "a"), version)


@BOTH
@pytest.mark.parametrize("rule", WRONG)
def test_a_wrong_value_is_refused_and_its_place_named(rule: str, version: str) -> None:
    path, value = WRONG[rule]
    with pytest.raises(
        HelmError, match=rf"(?s)values don't meet.*{path.rpartition('.')[2]}"
    ):
        render(at(path, value), version)


@BOTH
@pytest.mark.parametrize("what", TOGETHER)
def test_values_that_do_not_go_together_are_refused_with_words(
    what: str, version: str
) -> None:
    words, values = TOGETHER[what]
    with pytest.raises(HelmError, match=words):
        render(values, version)


@BOTH
def test_a_release_whose_name_no_service_may_have_is_refused(version: str) -> None:
    with pytest.raises(HelmError, match="fullnameOverride"):
        render({}, version, release="shop.v1")
    assert render({"fullnameOverride": "shop-v1"}, version, release="shop.v1")


@BOTH
def test_a_large_number_of_a_file_stays_one(version: str) -> None:
    """helm reads the numbers of a file as fractions, and would print 2592000, a month, as 2.592e+06."""
    values = {
        "migrations": {
            "activeDeadlineSeconds": 3000000,
            "ttlSecondsAfterFinished": 2592000,
        },
        "services": {"users": {"keda": {"enabled": True, "queueLength": 1000000}}},
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
    """The dotted paths of all values, and of the maps that they are in."""
    for key, inner in values.items():
        yield f"{path}.{key}".removeprefix(".")
        if isinstance(inner, dict):
            yield from places(inner, f"{path}.{key}")


# What may be left out: Kubernetes has a default of its own, or serviceDefaults have.
UNSET = re.compile(r"(.*\.resources|serviceDefaults\.\w+Probe|services)\..*")


@pytest.mark.parametrize(
    "path", [path for path in places(DEFAULTS) if not UNSET.fullmatch(path)]
)
def test_a_value_that_is_taken_away_is_missed(path: str) -> None:
    """`null` does it, and so does a key with nothing below it; else it would be empty without a word."""
    missing = jsonschema.Draft7Validator(SCHEMA).iter_errors(merged(at(path, None)))
    assert [error.validator for error in missing] == ["required"]


@BOTH
@pytest.mark.parametrize(
    "path",
    ["postgresql", "global", "networkPolicy.enabled", "serviceDefaults.keda.enabled"],
)
def test_helm_says_which_value_is_missing(path: str, version: str) -> None:
    with pytest.raises(
        HelmError, match=rf"(?s)values don't meet.*{path.rpartition('.')[2]}"
    ):
        render(at(path, None), version)


@pytest.mark.parametrize(
    "path", [path for path in places(DEFAULTS) if UNSET.fullmatch(path)]
)
def test_what_may_be_left_out_leaves_valid_objects(path: str) -> None:
    assert faults(render(at(path, None)), KUBERNETES[-1]) == []


def maps(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """All schemas of maps inside a schema, by where they stand."""
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield path, schema
        for key, inner in schema.items():
            yield from maps(inner, f"{path}.{key}")
    elif isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from maps(inner, f"{path}.{index}")


def test_every_map_of_the_schema_is_closed_or_meant_to_be_open() -> None:
    found = dict(maps(SCHEMA))
    assert len(found) > 20
    for path, schema in found.items():
        is_open = schema.get("additionalProperties", True) is not False
        assert (
            not is_open
            or "additionalProperties" in schema
            or path.rpartition(".")[2] in FREE
        ), path


def test_the_defaults_alone_meet_the_schema() -> None:
    assert render(DEFAULTS)
