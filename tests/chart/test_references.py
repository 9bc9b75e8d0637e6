"""Every referenced object exists in the chart, or is named in the user's values."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.helm import (
    NAMESPACE,
    SETS,
    Object,
    containers,
    labels,
    merged,
    name_of,
    objects,
    of,
    pods,
    selects,
    user_values,
)

EVERY_SET = pytest.mark.parametrize("name", SETS)
# Labels that change with the version of the chart or images. Selectors are immutable, so they must
# not contain them.
VERSIONED = {
    "app.kubernetes.io/version",
    "helm.sh/chart",
    "pod-template-hash",
    "controller-revision-hash",
}
# Kind, name and key. The key is None if the reference is to the whole object.
Reference = tuple[str, str, str | None]
IN_A_VARIABLE = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
IN_ALL_VARIABLES = {"secretRef": "Secret", "configMapRef": "ConfigMap"}
IN_A_VOLUME = {"secret": "Secret", "configMap": "ConfigMap"}


def references(pod: Object) -> Iterator[Reference]:
    """Yield a pod's references to Secrets and ConfigMaps."""
    for secret in pod["spec"].get("imagePullSecrets", []):
        yield "Secret", secret["name"], None
    for container in containers(pod):
        for variable in container.get("env", []):
            yield from _of_source(variable.get("valueFrom", {}), IN_A_VARIABLE)
        for source in container.get("envFrom", []):
            yield from _of_source(source, IN_ALL_VARIABLES)
    for volume in pod["spec"].get("volumes", []):
        for source in [volume, *volume.get("projected", {}).get("sources", [])]:
            yield from _of_source(source, IN_A_VOLUME)


def _of_source(source: Object, kinds: dict[str, str]) -> Iterator[Reference]:
    for field in source.keys() & kinds.keys():
        reference = source[field]
        name = reference.get("secretName") or reference["name"]
        items = [item["key"] for item in reference.get("items", [])]
        for key in items or [reference.get("key")]:
            yield kinds[field], name, key


def of_others(found: list[Object]) -> Iterator[Reference]:
    """Yield the references of objects other than pods."""
    for each in of(found, "Ingress"):
        for tls in each["spec"].get("tls", []):
            # Without a name, the controller uses its own certificate.
            if "secretName" in tls:
                yield "Secret", tls["secretName"], None
    for each in of(found, "ServiceAccount"):
        for secret in each.get("imagePullSecrets", []):
            yield "Secret", secret["name"], None


def strings(values: Any) -> set[str]:
    """Return all strings in the values, at any depth."""
    match values:
        case dict():
            return set().union(*(strings(each) for each in values.values()))
        case list():
            return set().union(*(strings(each) for each in values))
    return {str(values)}


def missing(found: list[Object], values: Any) -> list[str]:
    """Return the references to Secrets and ConfigMaps that exist nowhere.

    They are neither in the chart nor in the user's values.
    """
    named = strings(values)
    own: set[tuple[str, str]] = set()
    existing: set[Reference] = set()
    for each in of(found, "Secret", "ConfigMap"):
        kind, name = each["kind"], name_of(each)
        own.add((kind, name))
        keys = each.get("data", {}).keys() | each.get("stringData", {}).keys()
        existing.update((kind, name, key) for key in (None, *keys))
    of_pods = (each for pod in pods(found).values() for each in references(pod))
    referred = [*of_others(found), *of_pods]
    assert referred
    return [
        f"{kind} {name} {key}"
        for kind, name, key in referred
        if (kind, name, key) not in existing
        and ((kind, name) in own or name not in named)
    ]


@EVERY_SET
def test_every_secret_and_configmap_exists_or_is_named_by_the_user(name: str) -> None:
    assert missing(objects(name), user_values(name)) == []


@EVERY_SET
def test_every_secret_and_configmap_is_used(name: str) -> None:
    found = objects(name)
    referred = {
        (kind, each)
        for pod in pods(found).values()
        for kind, each, _ in references(pod)
    }
    referred |= {(kind, each) for kind, each, _ in of_others(found)}
    for each in of(found, "Secret", "ConfigMap"):
        assert (each["kind"], name_of(each)) in referred


@EVERY_SET
def test_every_service_account_exists_and_mounts_no_token(name: str) -> None:
    found = objects(name)
    accounts = {name_of(each): each for each in of(found, "ServiceAccount")}
    given = strings(user_values(name))
    for made_by, pod in pods(found).items():
        account = pod["spec"]["serviceAccountName"]
        assert account in accounts or account in given, made_by
        assert pod["spec"]["automountServiceAccountToken"] is False, made_by
    for account in accounts.values():
        assert account["automountServiceAccountToken"] is False


@EVERY_SET
def test_no_two_services_share_an_account(name: str) -> None:
    made = [
        pod["spec"]["serviceAccountName"]
        for pod in pods(of(objects(name), "Deployment")).values()
    ]
    assert len(made) == len(set(made))


@EVERY_SET
def test_every_volume_is_declared_and_used(name: str) -> None:
    for each in objects(name):
        for made_by, pod in pods([each]).items():
            declared = {volume["name"] for volume in pod["spec"].get("volumes", [])}
            claims = each["spec"].get("volumeClaimTemplates", [])
            claimed = {name_of(claim) for claim in claims}
            mounted = {
                mount["name"]
                for container in containers(pod)
                for mount in container.get("volumeMounts", [])
            }
            assert mounted == declared | claimed, made_by


@EVERY_SET
def test_no_container_has_a_mount_path_or_variable_twice(name: str) -> None:
    for pod in pods(objects(name)).values():
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(paths) == len(set(paths))
            variables = [variable["name"] for variable in container.get("env", [])]
            assert len(variables) == len(set(variables))


@EVERY_SET
def test_a_selector_matches_its_own_pods_only(name: str) -> None:
    found = objects(name)
    for each in of(found, "Deployment", "StatefulSet"):
        selector = each["spec"]["selector"]
        made = pods(found).items()
        selected = [made_by for made_by, pod in made if selects(selector, pod)]
        assert selected == [f"{each['kind']}/{name_of(each)}"]
        assert selector.keys() == {"matchLabels"}
        assert not selector["matchLabels"].keys() & VERSIONED


@EVERY_SET
def test_a_selector_contains_no_changeable_labels(name: str) -> None:
    common = merged(user_values(name)).get("commonLabels", {})
    for each in of(objects(name), "Deployment", "StatefulSet"):
        assert not each["spec"]["selector"]["matchLabels"].keys() & common.keys()
        for claim in each["spec"].get("volumeClaimTemplates", []):
            assert not labels(claim).keys() & (VERSIONED | common.keys())


@EVERY_SET
def test_a_service_selects_one_kind_of_pods_and_their_port(name: str) -> None:
    found = objects(name)
    for service in of(found, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        selected = [pod for pod in pods(found).values() if selects(selector, pod)]
        assert len(selected) == 1, name_of(service)
        known = set()
        for container in containers(selected[0]):
            for port in container.get("ports", []):
                known |= {port["name"], port["containerPort"]}
        for port in service["spec"]["ports"]:
            assert port.get("targetPort", port["port"]) in known


@EVERY_SET
def test_the_service_of_a_stateful_set_exists(name: str) -> None:
    found = objects(name)
    services = {name_of(each) for each in of(found, "Service")}
    for each in of(found, "StatefulSet"):
        assert each["spec"]["serviceName"] in services


@EVERY_SET
def test_scalers_budgets_and_policies_have_targets(name: str) -> None:
    found = objects(name)
    existing = {(each["kind"], name_of(each)) for each in found}
    for each in of(found, "HorizontalPodAutoscaler", "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]
        assert (target.get("kind", "Deployment"), target["name"]) in existing
    deployments = {name_of(each): each for each in of(found, "Deployment")}
    for each in of(found, "ScaledObject"):
        target = deployments[each["spec"]["scaleTargetRef"]["name"]]
        env = containers(target["spec"]["template"])[0]["env"]
        known = {variable["name"] for variable in env}
        for trigger in each["spec"]["triggers"]:
            assert trigger["metadata"]["hostFromEnv"] in known
    selectors = [
        *(each["spec"]["selector"] for each in of(found, "PodDisruptionBudget")),
        *(each["spec"]["podSelector"] for each in of(found, "NetworkPolicy")),
    ]
    for selector in selectors:
        assert any(selects(selector, pod) for pod in pods(found).values()), selector


@EVERY_SET
def test_a_monitor_finds_services_and_their_port(name: str) -> None:
    found = objects(name)
    for monitor in of(found, "ServiceMonitor"):
        services = [
            each
            for each in of(found, "Service")
            if selects(monitor["spec"]["selector"], each)
        ]
        assert services
        for service in services:
            ports = {port["name"] for port in service["spec"]["ports"]}
            endpoints = monitor["spec"]["endpoints"]
            assert {endpoint["port"] for endpoint in endpoints} <= ports


@EVERY_SET
def test_every_rule_of_a_route_has_the_timeouts_of_the_values(name: str) -> None:
    timeouts = merged(user_values(name))["httpRoute"]["timeouts"] or None
    for route in of(objects(name), "HTTPRoute"):
        assert route["spec"]["rules"]
        for rule in route["spec"]["rules"]:
            assert rule.get("timeouts") == timeouts


@EVERY_SET
def test_every_route_has_a_service_of_the_chart(name: str) -> None:
    found = objects(name)
    services = {name_of(each): each["spec"]["ports"] for each in of(found, "Service")}
    backends = [
        (path["backend"]["service"]["name"], path["backend"]["service"]["port"])
        for ingress in of(found, "Ingress")
        for rule in ingress["spec"]["rules"]
        for path in rule["http"]["paths"]
    ]
    backends += [
        (backend["name"], {"number": backend["port"]})
        for route in of(found, "HTTPRoute")
        for rule in route["spec"]["rules"]
        for backend in rule["backendRefs"]
    ]
    for service, port in backends:
        names = {each["name"] for each in services[service]}
        numbers = {each["port"] for each in services[service]}
        assert port.get("name") in names or port.get("number") in numbers


RECOMMENDED_LABELS = {
    "app.kubernetes.io/name",
    "app.kubernetes.io/instance",
    "app.kubernetes.io/managed-by",
}


@EVERY_SET
def test_all_objects_have_the_recommended_labels(name: str) -> None:
    common = merged(user_values(name)).get("commonLabels", {})
    for each in objects(name):
        assert labels(each).keys() >= RECOMMENDED_LABELS
        assert common.items() <= labels(each).items()
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE
