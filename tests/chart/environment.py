"""What config.yaml reads, and what a container of the chart would find in its environment."""

import base64
import functools
import re
from pathlib import Path
from typing import Any

import yaml

from dev.chart.tools import ROOT
from tests.chart.helm import Object, name_of, of

SERVICES = ("users", "billing", "orders", "notifications", "gateway")
WITH_TABLES = SERVICES[:-1]
COMMANDS = ("dead", "redrive", "audit", "replay")
CONFIG = ROOT / "config.yaml"
_VARIABLE = re.compile(r"\$\{([A-Z_]+)")
_EXPANDED = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@functools.cache
def readers() -> dict[str, frozenset[str]]:
    """Who reads each variable of config.yaml: names of services, and `migrations`.

    A setting below the name of a service is that service's. Any other is read by the services whose
    code names it; by all where only the chassis does.
    """
    found: dict[str, frozenset[str]] = {}
    # Not the safe loader: nameko teaches that one to put the variables' values in.
    for path, text in _leaves(yaml.load(CONFIG.read_text(), yaml.BaseLoader)):
        for variable in _VARIABLE.findall(text):
            found[variable] = found.get(variable, frozenset()) | _readers_of(path)
    return found


def _leaves(
    config: Any, path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], str]]:
    if isinstance(config, dict):
        return [
            leaf
            for key, value in config.items()
            for leaf in _leaves(value, (*path, key))
        ]
    return [(path, str(config))]


def _readers_of(path: tuple[str, ...]) -> frozenset[str]:
    group = path[0].removesuffix("_FILE")
    if group == "DB_OWNER_URIS":
        return frozenset({"migrations"})
    below = {
        service for service in SERVICES if path[-1] in (service, f"{service}:Base")
    }
    if below:
        return frozenset(below | ({"migrations"} if group == "DB_URIS" else set()))
    naming = {service for service in SERVICES if f'"{group}"' in _code(service)}
    if any(f'"{group}"' in _code(f"{service}/migrations") for service in WITH_TABLES):
        naming.add("migrations")
    return frozenset(naming or {*SERVICES, "migrations"})


@functools.cache
def _code(folder: str) -> str:
    return "\n".join(file.read_text() for file in Path(ROOT, folder).glob("*.py"))


def raw(container: Object) -> dict[str, Any]:
    """The variables of a container as they stand in the object: a text, or where it is from."""
    return {
        each["name"]: each.get("value", each.get("valueFrom"))
        for each in container.get("env", [])
    }


def of_container(container: Object, found: list[Object]) -> dict[str, str]:
    """The variables as the process sees them; `<secret>.<key>` stands for what only the user knows."""
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for word, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if word in source:
                environment |= data(found, kind, source[word]["name"]) or {}
    for name, value in raw(container).items():
        environment[name] = (
            _expanded(value, environment)
            if isinstance(value, str)
            else _taken(value, found)
        )
    return environment


def _expanded(value: str, before: dict[str, str]) -> str:
    """Kubernetes' $(NAME): only of what stands before it."""
    return _EXPANDED.sub(lambda match: before.get(match[1], match[0]), value)


def _taken(source: Object, found: list[Object]) -> str:
    for word, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if word in source:
            known = data(found, kind, source[word]["name"])
            name, key = source[word]["name"], source[word]["key"]
            return known[key] if known is not None else f"{name}.{key}"
    return next(iter(source))  # fieldRef and the like


def data(found: list[Object], kind: str, name: str) -> dict[str, str] | None:
    """The content of a Secret or ConfigMap of the chart, decoded."""
    for each in of(found, kind):
        if name_of(each) == name:
            encoded = each.get("data", {}) if kind == "Secret" else {}
            plain = (
                each.get("stringData", {}) if kind == "Secret" else each.get("data", {})
            )
            return {
                key: base64.b64decode(value).decode() for key, value in encoded.items()
            } | plain
    return None
