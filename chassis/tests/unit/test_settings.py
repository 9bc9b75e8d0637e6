"""Settings are read strictly. One line names a missing or wrong setting."""

import os
import re
from pathlib import Path
from typing import Any
from unittest.mock import patch
from urllib.parse import quote, unquote

import kombu
import pytest
import yaml
from hypothesis import assume, example, given, settings, strategies as st
from nameko.cli.main import setup_yaml_parser
from nameko.exceptions import ConfigurationError
from psycopg2.extensions import make_dsn, parse_dsn
from sqlalchemy import make_url

from chassis.broker import broker_settings
from chassis.db import database_uri
from chassis.settings import ADDRESS, COUNT, SECONDS, SWITCH, TEXT, WHOLE_SECONDS, read
from conftest import SERVICES_WITH_TABLES

CONFIG = Path("config.yaml")
# U+FFFD replaces bytes that are not UTF-8. A URI with it is refused.
PRINTABLE = st.characters(
    codec="utf-8", exclude_categories=("C", "Zl", "Zp"), exclude_characters="\ufffd"
)


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        ("0.5", SECONDS, 0.5),
        (5, SECONDS, 5.0),
        ("5", SECONDS, 5.0),
        (16, COUNT, 16),
        ("16", COUNT, 16),
        (10, WHOLE_SECONDS, 10),
        ("10", WHOLE_SECONDS, 10),
        ("true", SWITCH, True),
        ("false", SWITCH, False),
        (True, SWITCH, True),
        ("NO", TEXT, "NO"),
        ("EUR", TEXT, "EUR"),
        ("127.0.0.1:0", ADDRESS, "127.0.0.1:0"),
        ("65535", ADDRESS, "65535"),
        ("8000", ADDRESS, "8000"),
    ],
)
def test_a_valid_setting_is_read(value, field, expected) -> None:
    assert read({"X": value}, "X", field) == expected


def test_a_dotted_name_is_a_path() -> None:
    assert read({"WORKERS": {"billing": 4}}, "WORKERS.billing", COUNT) == 4


@pytest.mark.parametrize(
    "config", [{}, {"X": None}, {"A": 1}, {"A": {"B": ""}}, None, []]
)
def test_a_missing_setting_is_reported(config) -> None:
    with pytest.raises(ConfigurationError, match=r"^A\.B is missing$"):
        read(config, "A.B", TEXT)


@pytest.mark.parametrize(
    ("value", "field"),
    [
        (0, SECONDS),
        (-1, SECONDS),
        ("soon", SECONDS),
        (float("nan"), SECONDS),
        (float("inf"), SECONDS),
        ([], SECONDS),
        (0, COUNT),
        ("many", COUNT),
        (10.5, WHOLE_SECONDS),
        (0, WHOLE_SECONDS),
        ("10.0", WHOLE_SECONDS),
        *(
            (text, SECONDS)
            for text in (
                "0x10",
                "1_000",
                "12:30",
                "1e3",
                " 5",
                "5 ",
                "-1",
                "٥",
                "NaN",
                "5.",
            )
        ),
        ("9" * 5000, COUNT),
        *((text, SWITCH) for text in ("no", "yes", "on", "True", "1", "maybe", 5, [])),
        (5, TEXT),
        ({}, TEXT),
        ("127.0.0.1:", ADDRESS),
        (":8000", ADDRESS),  # an empty host would mean all interfaces
        ("127.0.0.1:65536", ADDRESS),
        ("127.0.0.1:http", ADDRESS),
        ("127.0.0.1:80\n", ADDRESS),
        (8000, ADDRESS),
    ],
)
def test_a_wrong_setting_is_reported_in_one_line(value, field) -> None:
    with pytest.raises(ConfigurationError, match=r"^X is wrong: ") as caught:
        read({"X": value}, "X", field)
    assert "\n" not in str(caught.value)


# config.yaml


def loaded(**environment: str) -> dict[str, Any]:
    """Return config.yaml as Nameko reads it with this environment."""
    setup_yaml_parser()
    with patch.dict(os.environ, environment):
        config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    return config


def test_no_variable_is_parsed_as_yaml() -> None:
    lines = [
        line
        for line in CONFIG.read_text().splitlines()
        if "${" in line and not line.startswith("#")
    ]
    assert lines
    assert [
        line for line in lines if "!raw_env_var " not in line.partition("${")[0]
    ] == []


@pytest.mark.parametrize(
    "text", ["no", "NO", "0x10", "1_000", "12:30", "x #y", "${HOME}", "@", "{", "a: b"]
)
def test_the_text_of_a_variable_is_unchanged(text: str) -> None:
    config = loaded(CURRENCY=text, LOG_LEVEL=text, GATEWAY_HOST=text)
    assert config["CURRENCY"] == config["LOGGING"]["root"]["level"] == text
    assert config["WEB_SERVER_ADDRESS"].partition(":8000")[0] == text


def test_each_secret_can_be_in_a_file() -> None:
    names = set(re.findall(r"[A-Z_]+_URI\b", CONFIG.read_text())) | {"TOKEN_SECRET"}
    # The broker's, that of tokens, and two for each database.
    assert len(names) == 2 + 2 * len(SERVICES_WITH_TABLES)
    for name in names:
        assert "/a file" in str(loaded(**{f"{name}_FILE": "/a file"})), name


# Secrets in files


def uri_in(file: Path, content: str) -> Path:
    file.write_text(content)
    return file


def test_a_setting_is_read_from_its_file(tmp_path: Path) -> None:
    amqp = uri_in(tmp_path / "amqp", "amqp://a:b@h/\n")
    database = uri_in(tmp_path / "database", "postgresql+psycopg2://a:b@h/d")
    config = loaded(
        AMQP_URI="", AMQP_URI_FILE=str(amqp), USERS_DB_URI_FILE=str(database)
    )
    resolved = broker_settings(config)
    assert resolved["AMQP_URI"] == "amqp://a:b@h/"
    assert broker_settings(resolved) == resolved
    assert config["AMQP_URI"] == "", "the services of a process share it"
    assert database_uri(config, "DB_URIS", "users") == "postgresql+psycopg2://a:b@h/d"


def test_a_secret_cannot_be_set_twice(tmp_path: Path) -> None:
    file = str(uri_in(tmp_path / "file", "amqp://a:b@h/"))
    with pytest.raises(
        ConfigurationError, match=r"^AMQP_URI and AMQP_URI_FILE are both set: unset one"
    ):
        broker_settings(
            {"AMQP_URI": "amqp://a:b@h/", "AMQP_URI_FILE": file, "HEARTBEAT": 10}
        )
    config = {
        "DB_OWNER_URIS": {"users:Base": "x"},
        "DB_OWNER_URIS_FILE": {"users:Base": file},
    }
    with pytest.raises(
        ConfigurationError,
        match=r"^USERS_DB_OWNER_URI and USERS_DB_OWNER_URI_FILE are both",
    ):
        database_uri(config, "DB_OWNER_URIS", "users")


def test_the_variable_of_a_missing_file_is_reported(tmp_path: Path) -> None:
    config = {"DB_URIS_FILE": {"users:Base": str(tmp_path / "missing")}}
    with pytest.raises(
        ConfigurationError, match=r"^USERS_DB_URI_FILE is wrong: .*: No such file"
    ):
        database_uri(config, "DB_URIS", "users")


# URIs


def broker_uri(uri: str) -> str:
    found: str = broker_settings({"AMQP_URI": uri, "HEARTBEAT": 10})["AMQP_URI"]
    return found


def users_uri(uri: str) -> str:
    return database_uri({"DB_URIS": {"users:Base": uri}}, "DB_URIS", "users")


@pytest.mark.parametrize(
    "uri",
    [
        "localhost",
        "http://localhost",
        "amqp",
        "amqp://",
        "amqp://shop:shop@",
        "amqp://shop:shop@host:port/",
        "amqp://shop:shop@host:99999/",
        "amqp://shop:shop@host:0/",
        "amqp://shop:shop@ho st/",
        "amqp://shop:shop@host/\n",
        "amqp://shop:shop@shop@host/",
        "amqp://shop:shop/shop@host/",
        "amqp://shop:shop?shop@host/",
        "amqp://shop:shop#shop@host/",
        "amqp://shop:shop;shop@host/",
        "amqp://shop:shop[shop@host/",
        "amqp://shop:50%shop@host/",
        "amqp://shop:%FFshop@host/",
        "amqp://shop:%00shop@host/",
        "amqp://shop:schöpshop@host/",
        "amqp://shop:1/shop@host/",
        "amqp://shop:1?shop@host/",
        "amqp://shop:shop@host/?heartbeat=shop",
    ],
)
def test_a_wrong_broker_uri_is_reported_without_its_password(uri) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^AMQP_URI is wrong: it must read amqp://"
    ) as caught:
        broker_uri(uri)
    assert "shop" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "amqp://guest:guest@host",
        "amqp://host",
        "amqp://a:b@[::1]:5672//",
        "amqps://a:b@host:5671/shop",
        "amqps://a:b@host.example.org:5671/%2Fshop",
    ],
)
def test_a_valid_broker_uri_is_accepted(uri) -> None:
    assert broker_uri(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://shop:shop@h/d",
        "sqlite://",
        "nonsense",
        "postgresql+psycopg2://shop:shop@shop@h/d",
        "postgresql+psycopg2://shop:shop@h:x/d",
        "postgresql+psycopg2://shop:shop@h:99999/d",
        "postgresql+psycopg2://shop:50%shop@h/d",
        "postgresql+psycopg2://shop@h/d?password=a&shop=b",
        "postgresql+psycopg2://shop@h/d?%70assword=a",
        "postgresql+psycopg2://shop@h/d?port=hunter2",
        "postgresql+psycopg2://shop@h/d?sslmode=require&async=1",
        "postgresql+psycopg2://shop@h/d?connection_factory=x",
        "postgresql+psycopg2://shop@h/d?dsn=x",
    ],
)
def test_a_wrong_database_uri_is_reported_without_its_password(uri) -> None:
    with pytest.raises(
        ConfigurationError, match=r"^USERS_DB_URI is wrong: .*psycopg2"
    ) as caught:
        users_uri(uri)
    assert "shop" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql+psycopg2://role@host",
        "postgresql+psycopg2://role:password@one,two:5432/d?sslmode=verify-full",
        "postgresql+psycopg2://role:password@[::1]:5432/d",
        "postgresql+psycopg2://role:password@/d?host=one:5432&host=two:5432",
        "postgresql+psycopg2://role:password@/d?host=%2Fvar%2Frun%2Fpostgresql",
        "postgresql+psycopg2://role:a/b+c==@host/d",
    ],
)
def test_a_valid_database_uri_is_accepted(uri) -> None:
    assert users_uri(uri) == uri


def broker_parts(uri: str) -> tuple[Any, ...]:
    """Return the parts of the broker's URI, as kombu parses it."""
    found = kombu.Connection(uri)
    return found.userid, found.password, found.hostname, found.port, found.virtual_host


def database_parts(uri: str) -> tuple[Any, ...]:
    """Return the parts of a database's URI, as libpq receives them."""
    url = make_url(uri)
    arguments, where = url.get_dialect()().create_connect_args(url)
    found = parse_dsn(make_dsn(*arguments, **where))
    return (
        found["user"],
        found["password"],
        found["host"],
        int(found["port"]),
        found["dbname"],
    )


KINDS = pytest.mark.parametrize(
    ("uri", "check", "parts"),
    [
        ("amqp://role:{}@host.example.org:1234/place", broker_uri, broker_parts),
        (
            "postgresql+psycopg2://role:{}@host.example.org:1234/place",
            users_uri,
            database_parts,
        ),
    ],
    ids=["broker", "database"],
)


@KINDS
@settings(deadline=None)
@given(password=st.text(PRINTABLE, min_size=1))
@example(password=" {0}{x}%s %41 '\"\\${HOME}@:/?#[];é€𝄞 ")
def test_a_percent_encoded_password_is_decoded(uri, check, parts, password) -> None:
    found = parts(check(uri.format(quote(password, safe=""))))
    assert found == ("role", password, "host.example.org", 1234, "place")


# No error's text contains four of these characters in a row.
SECRET = st.text("QXZJ479@:/?#[]{}%$;&=+,.'\"\\ é", min_size=4, max_size=30)


@KINDS
@settings(deadline=None)
@given(password=SECRET)
@example(password="{QXZJ}")
@example(password="QXZJ/479?XQZJ")
@example(password="479/XQZJ")
@example(password="QXZJ@479Q:47/X")
def test_an_unencoded_password_is_unchanged_or_refused(
    uri, check, parts, password
) -> None:
    assume(unquote(password) == password)
    pieces = {password[start : start + 4] for start in range(len(password) - 3)}
    refusal = ""
    try:
        taken = check(uri.format(password))
    except ConfigurationError as exc:
        refusal = str(exc)
    if refusal:
        assert [piece for piece in pieces if piece in refusal] == []
    else:
        assert parts(taken) == ("role", password, "host.example.org", 1234, "place")
