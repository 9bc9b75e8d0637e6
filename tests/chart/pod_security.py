"""The Pod Security Standard "restricted" as code, including "baseline".

https://kubernetes.io/docs/concepts/security/pod-security-standards/, Kubernetes 1.36, for Linux.
"""

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
}
SELINUX_TYPES = {
    "",
    "container_t",
    "container_init_t",
    "container_kvm_t",
    "container_engine_t",
}
CONFINED = {"RuntimeDefault", "Localhost"}
HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe", "postStart", "preStop")


def violations(pod: dict[str, Any]) -> list[str]:
    """Return the violations of "restricted" in a pod ({"metadata": ..., "spec": ...})."""
    spec = pod["spec"]
    context = spec.get("securityContext", {})
    found = [*_pod(spec), *_annotations(pod), *_confinement("pod", context)]
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind, []):
            name = container["name"]
            found += [f"{name}: {each}" for each in _container(container, context)]
    return found


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    for flag in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(flag):
            yield f"{flag} is set"
    for volume in spec.get("volumes", []):
        if not volume.keys() <= {"name"} | VOLUMES:
            yield f"volume {volume['name']} is of a forbidden kind"
    for sysctl in spec.get("securityContext", {}).get("sysctls", []):
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']} is unsafe"


def _annotations(pod: dict[str, Any]) -> Iterator[str]:
    for name, value in (pod["metadata"].get("annotations") or {}).items():
        if name.startswith("container.apparmor.security.beta.kubernetes.io/"):
            is_local = value.startswith("localhost/")
            if not is_local and value not in ("", "runtime/default"):
                yield f"annotation {name} switches AppArmor off"


def _container(container: dict[str, Any], pod: dict[str, Any]) -> Iterator[str]:
    context = container.get("securityContext", {})
    yield from _confinement("container", context)
    yield from _privileges(context)
    if not context.get("runAsNonRoot", pod.get("runAsNonRoot", False)):
        yield "runAsNonRoot is not true"
    profile = context.get("seccompProfile", pod.get("seccompProfile", {}))
    if profile.get("type") not in CONFINED:
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield "a hostPort is set"
    handlers = container | container.get("lifecycle", {})
    for name in HANDLERS:
        for action in ("httpGet", "tcpSocket"):
            if handlers.get(name, {}).get(action, {}).get("host"):
                yield f"{name} names a host"


def _privileges(context: dict[str, Any]) -> Iterator[str]:
    if context.get("privileged"):
        yield "it is privileged"
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if context.get("procMount", "Default") != "Default":
        yield "procMount is not Default"
    capabilities = context.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield "capabilities are not dropped"
    if not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
        yield "capabilities are added"


def _confinement(whose: str, context: dict[str, Any]) -> Iterator[str]:
    """Yield the violations that a securityContext of a pod or a container can have."""
    if context.get("runAsUser") == 0:
        yield f"{whose}: runAsUser is 0"
    if context.get("runAsNonRoot") is False:
        yield f"{whose}: runAsNonRoot is false"
    if context.get("windowsOptions", {}).get("hostProcess"):
        yield f"{whose}: hostProcess is set"
    for name in ("seccompProfile", "appArmorProfile"):
        if context.get(name, {"type": "RuntimeDefault"}).get("type") not in CONFINED:
            yield f"{whose}: {name} is unconfined"
    options = context.get("seLinuxOptions", {})
    has_owner = options.get("user") or options.get("role")
    if has_owner or options.get("type", "") not in SELINUX_TYPES:
        yield f"{whose}: seLinuxOptions are not the runtime's"
