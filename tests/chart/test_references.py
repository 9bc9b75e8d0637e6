"""Whatever an object refers to is there: in the chart, or by a name that the user gave."""

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
# What differs from one version of the chart or the images to the next: selectors can't be changed.
VERSIONED = {
    "app.kubernetes.io/version",
    "helm.sh/chart",
    "pod-template-hash",
    "controller-revision-hash",
}


Reference = tuple[str, str, str | None]  # kind, name, and the key where one is meant
IN_A_VARIABLE = {"secretKeyRef": "Secret", "configMapKeyRef": "ConfigMap"}
IN_ALL_VARIABLES = {"secretRef": "Secret", "configMapRef": "ConfigMap"}
IN_A_VOLUME = {"secret": "Secret", "configMap": "ConfigMap"}


def references(pod: Object) -> Iterator[Reference]:
    """All that a pod takes from Secrets and ConfigMaps."""
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
    for word in source.keys() & kinds.keys():
        reference = source[word]
        keys = [item["key"] for item in reference.get("items", [])] or [
            reference.get("key")
        ]
        yield from (
            (kinds[word], reference.get("secretName") or reference["name"], key)
            for key in keys
        )


def of_others(found: list[Object]) -> Iterator[Reference]:
    """The same of objects that are no pods."""
    for each in of(found, "Ingress"):
        for tls in each["spec"].get("tls", []):
            if "secretName" in tls:  # or the controller's own certificate is meant
                yield "Secret", tls["secretName"], None
    for each in of(found, "ServiceAccount"):
        for secret in each.get("imagePullSecrets", []):
            yield "Secret", secret["name"], None


def strings(values: Any) -> set[str]:
    """All strings somewhere in the values."""
    match values:
        case dict():
            return set().union(*(strings(each) for each in values.values()))
        case list():
            return set().union(*(strings(each) for each in values))
    return {str(values)}


def missing(found: list[Object], values: Any) -> list[str]:
    """What is referred to of Secrets and ConfigMaps, and is neither in the chart nor in the user's values."""
    keys = {
        (each["kind"], name_of(each)): {
            **each.get("data", {}),
            **each.get("stringData", {}),
        }.keys()
        for each in of(found, "Secret", "ConfigMap")
    }
    named = strings(values)
    referred = [
        *of_others(found),
        *(each for pod in pods(found).values() for each in references(pod)),
    ]
    assert referred
    there = {
        (kind, name, key)
        for (kind, name), known in keys.items()
        for key in (None, *known)
    }
    return [
        f"{kind} {name} {key}"
        for kind, name, key in referred
        if (kind, name, key) not in there
        and ((kind, name) in keys or name not in named)
    ]


@EVERY_SET
def test_every_secret_and_configmap_exists_or_is_named_by_the_user(name: str) -> None:
    assert missing(objects(name), user_values(name)) == []


@EVERY_SET
def test_no_secret_and_no_configmap_is_there_for_nobody(name: str) -> None:
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
def test_every_service_account_exists_and_gives_no_token(name: str) -> None:
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
            claimed = {
                name_of(claim) for claim in each["spec"].get("volumeClaimTemplates", [])
            }
            mounts = [
                mount
                for one in containers(pod)
                for mount in one.get("volumeMounts", [])
            ]
            assert {mount["name"] for mount in mounts} == declared | claimed, made_by


@EVERY_SET
def test_no_container_mounts_two_volumes_in_one_place_or_sets_a_variable_twice(
    name: str,
) -> None:
    for pod in pods(objects(name)).values():
        for container in containers(pod):
            paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
            assert len(paths) == len(set(paths))
            variables = [variable["name"] for variable in container.get("env", [])]
            assert len(variables) == len(set(variables))


@EVERY_SET
def test_a_selector_fits_the_labels_of_its_pods_and_of_no_others(name: str) -> None:
    found = objects(name)
    for each in of(found, "Deployment", "StatefulSet"):
        selector = each["spec"]["selector"]
        selected = [
            made_by for made_by, pod in pods(found).items() if selects(selector, pod)
        ]
        assert selected == [f"{each['kind']}/{name_of(each)}"]
        assert selector.keys() == {"matchLabels"}
        assert not selector["matchLabels"].keys() & VERSIONED


@EVERY_SET
def test_a_selector_has_nothing_in_it_that_a_user_may_change_later(name: str) -> None:
    common = merged(user_values(name)).get("commonLabels", {})
    for each in of(objects(name), "Deployment", "StatefulSet"):
        assert not each["spec"]["selector"]["matchLabels"].keys() & common.keys()
        for claim in each["spec"].get("volumeClaimTemplates", []):
            assert not labels(claim).keys() & (VERSIONED | common.keys())


@EVERY_SET
def test_a_service_leads_to_a_port_of_one_kind_of_pods(name: str) -> None:
    found = objects(name)
    for service in of(found, "Service"):
        selector = {"matchLabels": service["spec"]["selector"]}
        selected = [pod for pod in pods(found).values() if selects(selector, pod)]
        assert len(selected) == 1, name_of(service)
        ports = [
            port for one in containers(selected[0]) for port in one.get("ports", [])
        ]
        known = {port["name"] for port in ports} | {
            port["containerPort"] for port in ports
        }
        for port in service["spec"]["ports"]:
            assert port.get("targetPort", port["port"]) in known


@EVERY_SET
def test_the_service_of_a_stateful_set_is_there(name: str) -> None:
    found = objects(name)
    services = {name_of(each) for each in of(found, "Service")}
    assert {
        each["spec"]["serviceName"] for each in of(found, "StatefulSet")
    } <= services


@EVERY_SET
def test_what_scales_or_guards_or_routes_has_something_to_do_it_with(name: str) -> None:
    found = objects(name)
    there = {(each["kind"], name_of(each)) for each in found}
    for each in of(found, "HorizontalPodAutoscaler", "ScaledObject"):
        target = each["spec"]["scaleTargetRef"]
        assert (target.get("kind", "Deployment"), target["name"]) in there
    scaled = {name_of(each): each for each in of(found, "Deployment")}
    for each in of(found, "ScaledObject"):
        target = scaled[each["spec"]["scaleTargetRef"]["name"]]
        known = {
            variable["name"]
            for variable in containers(target["spec"]["template"])[0]["env"]
        }
        assert {
            trigger["metadata"]["hostFromEnv"] for trigger in each["spec"]["triggers"]
        } <= known
    for each in of(found, "PodDisruptionBudget", "NetworkPolicy"):
        selector = each["spec"][
            "selector" if each["kind"] == "PodDisruptionBudget" else "podSelector"
        ]
        assert any(selects(selector, pod) for pod in pods(found).values()), name_of(
            each
        )


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
            assert {
                endpoint["port"] for endpoint in monitor["spec"]["endpoints"]
            } <= ports


@EVERY_SET
def test_every_route_leads_to_a_service_of_the_chart(name: str) -> None:
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
        assert any(
            each["name"] == port.get("name") or each["port"] == port.get("number")
            for each in services[service]
        )


@EVERY_SET
def test_all_objects_carry_the_recommended_labels(name: str) -> None:
    common = merged(user_values(name)).get("commonLabels", {})
    for each in objects(name):
        assert {
            f"app.kubernetes.io/{word}" for word in ("name", "instance", "managed-by")
        } <= labels(each).keys()
        assert common.items() <= labels(each).items()
        assert each["metadata"].get("namespace", NAMESPACE) == NAMESPACE
