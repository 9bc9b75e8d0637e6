"""One structured line an event, with the request id of its work."""

import json
import logging
import logging.config
from pathlib import Path
from typing import Any

import eventlet
import pytest
import yaml
from nameko.cli.main import setup_yaml_parser

from chassis.logs import (
    bind_client,
    bind_request_id,
    clean_request_id,
    current_client,
    current_request_id,
    formatter,
)


def line(style: str, message: str = "paid", exc_info: Any = None, **fields: Any) -> str:
    record = logging.LogRecord(
        "billing", logging.INFO, "f.py", 1, message, (), exc_info
    )
    record.__dict__.update(fields)
    return formatter(style).format(record)


def test_a_line_is_one_json_object() -> None:
    text = line("json", order_id="42", note="a\nb — д")
    assert "\n" not in text
    fields = json.loads(text)
    assert fields["timestamp"].endswith("Z")
    expected = {
        "event": "paid",
        "level": "info",
        "logger": "billing",
        "order_id": "42",
        "note": "a\nb — д",
    }
    assert expected.items() <= fields.items()


def test_any_value_can_be_logged() -> None:
    assert "object" in json.loads(line("json", what=object()))["what"]


def test_an_exception_is_in_the_same_line() -> None:
    try:
        raise ValueError("why")
    except ValueError as exc:
        text = line("json", exc_info=(type(exc), exc, exc.__traceback__))
    assert "\n" not in text
    assert "ValueError: why" in json.loads(text)["exception"]


def test_a_terminal_gets_a_readable_line() -> None:
    text = line("console", order_id="42")
    assert "paid" in text
    assert "42" in text
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)


def test_a_value_can_neither_forge_a_line_nor_control_the_terminal() -> None:
    text = line("console", path="/\n12:00:00.000 info paid", title="\x1b]0;x\x07")
    assert "\n" not in text
    assert "\x1b" not in text


CONTROL_CHARACTERS = [
    *"\x00\x1b\x7f\x85\x9b\u061c\u200e\u200f\u202a\u202e\u2028\u2029\u2066\u2069\ud800"
]


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize("mark", CONTROL_CHARACTERS, ids=ascii)
def test_no_line_contains_control_or_direction_characters(style, mark) -> None:
    try:
        raise ValueError(f"why{mark}")
    except ValueError as exc:
        exc_info = (type(exc), exc, exc.__traceback__)
    text = line(style, f"paid{mark}", exc_info, path=f"/{mark}2J", more=[mark])
    assert all(part.isprintable() for part in text.split("\n"))
    assert "paid" in text
    assert "ValueError" in text


def test_a_terminal_shows_letters_of_all_languages() -> None:
    assert "path=/д — 馬" in line("console", path="/д — 馬")


def test_auto_is_json_without_a_terminal() -> None:
    assert json.loads(line("auto"))["event"] == "paid"


def test_a_wrong_format_is_reported() -> None:
    config = {"version": 1, "formatters": {"line": {"()": formatter, "style": "xml"}}}
    with pytest.raises(SystemExit, match=r"^config\.yaml: LOG_FORMAT is wrong: 'xml'"):
        logging.config.dictConfig(config)


@pytest.mark.parametrize("variable", ["LOG_FORMAT", "LOG_LEVEL"])
@pytest.mark.parametrize(
    "text",
    ["", "no", "0x10", "{", "*", "ext://no.such", "ext://os.sep", "cfg://handlers"],
)
def test_a_wrong_variable_is_reported(monkeypatch, variable, text) -> None:
    """Through config.yaml, as `nameko run` reads and applies it."""
    setup_yaml_parser()
    monkeypatch.setenv(variable, text)
    config = yaml.safe_load(Path("config.yaml").read_text())
    with pytest.raises(SystemExit) as ended:
        logging.config.dictConfig(config["LOGGING"])
    assert str(ended.value).startswith(
        f"config.yaml: {variable} is wrong: {text!r} is not one of"
    )


def test_lines_have_the_request_id_of_their_greenthread() -> None:
    def work(request_id: str) -> str:
        bind_request_id({"request_id": request_id})
        eventlet.sleep(0)  # the other greenthread binds its own
        return json.loads(line("json"))["request_id"]

    threads = [eventlet.spawn(work, request_id) for request_id in ("one", "two")]
    assert [thread.wait() for thread in threads] == ["one", "two"]


def test_work_without_a_request_id_gets_a_new_one() -> None:
    ids = {eventlet.spawn(current_request_id).wait() for _ in range(2)}
    assert len(ids) == 2


def test_a_valid_request_id_is_kept() -> None:
    for given in ("a", "x" * 128, "abc-123_~!"):
        assert clean_request_id(given) == given


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "x" * 129,
        "a b",
        "a\r\nSet-Cookie: b",
        "д",
        "\x00",
        5,
        [],
        {"a": 1},
        b"abc",
    ],
)
def test_an_invalid_request_id_is_replaced(given) -> None:
    made = clean_request_id(given)
    assert made != given
    assert clean_request_id(made) == made


def test_each_greenthread_has_its_own_client() -> None:
    def work(client: str) -> str:
        bind_client({"client": client})
        eventlet.sleep(0)  # the other greenthread binds its own
        return current_client()

    threads = [eventlet.spawn(work, client) for client in ("192.0.2.1", "2001:db8::1")]
    assert [thread.wait() for thread in threads] == ["192.0.2.1", "2001:db8::1"]


@pytest.mark.parametrize("data", [{}, {"client": None}, {"client": ""}])
def test_an_unknown_client_has_no_address(data) -> None:
    def work() -> str:
        bind_client(data)
        return current_client()

    assert eventlet.spawn(current_client).wait() == ""
    assert eventlet.spawn(work).wait() == ""


def test_the_client_is_not_logged() -> None:
    def work() -> str:
        bind_client({"client": "192.0.2.1"})
        return line("json")

    assert "192.0.2.1" not in eventlet.spawn(work).wait()
