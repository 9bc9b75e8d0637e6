"""The users of the broker and their permissions, as RabbitMQ loads them: its definitions.

dev/bus.py makes bus.yaml from the code of the services. Here it becomes the definitions of `make up`,
and dev/images/definitions.json, from which dev/images/passwords.sh makes those of compose.yaml.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parent.parent
BUS = CHECKOUT / "charts" / "shop" / "files" / "bus.yaml"
PREVIOUS = BUS.with_name(
    "bus-previous.yaml"
)  # what copies of the previous version need
TEMPLATE = CHECKOUT / "dev" / "images" / "definitions.json"
VHOST = "/"
# For all services in one process (`make run`, tests). Earlier versions had this user alone, with a known
# password: it must have another one.
ALL_RIGHTS = "shop"
MIGRATIONS, OPERATOR = "migrations", "operator"
RIGHTS, TOPIC_RIGHTS = ("configure", "write", "read"), ("write", "read")


def users(*files: Path) -> list[str]:
    """The users of the broker."""
    return list(_rights(*files))


def definitions(
    passwords: Mapping[str, str], *files: Path, vhost: str = VHOST
) -> dict[str, Any]:
    """Users with these passwords, exchanges, and what the users may do by any of the files.

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
    """The user with all rights, and its permissions."""
    everything = dict.fromkeys(RIGHTS, ".*")
    return {
        "users": [{"name": ALL_RIGHTS, "password": password, "tags": []}],
        "permissions": [{"user": ALL_RIGHTS, "vhost": VHOST, **everything}],
    }


def template() -> str:
    """The definitions of compose.yaml, with the name of a variable in the place of each password.

    No password fits an empty hash, so the user of earlier versions cannot log in any more.
    """
    found = definitions(
        {user: f"${{{user.upper()}_AMQP_PASSWORD}}" for user in users(BUS)}, BUS
    )
    found["users"].append({"name": ALL_RIGHTS, "password_hash": "", "tags": []})
    return json.dumps(found, indent=1) + "\n"


def _rights(*files: Path) -> dict[str, dict[str, Any]]:
    """What each user may do, by any of the files."""
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
    """As Nameko declares it."""
    fixed = {"durable": True, "auto_delete": False, "internal": False, "arguments": {}}
    return {"name": name, "vhost": vhost, "type": kind, **fixed}
