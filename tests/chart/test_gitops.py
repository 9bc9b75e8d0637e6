"""`helm template | kubectl apply`, as GitOps tools do.

helm sees no cluster then, and counts no revisions.
"""

from typing import Any

import pytest

from tests.chart.helm import (
    CHART,
    NAMESPACE,
    RELEASE,
    VERSIONS,
    Object,
    helm,
    merged,
    name_of,
    of,
    parse,
    render,
    text,
    user_values,
    values_of,
)

# The fields that Kubernetes refuses to change, by kind.
IMMUTABLE = {
    "Deployment": ("selector",),
    "StatefulSet": (
        "selector",
        "serviceName",
        "podManagementPolicy",
        "volumeClaimTemplates",
    ),
    "Job": ("selector", "template", "completionMode", "backoffLimitPerIndex"),
}
CHANGES: dict[str, dict[str, Any]] = {
    "another image": {"image": {"tag": "9.9.9"}},
    "a variable": {"extraEnv": [{"name": "RPC_TIMEOUT_S", "value": "4"}]},
    "a node selector": {"nodeSelector": {"disk": "ssd"}},
    "more replicas, so other limits in databases.sql": {
        "serviceDefaults": {"replicas": 9}
    },
    "a registry": {"global": {"imageRegistry": "registry.example.org"}},
    "another currency": {"currency": "USD"},
    "the platform's users": {"fixedUserIds": False},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_with_given_secrets_equal_values_render_equally(version: str) -> None:
    """The manifests contain nothing random, and no time."""
    options = ("--namespace", NAMESPACE, *values_of("secrets"))
    output = helm(version, "template", RELEASE, CHART, *options)
    assert output == text("secrets", version)


def test_without_given_secrets_only_secrets_differ() -> None:
    first, second = by_name(render({})), by_name(render({}))
    keys = first.keys() | second.keys()
    different = {key for key in keys if first.get(key) != second.get(key)}
    secrets = ("shop-gateway", "shop-postgresql", "shop-rabbitmq")
    assert different == {("Secret", name) for name in secrets}


@pytest.mark.parametrize("change", CHANGES)
def test_a_second_apply_changes_no_immutable_field(change: str) -> None:
    before = by_name(render(user_values("secrets")))
    after = render(together(user_values("secrets"), CHANGES[change]))
    for each in of(after, *IMMUTABLE):
        old = before.get((each["kind"], name_of(each)))
        assert old is None or immutable(old) == immutable(each), name_of(each)
    assert jobs(after) != jobs(list(before.values()))


def test_a_change_unrelated_to_migrations_makes_no_new_job() -> None:
    before = render(user_values("secrets"))
    change = {"ingress": {"host": "shop.example.org"}}
    after = render(together(user_values("secrets"), change))
    assert before != after
    assert jobs(before) == jobs(after)


def test_the_readmes_command_leaves_out_the_pod_of_the_test() -> None:
    readme = (CHART / "README.md").read_text()
    assert "helm template shop charts/shop --skip-tests" in readme
    options = ("--namespace", NAMESPACE, "--skip-tests")
    for version in VERSIONS:
        output = helm(version, "template", RELEASE, CHART, *options)
        assert not of(parse(output), "Pod")


def by_name(found: list[Object]) -> dict[tuple[str, str], Object]:
    return {(each["kind"], name_of(each)): each for each in found}


def immutable(found: Object) -> dict[str, Any]:
    return {key: found["spec"].get(key) for key in IMMUTABLE[found["kind"]]}


def jobs(found: list[Object]) -> set[str]:
    return {name_of(each) for each in of(found, "Job")}


def together(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both: dict[str, Any] = merged(more, values)
    return both
