"""What compose.yaml is given: random passwords, and the permissions of the broker's users."""

import json
import re
import stat
import subprocess
from pathlib import Path

import pytest

from dev import broker

COMPOSE = broker.CHECKOUT / "compose.yaml"


def make(file: Path) -> dict[str, str]:
    """What passwords.sh writes, without the quotes."""
    subprocess.run([broker.CHECKOUT / "dev/images/passwords.sh", file], check=True)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    pairs = (line.split("=", 1) for line in file.read_text().splitlines())
    return {name: value.strip("'") for name, value in pairs}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "env"


def test_every_password_of_compose_is_made_and_none_is_known(file) -> None:
    made = make(file)
    needed = set(re.findall(r"\$\{(\w+):\?run dev/images/passwords.sh first\}", COMPOSE.read_text()))
    assert len(needed) > 10
    assert needed <= made.keys()
    assert re.findall(r"\$\{\w+(?!\w|:\?)", COMPOSE.read_text()) == []
    secrets = {name: value for name, value in made.items() if name != "RABBITMQ_DEFINITIONS"}
    assert len({*secrets.values()}) == len(secrets)
    assert all(re.fullmatch("[0-9a-f]{48}", secret) for secret in secrets.values())


def test_no_password_stands_in_compose() -> None:
    for user, password in re.findall(r"//(\w+):(.+?)@", COMPOSE.read_text()):
        assert password == f"${{{password[2:].partition(':')[0]}:?run dev/images/passwords.sh first}}", user


def test_the_broker_loads_the_permissions_with_the_passwords_of_the_services(file) -> None:
    made = make(file)
    users = broker.users(broker.BUS)
    wanted = broker.definitions({user: made[f"{user.upper()}_AMQP_PASSWORD"] for user in users}, broker.BUS)
    found = json.loads(made["RABBITMQ_DEFINITIONS"])
    earlier = found["users"].pop()
    assert found == wanted
    assert earlier == {"name": "shop", "password_hash": "", "tags": []}, "no password fits"


def test_passwords_stay_and_permissions_are_brought_up_to_date(file) -> None:
    first = make(file)
    file.write_text("".join(f"{name}={value}\n" for name, value in first.items() if name[0] != "R"))
    with file.open("a") as more:
        more.write("RABBITMQ_DEFINITIONS='{}'\nCOMPOSE_PROJECT_NAME=mine\n")
    assert make(file) == {**first, "COMPOSE_PROJECT_NAME": "mine"}


def test_the_template_of_the_definitions_is_up_to_date() -> None:
    assert broker.TEMPLATE.read_text() == broker.template(), "make specs"
