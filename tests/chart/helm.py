"""The real helm, in its two versions, and what it makes of the chart."""

import functools
import json
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from dev.chart.tools import HELMS, ROOT

CHART = ROOT / "charts" / "shop"
RELEASE = "shop"
NAMESPACE = "nameko-07"
DEFAULTS: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
VERSIONS = {helm.version: helm.path for helm in HELMS}
NEWEST = HELMS[-1].version
# The sets of values that all checks look at, by name: the default, and those of values/.
FILES = {
    path.stem: path
    for path in sorted(Path(__file__).with_name("values").glob("*.yaml"))
}
SETS = ("default", *FILES)

Object = dict[str, Any]
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast
# PyYAML knows the sign `=` as a type of YAML 1.1 and cannot read it. For Kubernetes it is a text.
Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


class HelmError(Exception):
    """helm ended with an error; the message is what it said."""


@functools.cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="shop-helm-")


def helm(version: str, *arguments: str | Path, stdin: str | None = None) -> str:
    """What helm prints. It knows no cluster and none of the user's own settings."""
    program = VERSIONS[version]
    assert program.exists(), f"{program} is missing: `make test-chart` fetches it"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": _home().name,
        "KUBECONFIG": os.devnull,
        "HELM_QPS": "10000",  # it asks its server five times a second by default
        **{
            f"HELM_{kind}_HOME": f"{_home().name}/{kind}"
            for kind in ("CACHE", "CONFIG", "DATA")
        },
    }
    command = [str(part) for part in (program, *arguments)]
    done = subprocess.run(
        command,
        input=stdin,
        text=True,
        capture_output=True,
        env=environment,
        timeout=120,
    )
    if done.returncode:
        raise HelmError(done.stderr + done.stdout)
    return done.stdout


def values_of(name: str) -> list[str]:
    """The arguments that choose a set of values."""
    return [] if name == "default" else ["--values", str(FILES[name])]


@functools.cache
def text(name: str, version: str = NEWEST) -> str:
    """What `helm template` prints with a set of values."""
    return helm(
        version, "template", RELEASE, CHART, "--namespace", NAMESPACE, *values_of(name)
    )


@functools.cache
def objects(name: str, version: str = NEWEST) -> list[Object]:
    """All objects of a set of values, hooks included. Shared: not to be changed."""
    return parse(text(name, version))


def parse(manifest: str) -> list[Object]:
    return [each for each in yaml.load_all(manifest, Loader) if each]


def render(
    values: dict[str, Any], version: str = NEWEST, release: str = RELEASE
) -> list[Object]:
    """The objects with values of one's own."""
    given = json.dumps(values, ensure_ascii=False)
    arguments = (release, CHART, "--namespace", NAMESPACE, "--values", "-")
    return parse(helm(version, "template", *arguments, stdin=given))


def user_values(name: str) -> dict[str, Any]:
    """What a user wrote: a set of values without the defaults."""
    return {} if name == "default" else yaml.safe_load(FILES[name].read_text())


def merged(values: Any, defaults: Any = DEFAULTS) -> Any:
    """The values over the defaults, as helm lays them."""
    if not isinstance(values, dict) or not isinstance(defaults, dict):
        return values
    both = {
        key: merged(values[key], defaults[key])
        for key in values.keys() & defaults.keys()
    }
    return {
        key: value
        for key, value in (defaults | values | both).items()
        if value is not None
    }


def of(found: Iterable[Object], *kinds: str) -> list[Object]:
    return [each for each in found if each["kind"] in kinds]


def name_of(found: Object) -> str:
    return found["metadata"]["name"]


def pods(found: Iterable[Object]) -> dict[str, Object]:
    """All pods' templates (and bare pods) by the kind and name of what makes them."""
    return {
        f"{each['kind']}/{name_of(each)}": template
        for each in found
        if (template := _template(each)) is not None
    }


def _template(found: Object) -> Object | None:
    match found["kind"]:
        case "Pod":
            return found
        case "Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "Job":
            return found["spec"]["template"]
        case "CronJob":
            return found["spec"]["jobTemplate"]["spec"]["template"]
    return None


def containers(pod: Object) -> list[Object]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]


def labels(found: Object) -> dict[str, str]:
    return found["metadata"].get("labels", {})


def selects(selector: Object | None, found: Object) -> bool:
    """Whether a label selector fits an object; an empty one fits all, none fits nothing."""
    if selector is None:
        return False
    own = labels(found)
    if not selector.get("matchLabels", {}).items() <= own.items():
        return False
    return all(
        _fits(each, own.get(each["key"]))
        for each in selector.get("matchExpressions", [])
    )


def _fits(expression: Object, value: str | None) -> bool:
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
    assert expression["operator"] == "DoesNotExist"
    return value is None


def component(found: Object) -> str:
    """Which part of the suite an object belongs to: its app.kubernetes.io/component."""
    return labels(found).get("app.kubernetes.io/component", "")
