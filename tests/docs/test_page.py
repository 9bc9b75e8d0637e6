"""The page of `make up` works while parts of the suite are killed or frozen (docs/running.md)."""

import re
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
import requests

from dev import process_tree
from dev.cli import Suite
from dev.page import TOKEN_FILE
from dev.ports import PAGE
from dev.supervisor import wait_for
from tests.docs.conftest import Terminal

DEADLINE_S = 60.0  # generous, for waiting and never for measuring


class Page:
    """A client that has opened the page. It sends all requests to the development server."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self.session = requests.Session()
        self.session.trust_env = False  # no proxy
        self.session.headers["X-Dev-Token"] = token

    def __call__(self, method: str, path: str, **options: Any) -> requests.Response:
        url = f"{self.url}{path}"
        return self.session.request(method, url, timeout=DEADLINE_S, **options)

    def inject(self, fault: str, name: str) -> None:
        assert self("POST", f"/dev/processes/{name}/{fault}").status_code == 202

    def rows(self) -> dict[str, dict[str, Any]]:
        return {
            row["name"]: row
            for row in self("GET", "/dev/processes").json()["processes"]
        }

    def restarts(self, name: str) -> int:
        return int(self.rows()[name]["restarts"])

    def sign_up(self) -> None:
        name = f"page-{uuid4().hex[:8]}"
        details = {
            "username": name,
            "email": f"{name}@example.org",
            "password": "correct horse battery",
        }
        response = self("POST", "/users", json=details)
        assert response.status_code == 201, response.text
        token = response.json()["access_token"]
        self.session.headers["Authorization"] = f"Bearer {token}"


@pytest.fixture
def page(suite: Suite, terminal: Terminal) -> Iterator[Page]:
    """Open the URL that `make status` prints. Afterwards the whole suite is ready again."""
    # It ends with an error while a service is not ready.
    printed = terminal.run("make --no-print-directory status || true")
    [(url, token)] = re.findall(r"^The page: (\S+)/#dev=(\S+)$", printed, re.MULTILINE)
    yield Page(url, token)
    assert wait_for(lambda: is_ready(suite), DEADLINE_S, every_s=0.5)


def is_ready(suite: Suite) -> bool:
    return all(row[1] == "ready" for row in suite.status())


def await_restart(
    suite: Suite, page: Page, name: str, inject: Callable[[], None]
) -> None:
    before = page.restarts(name)
    inject()
    assert wait_for(lambda: page.restarts(name) > before, DEADLINE_S)
    assert wait_for(lambda: is_ready(suite), DEADLINE_S, every_s=0.5)


def test_make_up_prints_the_url_of_the_page(suite, terminal, page, capsys) -> None:
    suite.up()
    assert f"{page.url}/#dev=" in capsys.readouterr().out
    assert f"{page.url}/#dev=" in terminal.run(".venv/bin/python -m dev.cli hints")
    file = suite.servers.state / TOKEN_FILE
    assert file.stat().st_mode & 0o777 == 0o600
    assert page("GET", "/").headers["Content-Type"] == "text/html"


def test_all_programs_but_the_page_are_listed(suite, page) -> None:
    names = {*suite.servers.names(), *suite.services} - {PAGE}
    assert page.rows().keys() == names


def test_the_server_has_no_uri_and_no_secret(suite) -> None:
    script = (suite.servers.state / "programs" / PAGE).read_text()
    passwords = suite.servers.passwords
    assert "URI" not in script
    assert not passwords.occur_in(script)


def test_a_killed_service_is_restarted(suite, page) -> None:
    await_restart(suite, page, "billing", lambda: page.inject("kill", "billing"))


def test_a_killed_gateway_is_a_problem_until_it_is_restarted(suite, page) -> None:
    page.sign_up()
    before = page.restarts("gateway")
    page.inject("kill", "gateway")
    response = page("GET", "/account")
    assert response.status_code == 503
    assert response.headers["Content-Type"] == "application/problem+json"
    assert wait_for(lambda: page("GET", "/account").status_code == 200, DEADLINE_S)
    assert page.restarts("gateway") == before + 1


def test_an_order_settles_although_billing_was_frozen(page) -> None:
    page.sign_up()
    assert page("POST", "/account/deposits", json={"amount": "50.00"}).ok
    page.inject("freeze", "billing")
    placed = page("POST", "/orders", json={"price": "30.00"})
    assert (placed.status_code, placed.json()["status"]) == (202, "pending")
    wait = {"Prefer": "wait=30"}
    settled = page("GET", f"/orders/{placed.json()['id']}", headers=wait)
    assert settled.headers["Preference-Applied"] == "wait=30"
    assert settled.json()["status"] == "paid"
    assert page.rows()["billing"]["state"] == "running"


@pytest.mark.parametrize("name", ["postgresql", "rabbitmq"])
def test_a_frozen_server_can_be_killed(suite, page, name) -> None:
    """All its processes are frozen. Those that its end leaves behind end, too."""
    page.inject("freeze", name)
    pids = process_tree.tree(suite.supervisor.processes()[name])
    assert len(pids) > 1
    assert {process_tree.state(pid) for pid in pids} == {"T"}
    await_restart(suite, page, name, lambda: page.inject("kill", name))
    assert {process_tree.state(pid) for pid in pids} <= {"", "Z"}
