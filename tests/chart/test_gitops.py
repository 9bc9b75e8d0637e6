"""`helm template | kubectl apply`, as GitOps tools do: helm sees no cluster and counts no revisions."""

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
FIXED = {
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
    "a place": {"nodeSelector": {"disk": "ssd"}},
    "more copies, so other limits in databases.sql": {
        "serviceDefaults": {"replicas": 9}
    },
    "a registry": {"global": {"imageRegistry": "registry.example.org"}},
    "another currency": {"currency": "USD"},
    "the platform's users": {"fixedUserIds": False},
}


@pytest.mark.parametrize("version", VERSIONS)
def test_equal_values_with_secrets_of_ones_own_are_rendered_alike(version: str) -> None:
    """Nothing in it is random, and no time is in it."""
    arguments = (
        "template",
        RELEASE,
        CHART,
        "--namespace",
        NAMESPACE,
        *values_of("secrets"),
    )
    assert helm(version, *arguments) == text("secrets", version)


def test_without_them_the_secrets_alone_differ() -> None:
    first, second = (
        {(each["kind"], name_of(each)): each for each in render({})} for _ in range(2)
    )
    different = {
        key for key in first.keys() | second.keys() if first.get(key) != second.get(key)
    }
    assert different == {
        ("Secret", name)
        for name in ("shop-gateway", "shop-postgresql", "shop-rabbitmq")
    }


@pytest.mark.parametrize("change", CHANGES)
def test_a_second_apply_changes_nothing_that_is_fixed(change: str) -> None:
    before = {
        (each["kind"], name_of(each)): each for each in render(user_values("secrets"))
    }
    after = render(together(user_values("secrets"), CHANGES[change]))
    for each in of(after, *FIXED):
        was = before.get((each["kind"], name_of(each)))
        assert was is None or fixed(was) == fixed(each), name_of(each)
    assert jobs(after) != jobs(list(before.values()))


def test_a_second_apply_that_does_not_concern_the_migrations_makes_no_new_job() -> None:
    before = render(user_values("secrets"))
    after = render(
        together(user_values("secrets"), {"ingress": {"host": "shop.example.org"}})
    )
    assert before != after
    assert jobs(before) == jobs(after)


def test_the_pod_of_the_test_is_left_out_as_the_readme_says() -> None:
    assert (
        "helm template shop charts/shop --skip-tests"
        in (CHART / "README.md").read_text()
    )
    for version in VERSIONS:
        said = helm(
            version,
            "template",
            RELEASE,
            CHART,
            "--namespace",
            NAMESPACE,
            "--skip-tests",
        )
        assert not of(parse(said), "Pod")


def fixed(found: Object) -> dict[str, Any]:
    return {key: found["spec"].get(key) for key in FIXED[found["kind"]]}


def jobs(found: list[Object]) -> set[str]:
    return {name_of(each) for each in of(found, "Job")}


def together(values: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    both: dict[str, Any] = merged(more, values)
    return both
