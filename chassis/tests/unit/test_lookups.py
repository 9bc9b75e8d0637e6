"""The servers that a URI names, and their lookup."""

from typing import Any

import pytest
from sqlalchemy import make_url
from sqlalchemy.dialects.postgresql.psycopg2 import PGDialect_psycopg2

from chassis.lookups import needs_lookup, resolve, targets


def parameters(rest: str) -> dict[str, Any]:
    """Return the parameters that SQLAlchemy passes to psycopg2 for this URI."""
    url = make_url(f"postgresql+psycopg2://u:p@{rest}")
    _, given = PGDialect_psycopg2().create_connect_args(url)
    return dict(given)


@pytest.mark.parametrize(
    ("rest", "expected"),
    [
        ("a/d", [{"host": "a"}]),
        ("a:1/d", [{"host": "a", "port": "1"}]),
        ("[::1]:1/d", [{"host": "::1", "port": "1"}]),
        (
            "/d?host=a:1&host=b:2",
            [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}],
        ),
        (
            "/d?host=a,b&port=1,2",
            [{"host": "a", "port": "1"}, {"host": "b", "port": "2"}],
        ),
        ("/d?host=a,b", [{"host": "a", "port": ""}, {"host": "b", "port": ""}]),
        ("a/d?hostaddr=::1", [{"host": "a", "hostaddr": "::1"}]),
        ("/d?host=/run/postgresql", [{"host": "/run/postgresql"}]),
        ("/d", [{}]),
    ],
)
def test_each_host_of_a_uri_has_its_own_port(
    rest: str,
    expected: list[dict[str, str]],
) -> None:
    assert targets(parameters(rest)) == expected


def test_one_port_applies_to_all_addresses() -> None:
    given = {"host": "a,b", "hostaddr": "::1,::2", "port": 1}
    assert targets(given) == [
        {"host": "a", "hostaddr": "::1", "port": "1"},
        {"host": "b", "hostaddr": "::2", "port": "1"},
    ]


def test_lists_of_different_lengths_are_left_to_libpq() -> None:
    assert targets({"host": "a,b,c", "hostaddr": "::1,::2"}) == [{}]


@pytest.mark.parametrize(
    "target",
    [
        {"host": "a.example.org", "hostaddr": "10.0.0.1"},
        {"host": "/run/postgresql"},
        {"host": "@postgresql"},
        {"host": ""},
        {},
    ],
)
def test_addresses_and_sockets_need_no_lookup(target: dict[str, str]) -> None:
    assert not needs_lookup(target)


@pytest.mark.parametrize(
    "target", [{"host": "localhost"}, {"host": "a.example.org", "hostaddr": ""}]
)
def test_names_need_a_lookup(target: dict[str, str]) -> None:
    assert needs_lookup(target)


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "fe80::1%eth0"])
def test_an_address_resolves_to_itself(address: str) -> None:
    assert resolve(address) == [address]
