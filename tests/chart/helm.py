"""The real helm, in its two versions, and the objects that it renders."""

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
# The sets of values that all checks render, by name: the default, and those in values/.
FILES = {
    path.stem: path
    for path in sorted(Path(__file__).with_name("values").glob("*.yaml"))
}
SETS = ("default", *FILES)

Object = dict[str, Any]
# The C loader is ten times as fast.
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# PyYAML knows the sign `=` as a type of YAML 1.1 and cannot read it. For Kubernetes it is a string.
Loader.add_constructor("tag:yaml.org,2002:value", lambda loader, node: node.value)


class HelmError(Exception):
    """helm ended with an error; the message is its output."""


@functools.cache
def _home() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="shop-helm-")


def helm(version: str, *arguments: str | Path, stdin: str | None = None) -> str:
    """Return the output of helm, which knows no cluster and no settings of the user."""
    program = VERSIONS[version]
    assert program.exists(), f"{program} is missing: `make test-chart` fetches it"
    home = _home().name
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": home,
        "KUBECONFIG": os.devnull,
        "HELM_CACHE_HOME": f"{home}/CACHE",
        "HELM_CONFIG_HOME": f"{home}/CONFIG",
        "HELM_DATA_HOME": f"{home}/DATA",
        # The default is five requests a second.
        "HELM_QPS": "10000",
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
    """Return the arguments that choose a set of values."""
    return [] if name == "default" else ["--values", str(FILES[name])]


@functools.cache
def text(name: str, version: str = NEWEST) -> str:
    """Return the output of `helm template` with a set of values."""
    return helm(
        version, "template", RELEASE, CHART, "--namespace", NAMESPACE, *values_of(name)
    )


@functools.cache
def objects(name: str, version: str = NEWEST) -> list[Object]:
    """Return all objects of a set of values, hooks included.

    The list is shared, so callers must not change it.
    """
    return parse(text(name, version))


def parse(manifest: str) -> list[Object]:
    return [each for each in yaml.load_all(manifest, Loader) if each]


def render(
    values: dict[str, Any], version: str = NEWEST, release: str = RELEASE
) -> list[Object]:
    """Return the objects that the chart renders with these values."""
    given = json.dumps(values, ensure_ascii=False)
    arguments = (release, CHART, "--namespace", NAMESPACE, "--values", "-")
    return parse(helm(version, "template", *arguments, stdin=given))


def user_values(name: str) -> dict[str, Any]:
    """Return a set of values as the user writes it, without the defaults."""
    return {} if name == "default" else yaml.safe_load(FILES[name].read_text())


def merged(values: Any, defaults: Any = DEFAULTS) -> Any:
    """Merge the values over the defaults as helm does: null removes a default."""
    if not isinstance(values, dict) or not isinstance(defaults, dict):
        return values
    common = values.keys() & defaults.keys()
    both = {key: merged(values[key], defaults[key]) for key in common}
    result = defaults | values | both
    return {key: value for key, value in result.items() if value is not None}


def of(found: Iterable[Object], *kinds: str) -> list[Object]:
    return [each for each in found if each["kind"] in kinds]


def name_of(found: Object) -> str:
    return found["metadata"]["name"]


def pods(found: Iterable[Object]) -> dict[str, Object]:
    """Return all pod templates, and bare pods, by kind and name of their controller."""
    templates = ((each, _template(each)) for each in found)
    return {
        f"{each['kind']}/{name_of(each)}": template
        for each, template in templates
        if template is not None
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
    """Return whether a label selector matches an object.

    An empty selector matches every object, None matches none.
    """
    if selector is None:
        return False
    own = labels(found)
    if not selector.get("matchLabels", {}).items() <= own.items():
        return False
    expressions = selector.get("matchExpressions", [])
    return all(_fits(each, own.get(each["key"])) for each in expressions)


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
    """Return the part of the suite that an object belongs to, by its component label."""
    return labels(found).get("app.kubernetes.io/component", "")
