"""Users of the broker and their permissions, in RabbitMQ's format of definitions.

dev/bus.py writes bus.yaml from the code of the services. This module converts bus.yaml to the
definitions of `make up` and to dev/images/definitions.json. From that file
dev/images/passwords.sh writes the definitions of compose.yaml.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
BUS = CHECKOUT / "charts" / "shop" / "files" / "bus.yaml"
# The permissions that copies of the previous version need.
PREVIOUS = BUS.with_name("bus-previous.yaml")
TEMPLATE = CHECKOUT / "dev" / "images" / "definitions.json"
VHOST = "/"
# For all services in one process: `make run` and tests. Earlier versions had only this user, with
# a known password, so it must get another password.
ALL_RIGHTS = "shop"
MIGRATIONS, OPERATOR = "migrations", "operator"
RIGHTS, TOPIC_RIGHTS = ("configure", "write", "read"), ("write", "read")


def users(*files: Path) -> list[str]:
    """Return the users of the broker."""
    return list(_rights(*files))


def definitions(
    passwords: Mapping[str, str], *files: Path, vhost: str = VHOST
) -> dict[str, Any]:
    """Return users with these passwords, exchanges, and the permissions that any file gives.

    A pattern must match a whole name.
    """
    rights = _rights(*files)
    kinds = {name: "topic" for may in rights.values() for name in may["topics"]}
    for found in map(_read, files):
        kinds |= found.get("exchanges", {})
    return {
        "vhosts": [{"name": vhost}],
        "users": [
            {"name": user, "password": passwords[user], "tags": []} for user in rights
        ],
        "permissions": [
            {"user": user, "vhost": vhost, **_patterns(may, RIGHTS)}
            for user, may in rights.items()
        ],
        "topic_permissions": [
            {
                "user": user,
                "vhost": vhost,
                "exchange": exchange,
                **_patterns(keys, TOPIC_RIGHTS),
            }
            for user, may in rights.items()
            for exchange, keys in may["topics"].items()
        ],
        "exchanges": [_exchange(name, kind, vhost) for name, kind in kinds.items()],
    }


def with_all_rights(password: str) -> dict[str, Any]:
    """Return the user with all rights, and its permissions."""
    everything = dict.fromkeys(RIGHTS, ".*")
    return {
        "users": [{"name": ALL_RIGHTS, "password": password, "tags": []}],
        "permissions": [{"user": ALL_RIGHTS, "vhost": VHOST, **everything}],
    }


def template() -> str:
    """Return the definitions of compose.yaml, with a variable for each password.

    An empty hash matches no password, so the user of earlier versions can no longer log in.
    """
    variables = {user: f"${{{user.upper()}_AMQP_PASSWORD}}" for user in users(BUS)}
    found = definitions(variables, BUS)
    found["users"].append({"name": ALL_RIGHTS, "password_hash": "", "tags": []})
    return json.dumps(found, indent=1) + "\n"


def _rights(*files: Path) -> dict[str, dict[str, Any]]:
    """Return each user's permissions: the sum of all files."""
    rights: dict[str, dict[str, Any]] = {}
    for found in map(_read, files):
        for user, may in found["users"].items():
            known = rights.setdefault(user, {"topics": {}})
            _add(known, may, RIGHTS)
            for exchange, keys in may["topics"].items():
                _add(known["topics"].setdefault(exchange, {}), keys, TOPIC_RIGHTS)
    return rights


def _add(known: dict[str, Any], more: Mapping[str, Any], rights: Sequence[str]) -> None:
    for right in rights:
        known[right] = "|".join(filter(None, (known.get(right), more[right])))


def _read(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    return found


def _patterns(may: Mapping[str, Any], rights: Sequence[str]) -> dict[str, str]:
    return {right: f"^({may[right]})$" for right in rights}


def _exchange(name: str, kind: str, vhost: str) -> dict[str, Any]:
    """Return an exchange with the properties that Nameko declares."""
    fixed = {"durable": True, "auto_delete": False, "internal": False, "arguments": {}}
    return {"name": name, "vhost": vhost, "type": kind, **fixed}
