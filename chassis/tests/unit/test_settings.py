"""Settings are read strictly: what is missing or wrong is named in one line."""

import pytest
from nameko.exceptions import ConfigurationError

from chassis.amqp import check_broker_settings
from chassis.db import database_uri
from chassis.settings import ADDRESS, COUNT, SECONDS, TEXT, WHOLE_SECONDS, read


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        ("0.5", SECONDS, 0.5),
        (5, SECONDS, 5.0),
        (16, COUNT, 16),
        (10, WHOLE_SECONDS, 10),
        ("EUR", TEXT, "EUR"),
        ("127.0.0.1:0", ADDRESS, "127.0.0.1:0"),
        (":65535", ADDRESS, ":65535"),
        ("8000", ADDRESS, "8000"),
    ],
)
def test_a_right_setting_is_read(value, field, expected) -> None:
    assert read({"X": value}, "X", field) == expected


def test_a_dotted_name_looks_inside() -> None:
    assert read({"WORKERS": {"billing": 4}}, "WORKERS.billing", COUNT) == 4


@pytest.mark.parametrize("config", [{}, {"X": None}, {"A": 1}, None, []])
def test_a_missing_setting_is_named(config) -> None:
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
        ("10", WHOLE_SECONDS),
        ("", TEXT),
        (5, TEXT),
        ({}, TEXT),
        ("127.0.0.1:", ADDRESS),
        ("127.0.0.1:65536", ADDRESS),
        ("127.0.0.1:http", ADDRESS),
        ("127.0.0.1:80\n", ADDRESS),
        (8000, ADDRESS),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(value, field) -> None:
    with pytest.raises(ConfigurationError, match=r"^X is wrong: ") as caught:
        read({"X": value}, "X", field)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "uri",
    ["localhost", "http://localhost", "amqp", "amqp://shop:shop@host:port/", "amqp://shop:shop@host:99999/"],
)
def test_a_wrong_broker_uri_is_named_and_its_password_not_shown(uri) -> None:
    with pytest.raises(ConfigurationError, match=r"^AMQP_URI is wrong: it must read amqp://") as caught:
        check_broker_settings({"AMQP_URI": uri, "HEARTBEAT": 10})
    assert "shop" not in str(caught.value)


@pytest.mark.parametrize("uri", ["amqp://guest:guest@host", "amqps://a:b@host:5671/shop"])
def test_a_right_broker_uri_is_taken(uri) -> None:
    check_broker_settings({"AMQP_URI": uri, "HEARTBEAT": 10})


@pytest.mark.parametrize("uri", ["postgresql://a:b@h/d", "sqlite://", "nonsense"])
def test_a_wrong_database_uri_is_named(uri) -> None:
    config = {"DB_URIS": {"billing:Base": uri}}
    with pytest.raises(ConfigurationError, match=r"^DB_URIS\.billing:Base is wrong: .*psycopg2"):
        database_uri(config, "DB_URIS", "billing")
