"""The variables that config.yaml reads, and those that a container of the chart would get."""

import base64
import functools
import itertools
import re
from pathlib import Path
from typing import Any

import yaml

from dev.chart.tools import ROOT
from tests.chart.helm import Object, name_of, of

SERVICES = ("users", "billing", "orders", "notifications", "gateway")
WITH_TABLES = SERVICES[:-1]
COMMANDS = ("dead", "redrive", "audit", "replay")
Keys = tuple[str, ...]
CONFIG = ROOT / "config.yaml"
_VARIABLE = re.compile(r"\$\{([A-Z_]+)")
_EXPANDED = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


@functools.cache
def readers() -> dict[str, frozenset[str]]:
    """Return the services that read each variable of config.yaml, or `migrations`.

    A setting below the name of a service belongs to that service. Any other setting is read by the
    services whose code names it. If only the chassis names it, all services read it.
    """
    found: dict[str, frozenset[str]] = {}
    # Not the safe loader: nameko extends that one, so that it inserts the variables' values.
    for path, text in _leaves(yaml.load(CONFIG.read_text(), yaml.BaseLoader)):
        for variable in _VARIABLE.findall(text):
            found[variable] = found.get(variable, frozenset()) | _readers_of(path)
    return found


def _leaves(config: Any, path: Keys = ()) -> list[tuple[Keys, str]]:
    if not isinstance(config, dict):
        return [(path, str(config))]
    inner = (_leaves(value, (*path, key)) for key, value in config.items())
    return list(itertools.chain.from_iterable(inner))


def _readers_of(path: Keys) -> frozenset[str]:
    group = path[0].removesuffix("_FILE")
    if group == "DB_OWNER_URIS":
        return frozenset({"migrations"})
    own = {each for each in SERVICES if path[-1] in (each, f"{each}:Base")}
    if own:
        return frozenset(own | ({"migrations"} if group == "DB_URIS" else set()))
    naming = {service for service in SERVICES if f'"{group}"' in _code(service)}
    if any(f'"{group}"' in _code(f"{service}/migrations") for service in WITH_TABLES):
        naming.add("migrations")
    return frozenset(naming or {*SERVICES, "migrations"})


@functools.cache
def _code(folder: str) -> str:
    """Return the code in a folder and its subfolders, without tests and migrations."""
    top = Path(ROOT, folder)
    excluded = {"tests", "migrations"}
    files = [(file, file.relative_to(top)) for file in top.rglob("*.py")]
    own = [file for file, name in files if excluded.isdisjoint(name.parts)]
    return "\n".join(file.read_text() for file in own)


def raw(container: Object) -> dict[str, Any]:
    """Return the variables of a container: each is a string, or the `valueFrom`."""
    return {
        each["name"]: each.get("value", each.get("valueFrom"))
        for each in container.get("env", [])
    }


def of_container(container: Object, found: list[Object]) -> dict[str, str]:
    """Return the variables as the process sees them.

    `<secret>.<key>` replaces a value from a Secret that is not part of the chart.
    """
    environment: dict[str, str] = {}
    for source in container.get("envFrom", []):
        for field, kind in (("secretRef", "Secret"), ("configMapRef", "ConfigMap")):
            if field in source:
                environment |= data(found, kind, source[field]["name"]) or {}
    for name, value in raw(container).items():
        if isinstance(value, str):
            environment[name] = _expanded(value, environment)
        else:
            environment[name] = _value_from(value, found)
    return environment


def _expanded(value: str, before: dict[str, str]) -> str:
    """Expand $(NAME) as Kubernetes does: only variables that come before count."""
    return _EXPANDED.sub(lambda match: before.get(match[1], match[0]), value)


def _value_from(source: Object, found: list[Object]) -> str:
    for field, kind in (("secretKeyRef", "Secret"), ("configMapKeyRef", "ConfigMap")):
        if field in source:
            name, key = source[field]["name"], source[field]["key"]
            known = data(found, kind, name)
            return known[key] if known is not None else f"{name}.{key}"
    # For example fieldRef: its name replaces the value.
    return next(iter(source))


def data(found: list[Object], kind: str, name: str) -> dict[str, str] | None:
    """Return the decoded content of a Secret or ConfigMap of the chart, or None."""
    for each in of(found, kind):
        if name_of(each) == name:
            return _decoded(each) if kind == "Secret" else each.get("data", {})
    return None


def _decoded(secret: Object) -> dict[str, str]:
    encoded = secret.get("data", {}).items()
    decoded = {key: base64.b64decode(value).decode() for key, value in encoded}
    return decoded | secret.get("stringData", {})
