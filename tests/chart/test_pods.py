"""The properties of each pod: security, probes, images, start and stop."""

import math
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
def test_every_container_has_a_read_only_root_a_user_id_and_limits(
    name: str,
) -> None:
    for made_by, pod in pods(objects(name)).items():
        context = pod["spec"]["securityContext"]
        for container in containers(pod):
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"] is True, made_by
            if merged(user_values(name))["fixedUserIds"]:
                assert own.get("runAsUser", context.get("runAsUser", 0)) > 0, made_by
            resources = container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}, made_by
            assert "memory" in resources["limits"], made_by


IDS = {"runAsUser", "runAsGroup", "fsGroup", "supplementalGroups"}


def test_without_fixed_user_ids_no_pod_names_a_user_or_group() -> None:
    """OpenShift's restricted-v2 refuses ids outside the namespace's range."""
    default, changed = (
        {component(pod): pod for pod in pods(render(values)).values()}
        for values in ({}, {"fixedUserIds": False})
    )
    assert changed.keys() == default.keys()
    for name, pod in changed.items():
        assert violations({"metadata": {}, **pod}) == [], name
        of_pod = pod["spec"]["securityContext"]
        contexts = [of_pod, *(each["securityContext"] for each in containers(pod))]
        assert not any(context.keys() & IDS for context in contexts), name
        fixed = default[name]["spec"]["securityContext"]
        assert {key: fixed[key] for key in fixed.keys() - IDS} == of_pod, name
        assert fixed.keys() & IDS == {"runAsUser", "runAsGroup", "fsGroup"}, name
        with_ids = pod["spec"] | {"securityContext": fixed}
        assert with_ids == default[name]["spec"], name


def test_every_pod_has_the_given_priority_class() -> None:
    for pod in pods(objects("openshift")).values():
        assert pod["spec"]["priorityClassName"] == "shop"
    for pod in pods(objects("default")).values():
        assert "priorityClassName" not in pod["spec"]


@EVERY_SET
def test_a_startup_probe_runs_at_most_three_times_in_ten_seconds(
    name: str,
) -> None:
    """Each failed probe is an event, and Python needs some seconds to start."""
    for each in of(objects(name), "Deployment", "StatefulSet"):
        probe = main_container(each)["startupProbe"]
        times = range(probe.get("initialDelaySeconds", 0), 11, probe["periodSeconds"])
        assert 1 <= len(times) <= 3, name_of(each)


def test_the_chart_contains_all_services_of_the_suite() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/service.py")}
    services = folders - {"chassis"}
    assert services == set(SERVICES)
    for name in SETS:
        assert deployments(objects(name)).keys() == services


@EVERY_SET
def test_each_service_runs_its_own_image(name: str) -> None:
    found: dict[str, list[str]] = {service: [] for service in IMAGES}
    for each in of(objects(name), "Deployment", "Job"):
        if component(each) in found:
            found[component(each)].append(main_container(each)["image"])
    given = merged(user_values(name))
    for service, (image,) in found.items():
        own = given["services"].get(service) or given.get(service) or {}
        custom = own.get("image") or {}
        repository = custom.get("repository") or IMAGES[service]
        assert re.search(rf"(^|/){repository}[:@]", image)


def test_the_default_images_have_the_version_of_the_suite() -> None:
    project = Path(ROOT, "pyproject.toml").read_text()
    version = re.search(r'^version = "(.+)"$', project, re.MULTILINE)
    assert version
    found = {
        component(each): main_container(each)["image"]
        for each in of(objects("default"), "Deployment", "Job")
    }
    for service, image in IMAGES.items():
        assert found[service] == f"neversleeps/{image}:{version[1]}"


REFERENCE = re.compile(r"[\w./:-]+?(:[\w.-]+|@sha256:[0-9a-f]{64})")


@EVERY_SET
def test_every_image_has_a_version_that_is_not_latest(name: str) -> None:
    for made_by, pod in pods(objects(name)).items():
        for container in containers(pod):
            reference = container["image"]
            assert REFERENCE.fullmatch(reference), made_by
            assert not reference.endswith(":latest"), made_by


@EVERY_SET
def test_every_image_comes_from_the_global_registry(name: str) -> None:
    registry = merged(user_values(name))["global"].get("imageRegistry")
    for made_by, pod in pods(objects(name)).items():
        for container in containers(pod):
            reference = container["image"]
            assert not registry or reference.startswith(f"{registry}/"), made_by


def test_the_chart_lists_its_third_party_images() -> None:
    """Chart.yaml names them for people who copy images to a registry."""
    default = pods(objects("default")).values()
    used = {each["image"] for pod in default for each in containers(pod)}
    own = f"{DEFAULTS['image']['namespace']}/"
    third_party = {image for image in used if not image.startswith(own)}
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert third_party == set(yaml.safe_load(chart["annotations"]["images"]))


def test_a_pull_secret_is_named_once() -> None:
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
def test_every_service_and_server_has_all_three_probes(
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
        {"httpGet": {"path": "/other", "port": "health"}},
    ],
    ids=lambda handler: next(iter(handler)),
)
def test_an_overridden_probe_has_only_the_new_handler(
    probe: str, handler: dict[str, Any]
) -> None:
    values = {"services": {service: {probe: handler} for service in SERVICES}}
    for service, each in deployments(render(values)).items():
        found = main_container(each)[probe]
        assert found.keys() & HANDLERS == handler.keys(), service
        assert found.items() >= handler.items(), service


def test_a_probe_with_only_times_overridden_keeps_its_handler() -> None:
    values = {"services": {"users": {"readinessProbe": {"periodSeconds": 7}}}}
    before = main_container(deployments(objects("default"))["users"])["readinessProbe"]
    after = main_container(deployments(render(values))["users"])["readinessProbe"]
    assert after == before | {"periodSeconds": 7}


def test_liveness_checks_the_process_and_readiness_its_dependencies() -> None:
    """The gateway is the exception: its Service needs a pod that responds with 503."""
    for name, each in deployments(objects("default")).items():
        container = main_container(each)
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
        ready = "/startedz" if name == "gateway" else "/readyz"
        assert container["readinessProbe"]["httpGet"]["path"] == ready
        assert ready in health.PATHS


@EVERY_SET
def test_a_probes_named_port_is_one_of_the_container(name: str) -> None:
    for pod in pods(objects(name)).values():
        for container in containers(pod):
            ports = {port["name"] for port in container.get("ports", [])}
            for probe in PROBES:
                for handler in (container.get(probe) or {}).values():
                    port = handler.get("port") if isinstance(handler, dict) else None
                    assert not isinstance(port, str) or port in ports


@EVERY_SET
def test_the_grace_period_is_longer_than_a_stop(name: str) -> None:
    found = objects(name)
    for each in deployments(found).values():
        spec = each["spec"]["template"]["spec"]
        container = spec["containers"][0]
        drain_s = float(of_container(container, found).get("STOP_TIMEOUT_S", 20))
        hook = container.get("lifecycle", {}).get("preStop", {})
        hook_s = hook.get("sleep", {}).get("seconds", 0)
        grace_s = spec["terminationGracePeriodSeconds"]
        assert grace_s >= drain_s + hook_s + 5, name_of(each)


@EVERY_SET
def test_a_stopping_gateway_serves_for_its_stop_delay(name: str) -> None:
    """Meanwhile, Kubernetes removes it from the endpoints of its Service."""
    found = objects(name)
    environment = of_container(main_container(deployments(found)["gateway"]), found)
    timeout_s = float(environment.get("STOP_TIMEOUT_S", 20))
    assert 0 < float(environment["STOP_DELAY_S"]) < timeout_s


# upstream-keepalive-timeout of ingress-nginx, and keepalive_timeout of nginx in an upstream.
NGINX_IDLE_S = 60


@EVERY_SET
def test_an_ingress_closes_idle_connections_before_the_gateway(
    name: str,
) -> None:
    found = objects(name)
    environment = of_container(main_container(deployments(found)["gateway"]), found)
    assert float(environment["GATEWAY_IDLE_S"]) > NGINX_IDLE_S


@EVERY_SET
def test_an_autoscaled_deployment_has_no_fixed_replicas(name: str) -> None:
    found = objects(name)
    scaled = [
        each["spec"]["scaleTargetRef"]["name"]
        for each in of(found, "HorizontalPodAutoscaler", "ScaledObject")
    ]
    assert len(scaled) == len(set(scaled)), "two scalers have the same target"
    for each in of(found, "Deployment"):
        assert ("replicas" in each["spec"]) == (name_of(each) not in scaled)


def min_replicas(found: list[Object], deployment: Object) -> int:
    """Return the smallest number of replicas that a deployment may have."""
    for each in of(found, "HorizontalPodAutoscaler", "ScaledObject"):
        spec = each["spec"]
        if spec["scaleTargetRef"]["name"] == name_of(deployment):
            return spec.get("minReplicas", spec.get("minReplicaCount", 0))
    return deployment["spec"]["replicas"]


@EVERY_SET
def test_no_disruption_budget_blocks_the_drain_of_a_node(name: str) -> None:
    """A budget that allows no eviction would block it without end."""
    found = objects(name)
    budgets = [each["spec"] for each in of(found, "PodDisruptionBudget")]
    for each in of(found, "Deployment", "StatefulSet"):
        selector = each["spec"]["selector"]["matchLabels"]
        for budget in budgets:
            if budget["selector"]["matchLabels"] == selector:
                count = min_replicas(found, each)
                assert allowed_evictions(budget, count) >= 1, name_of(each)


def allowed_evictions(budget: Object, count: int) -> int:
    """Return how many of `count` pods a budget allows to evict."""
    if "maxUnavailable" in budget:
        return pod_number(budget["maxUnavailable"], count)
    return count - pod_number(budget["minAvailable"], count)


def pod_number(value: int | str, count: int) -> int:
    """Return a number or percentage of pods as a number. Kubernetes rounds up."""
    if isinstance(value, int):
        return value
    return math.ceil(count * int(value.rstrip("%")) / 100)


@EVERY_SET
def test_several_replicas_are_spread_over_nodes(name: str) -> None:
    for each in of(objects(name), "Deployment"):
        own_labels = each["spec"]["selector"]["matchLabels"]
        spec = each["spec"]["template"]["spec"]
        for constraint in spec.get("topologySpreadConstraints", []):
            assert constraint["labelSelector"]["matchLabels"] == own_labels


@EVERY_SET
def test_a_rolling_update_starts_a_pod_before_it_stops_one(name: str) -> None:
    for each in of(objects(name), "Deployment"):
        strategy = each["spec"].get("strategy", {}).get("rollingUpdate", {})
        assert strategy.get("maxUnavailable") == 0, name_of(each)


@EVERY_SET
def test_migrations_are_a_job_that_is_retried(name: str) -> None:
    """It is not a hook of helm. Its name ends in the revision and a digest of its spec."""
    jobs = of(objects(name), "Job")
    (job,) = [each for each in jobs if component(each) == "migrations"]
    annotations = merged(user_values(name))["migrations"]["annotations"]
    assert job["metadata"].get("annotations", {}) == annotations
    assert re.search(r"-1-[0-9a-f]{6}$", name_of(job))
    assert len(name_of(job)) <= 63 - len("999"), "too long for a label of its pods"
    spec = job["spec"]["template"]["spec"]
    assert spec["restartPolicy"] == "OnFailure" or job["spec"]["backoffLimit"] > 0


@EVERY_SET
def test_a_command_runs_once_on_request(name: str) -> None:
    """It runs in the image of the migrations. Only the audit can have a schedule."""
    found = objects(name)
    (migrations,) = of(found, "Job")
    specs = {component(each): each["spec"] for each in of(found, "CronJob")}
    assert specs.keys() == set(COMMANDS)
    for command, spec in specs.items():
        job = spec["jobTemplate"]["spec"]
        pod = job["template"]["spec"]
        (container,) = pod["containers"]
        assert container["image"] == main_container(migrations)["image"]
        assert job["backoffLimit"] == 0
        assert pod["restartPolicy"] == "Never"
        is_audit = command == "audit"
        schedule = is_audit and merged(user_values(name))["audit"]["schedule"]
        assert spec["suspend"] is not bool(schedule)
        assert not schedule or spec["schedule"] == schedule


@EVERY_SET
def test_the_chart_has_no_hooks_but_its_test(name: str) -> None:
    annotations = [each["metadata"].get("annotations", {}) for each in objects(name)]
    hooks = {each.get("helm.sh/hook") for each in annotations}
    assert hooks <= {None, "test"}
