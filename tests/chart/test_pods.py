"""What is promised of each pod: its security, probes, images, and how it starts and ends."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from chassis import health
from dev.chart.tools import ROOT
from tests.chart.environment import COMMANDS, SERVICES, of_container
from tests.chart.helm import (
    CHART,
    DEFAULTS,
    SETS,
    HelmError,
    Object,
    component,
    containers,
    merged,
    name_of,
    objects,
    of,
    pods,
    render,
    user_values,
)
from tests.chart.pod_security import violations

EVERY_SET = pytest.mark.parametrize("name", SETS)
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
HANDLERS = {"httpGet", "exec", "tcpSocket", "grpc"}
HOOKS = {"exec", "httpGet", "sleep", "tcpSocket"}
IMAGES = {
    "users": "user-service-07",
    "billing": "billing-service-07",
    "orders": "order-service-07",
    "notifications": "notification-service-07",
    "gateway": "gateway-service-07",
    "migrations": "migrations-07",
}


def deployments(found: list[Object]) -> dict[str, Object]:
    return {component(each): each for each in of(found, "Deployment")}


def main_container(workload: Object) -> Object:
    return workload["spec"]["template"]["spec"]["containers"][0]


@EVERY_SET
def test_every_pod_is_restricted(name: str) -> None:
    for made_by, pod in pods(objects(name)).items():
        assert violations({"metadata": {}, **pod}) == [], made_by


@EVERY_SET
def test_every_container_has_a_read_only_root_a_user_by_number_and_bounds(
    name: str,
) -> None:
    for made_by, pod in pods(objects(name)).items():
        context = pod["spec"]["securityContext"]
        for container in containers(pod):
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True, made_by
            if merged(user_values(name))["fixedUserIds"]:
                assert own.get("runAsUser", context.get("runAsUser", 0)) > 0, made_by
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, (
                made_by
            )
            assert "memory" in container["resources"]["limits"], made_by


IDS = {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"}


def test_a_platform_that_assigns_users_and_groups_is_given_none() -> None:
    """OpenShift's restricted-v2 refuses a pod that names one out of the namespace's range."""
    found, left = (
        {component(pod): pod for pod in pods(render(values)).values()}
        for values in ({}, {"fixedUserIds": False})
    )
    assert left.keys() == found.keys()
    for made_by, pod in left.items():
        assert violations({"metadata": {}, **pod}) == [], made_by
        contexts = [
            pod["spec"]["securityContext"],
            *(each["securityContext"] for each in containers(pod)),
        ]
        assert not any(context.keys() & IDS for context in contexts), made_by
        fixed = found[made_by]["spec"]["securityContext"]
        assert {key: fixed[key] for key in fixed.keys() - IDS} == contexts[0], made_by
        assert fixed.keys() & IDS == {"runAsUser", "runAsGroup", "fsGroup"}, made_by
        assert pod["spec"] | {"securityContext": fixed} == found[made_by]["spec"], (
            made_by
        )


def test_every_pod_has_the_priority_that_is_set_for_all() -> None:
    for pod in pods(objects("openshift")).values():
        assert pod["spec"]["priorityClassName"] == "shop"
    for pod in pods(objects("default")).values():
        assert "priorityClassName" not in pod["spec"]


@EVERY_SET
def test_a_startup_probe_runs_at_most_three_times_in_the_first_ten_seconds(
    name: str,
) -> None:
    """Each probe that fails is an event, and Python needs some seconds."""
    for each in of(objects(name), "Deployment", "StatefulSet"):
        probe = main_container(each)["startupProbe"]
        times = range(probe.get("initialDelaySeconds", 0), 11, probe["periodSeconds"])
        assert 1 <= len(times) <= 3, name_of(each)


def test_the_suites_services_are_the_charts() -> None:
    shaped = {
        path.parent.name
        for path in ROOT.glob("*/service.py")
        if path.parent.name != "chassis"
    }
    assert shaped == set(SERVICES)
    for name in SETS:
        assert deployments(objects(name)).keys() == shaped


@EVERY_SET
def test_each_service_runs_its_own_image(name: str) -> None:
    own = {kind: [] for kind in IMAGES}
    for each in of(objects(name), "Deployment", "Job"):
        if component(each) in own:
            own[component(each)].append(main_container(each)["image"])
    given = merged(user_values(name))
    for kind, (image,) in own.items():
        custom = (given["services"].get(kind) or given.get(kind) or {}).get(
            "image"
        ) or {}
        assert re.search(rf"(^|/){custom.get('repository') or IMAGES[kind]}[:@]", image)


def test_the_default_images_are_those_of_the_version_of_the_suite() -> None:
    version = re.search(
        r'^version = "(.+)"$', Path(ROOT, "pyproject.toml").read_text(), re.MULTILINE
    )
    assert version
    found = {
        component(each): main_container(each)["image"]
        for each in of(objects("default"), "Deployment", "Job")
    }
    for kind, image in IMAGES.items():
        assert found[kind] == f"neversleeps/{image}:{version[1]}"


@EVERY_SET
def test_every_image_names_its_version_and_never_the_latest(name: str) -> None:
    for made_by, pod in pods(objects(name)).items():
        for container in containers(pod):
            reference = container["image"]
            assert re.fullmatch(
                r"[\w./:-]+?(:[\w.-]+|@sha256:[0-9a-f]{64})", reference
            ), made_by
            assert not reference.endswith(":latest"), made_by


@EVERY_SET
def test_every_image_comes_from_the_registry_that_is_set_for_all(name: str) -> None:
    registry = merged(user_values(name))["global"].get("imageRegistry")
    for made_by, pod in pods(objects(name)).items():
        for container in containers(pod):
            assert not registry or container["image"].startswith(f"{registry}/"), (
                made_by
            )


def test_the_images_of_others_are_those_that_the_chart_lists() -> None:
    """Chart.yaml names them for those who copy images to a registry."""
    used = {
        each["image"]
        for pod in pods(objects("default")).values()
        for each in containers(pod)
    }
    others = {
        image
        for image in used
        if not image.startswith(f"{DEFAULTS['image']['namespace']}/")
    }
    assert others == set(
        yaml.safe_load(
            yaml.safe_load((CHART / "Chart.yaml").read_text())["annotations"]["images"]
        )
    )


def test_a_secret_to_pull_with_is_named_once() -> None:
    for pod in pods(objects("registry")).values():
        assert pod["spec"]["imagePullSecrets"] == [
            {"name": "registry-key"},
            {"name": "other-key"},
        ]


def test_the_tag_latest_is_refused() -> None:
    with pytest.raises(HelmError, match="latest"):
        render({"image": {"tag": "latest"}})


@EVERY_SET
def test_a_probe_has_exactly_one_handler(name: str) -> None:
    for pod in pods(objects(name)).values():
        for container in containers(pod):
            for probe in PROBES:
                if probe in container:
                    assert len(container[probe].keys() & HANDLERS) == 1
            for hook in container.get("lifecycle", {}).values():
                assert len(hook.keys() & HOOKS) == 1


@EVERY_SET
def test_every_service_and_server_is_probed_at_start_and_for_life_and_readiness(
    name: str,
) -> None:
    for each in of(objects(name), "Deployment", "StatefulSet"):
        container = main_container(each)
        assert container.keys() >= set(PROBES), name_of(each)


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize(
    "handler",
    [
        {"exec": {"command": ["true"]}},
        {"tcpSocket": {"port": "health"}},
        {"grpc": {"port": 8001}},
        {"httpGet": {"path": "/elsewhere", "port": "health"}},
    ],
    ids=lambda handler: next(iter(handler)),
)
def test_a_probe_that_is_overridden_has_the_new_handler_alone(
    probe: str, handler: dict[str, Any]
) -> None:
    values = {"services": {service: {probe: handler} for service in SERVICES}}
    for service, each in deployments(render(values)).items():
        found = main_container(each)[probe]
        assert found.keys() & HANDLERS == handler.keys(), service
        assert found.items() >= handler.items(), service


def test_a_probe_keeps_its_handler_when_only_its_times_are_overridden() -> None:
    values = {"services": {"users": {"readinessProbe": {"periodSeconds": 7}}}}
    before = main_container(deployments(objects("default"))["users"])["readinessProbe"]
    after = main_container(deployments(render(values))["users"])["readinessProbe"]
    assert after == before | {"periodSeconds": 7}


def test_life_is_asked_of_the_process_alone_and_readiness_of_all_it_needs() -> None:
    """The gateway is the exception: its Service must have a pod that answers 503."""
    for name, each in deployments(objects("default")).items():
        container = main_container(each)
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
        ready = "/startedz" if name == "gateway" else "/readyz"
        assert container["readinessProbe"]["httpGet"]["path"] == ready
        assert ready in health.PATHS


@EVERY_SET
def test_a_named_port_of_a_probe_is_one_of_the_containers(name: str) -> None:
    for pod in pods(objects(name)).values():
        for container in containers(pod):
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in PROBES:
                for handler in (container.get(probe) or {}).values():
                    port = handler.get("port") if isinstance(handler, dict) else None
                    assert not isinstance(port, str) or port in ports


@EVERY_SET
def test_kubernetes_waits_longer_than_the_suite_for_a_stop(name: str) -> None:
    found = objects(name)
    for each in deployments(found).values():
        spec = each["spec"]["template"]["spec"]
        container = spec["containers"][0]
        drain_s = float(of_container(container, found).get("STOP_TIMEOUT_S", 20))
        hook_s = (
            container.get("lifecycle", {})
            .get("preStop", {})
            .get("sleep", {})
            .get("seconds", 0)
        )
        assert spec["terminationGracePeriodSeconds"] >= drain_s + hook_s + 5, name_of(
            each
        )


@EVERY_SET
def test_the_gateway_serves_on_until_nobody_sends_to_it_any_more(name: str) -> None:
    found = objects(name)
    environment = of_container(main_container(deployments(found)["gateway"]), found)
    assert (
        0
        < float(environment["STOP_DELAY_S"])
        < float(environment.get("STOP_TIMEOUT_S", 20))
    )


# upstream-keepalive-timeout of ingress-nginx, keepalive_timeout of nginx in an upstream
NGINX_KEEPS_S = 60


@EVERY_SET
def test_an_ingress_closes_its_idle_connections_before_the_gateway_does(
    name: str,
) -> None:
    found = objects(name)
    environment = of_container(main_container(deployments(found)["gateway"]), found)
    assert float(environment["GATEWAY_IDLE_S"]) > NGINX_KEEPS_S


@EVERY_SET
def test_what_scales_itself_has_no_fixed_number_of_replicas(name: str) -> None:
    found = objects(name)
    scaled = [
        each["spec"]["scaleTargetRef"]["name"]
        for each in of(found, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(scaled) == len(set(scaled)), "two scale the same"
    for each in of(found, "Deployment"):
        assert ("replicas" in each["spec"]) == (name_of(each) not in scaled)


def replicas(found: list[Object], deployment: Object) -> int:
    """The fewest replicas it may have."""
    for each in of(found, "HorizontalPodAutoscaler", "ScaledObject"):
        if each["spec"]["scaleTargetRef"]["name"] == name_of(deployment):
            return each["spec"].get(
                "minReplicas", each["spec"].get("minReplicaCount", 0)
            )
    return deployment["spec"]["replicas"]


@EVERY_SET
def test_no_disruption_budget_blocks_the_drain_of_a_node(name: str) -> None:
    """One that allows no pod to go, or counts on more than there are, would do so for ever."""
    found = objects(name)
    budgets = {
        each["metadata"]["name"]: each["spec"]
        for each in of(found, "PodDisruptionBudget")
    }
    for each in of(found, "Deployment", "StatefulSet"):
        selector = each["spec"]["selector"]["matchLabels"]
        for budget in budgets.values():
            if budget["selector"]["matchLabels"] == selector:
                assert allowed_to_go(budget, replicas(found, each)) >= 1, name_of(each)


def allowed_to_go(budget: Object, count: int) -> int:
    if "maxUnavailable" in budget:
        value = budget["maxUnavailable"]
        return (
            value
            if isinstance(value, int)
            else -(-count * int(value.rstrip("%")) // 100)
        )
    value = budget["minAvailable"]
    return count - (
        value if isinstance(value, int) else -(-count * int(value.rstrip("%")) // 100)
    )


@EVERY_SET
def test_several_replicas_are_spread_over_nodes(name: str) -> None:
    found = objects(name)
    for each in of(found, "Deployment"):
        for constraint in each["spec"]["template"]["spec"].get(
            "topologySpreadConstraints", []
        ):
            assert (
                constraint["labelSelector"]["matchLabels"]
                == each["spec"]["selector"]["matchLabels"]
            )


@EVERY_SET
def test_a_rolling_update_takes_no_ready_pod_away_first(name: str) -> None:
    for each in of(objects(name), "Deployment"):
        strategy = each["spec"].get("strategy", {}).get("rollingUpdate", {})
        assert strategy.get("maxUnavailable") == 0, name_of(each)


@EVERY_SET
def test_the_migrations_are_an_ordinary_job_that_is_repeated(name: str) -> None:
    (job,) = [
        each for each in of(objects(name), "Job") if component(each) == "migrations"
    ]
    assert (
        job["metadata"].get("annotations", {})
        == merged(user_values(name))["migrations"]["annotations"]
    )
    assert re.search(r"-1-[0-9a-f]{6}$", name_of(job)), "the revision, and what it does"
    assert len(name_of(job)) <= 63 - len("999"), "a label of its pods"
    spec = job["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "OnFailure" or job["spec"]["backoffLimit"] > 0


@EVERY_SET
def test_a_command_runs_once_when_asked_from_the_image_that_has_it(name: str) -> None:
    found = objects(name)
    (migrations,) = of(found, "Job")
    made = {component(each): each["spec"] for each in of(found, "CronJob")}
    assert made.keys() == set(COMMANDS)
    for command, spec in made.items():
        (container,) = spec["jobTemplate"]["spec"]["template"]["spec"]["containers"]
        assert container["image"] == main_container(migrations)["image"]
        assert spec["jobTemplate"]["spec"]["backoffLimit"] == 0
        assert (
            spec["jobTemplate"]["spec"]["template"]["spec"]["restartPolicy"] == "Never"
        )
        scheduled = (
            command == "audit" and merged(user_values(name))["audit"]["schedule"]
        )
        assert spec["suspend"] is not bool(scheduled)
        assert not scheduled or spec["schedule"] == scheduled


@EVERY_SET
def test_no_hook_waits_for_what_comes_after_it(name: str) -> None:
    hooks = {
        each["metadata"].get("annotations", {}).get("helm.sh/hook")
        for each in objects(name)
    }
    assert hooks <= {None, "test"}
