"""The check of pod security accepts a restricted pod, and notices each violation."""

from copy import deepcopy
from typing import Any

import pytest

from tests.chart.pod_security import violations

RESTRICTED: dict[str, Any] = {
    "metadata": {},
    "spec": {
        "securityContext": {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "users",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "capabilities": {"drop": ["ALL"]},
                },
            }
        ],
        "volumes": [{"name": "tmp", "emptyDir": {}}],
    },
}
POD = ("spec", "securityContext")
CONTAINER = ("spec", "containers", 0)
CONTEXT = (*CONTAINER, "securityContext")
FAULTS: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "a host's network": (("spec", "hostNetwork"), True),
    "a host's processes": (("spec", "hostPID"), True),
    "a host's memory": (("spec", "hostIPC"), True),
    "a host's folder": (
        ("spec", "volumes", 0),
        {"name": "tmp", "hostPath": {"path": "/"}},
    ),
    "a host's port": ((*CONTAINER, "ports"), [{"containerPort": 80, "hostPort": 80}]),
    "a host's AppArmor": (
        ("metadata", "annotations"),
        {"container.apparmor.security.beta.kubernetes.io/users": "unconfined"},
    ),
    "an unsafe sysctl": ((*POD, "sysctls"), [{"name": "kernel.msgmax", "value": "1"}]),
    "root": ((*POD, "runAsUser"), 0),
    "root in a container": ((*CONTEXT, "runAsUser"), 0),
    "root not excluded": ((*POD, "runAsNonRoot"), None),
    "root not excluded in a container": ((*CONTEXT, "runAsNonRoot"), False),
    "no seccomp": ((*POD, "seccompProfile"), {}),
    "no seccomp in a container": ((*CONTEXT, "seccompProfile"), {"type": "Unconfined"}),
    "no AppArmor": ((*CONTEXT, "appArmorProfile"), {"type": "Unconfined"}),
    "another SELinux user": ((*CONTEXT, "seLinuxOptions"), {"user": "system_u"}),
    "a privileged container": ((*CONTEXT, "privileged"), True),
    "more privileges": ((*CONTEXT, "allowPrivilegeEscalation"), True),
    "more privileges not excluded": ((*CONTEXT, "allowPrivilegeEscalation"), None),
    "kept capabilities": ((*CONTEXT, "capabilities"), {}),
    "added capabilities": ((*CONTEXT, "capabilities", "add"), ["SYS_ADMIN"]),
    "an unmasked /proc": ((*CONTEXT, "procMount"), "Unmasked"),
    "a Windows host process": ((*CONTEXT, "windowsOptions"), {"hostProcess": True}),
    "a probe of another host": (
        (*CONTAINER, "livenessProbe"),
        {"httpGet": {"host": "example.org", "port": 80}},
    ),
    "a hook to another host": (
        (*CONTAINER, "lifecycle"),
        {"preStop": {"tcpSocket": {"host": "10.0.0.1"}}},
    ),
}


def test_a_restricted_pod_passes() -> None:
    assert violations(RESTRICTED) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_violation_of_restricted_is_noticed(fault: str) -> None:
    path, value = FAULTS[fault]
    pod = deepcopy(RESTRICTED)
    place: Any = pod
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    assert violations(pod)


def test_init_containers_are_checked() -> None:
    pod = deepcopy(RESTRICTED)
    pod["spec"]["initContainers"] = [{"name": "wait"}]
    assert violations(pod) == [
        "wait: allowPrivilegeEscalation is not false",
        "wait: capabilities are not dropped",
    ]
