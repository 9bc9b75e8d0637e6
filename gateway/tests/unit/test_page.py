"""The page's modules: texts in both languages, exact amounts, rows of the diagram, nothing unsafe.

Node.js runs the functions that need no browser.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from gateway.documents import STATIC

PAGE = STATIC / "page"
TEXTS = (PAGE / "texts.js").read_text()
MODULES = sorted(
    path
    for path in PAGE.glob("*.js")
    if path.name not in ("texts.js", "standalone.module.js")
)


def texts(language: str) -> dict[str, str]:
    """Return the source of each text by its key."""
    block = TEXTS.partition(f"const {language} = {{\n")[2].partition("\n};")[0]
    entries = re.findall(r'^  "([a-z.-]+)": (.+),$', block, re.MULTILINE)
    assert len(entries) == len(block.splitlines()) - block.count("\n\n")
    return dict(entries)


def placeholders(text: str) -> set[str]:
    return set(re.findall(r"\{(\w+)\}", text))


def test_both_languages_have_the_same_texts_with_the_same_values() -> None:
    english, russian = texts("EN"), texts("RU")
    assert english.keys() == russian.keys()
    assert len(english) > 50
    for key, text in english.items():
        assert placeholders(text) == placeholders(russian[key]), key


def test_each_text_is_used_and_each_used_text_exists() -> None:
    source = "".join(path.read_text() for path in MODULES)
    keys = texts("EN").keys()
    used = set(re.findall(r'\bt\("([^"]+)"', source))
    # Keys that are put together, as `status.${status}`, and those that a variable names.
    prefixes = tuple(re.findall(r"\b(?:t|t\.has)\(`([a-z.-]+)\$\{", source))
    named = set(re.findall(r'"([a-z.-]+)"', source))
    assert used <= keys
    assert {key for key in keys - named if not key.startswith(prefixes)} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_inserts_no_html_and_runs_no_text(path: Path) -> None:
    """The policy blocks some of these too."""
    unsafe = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
    )
    assert not re.search(unsafe, path.read_text())


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_a_module_keeps_the_token_out_of_addresses_and_of_local_storage(
    path: Path,
) -> None:
    source = path.read_text()
    assert not re.search(r"[?&](access_)?token=", source)
    for stored in re.findall(r'localStorage\.\w+\("([^"]+)"', source):
        assert stored in ("language", "theme")


# Prints the results of calls: [[module, function, arguments], ...]. Modules are data, because a
# file that ends with .js is not a module for each version of Node.js.
RUN = """
const [calls, modules] = JSON.parse(process.argv[1]);
const results = [];
for (const [module, name, args] of calls) {
  const imported = await import("data:text/javascript," + encodeURIComponent(modules[module]));
  results.push(imported[name](...args.map(value => value === "FORMATS" ? FORMATS : value)));
}
console.log(JSON.stringify(results));
"""
# The functions that rowsOf receives, with texts that show what they got.
FORMATS = """
const t = (key, values) => values ? `${key} ${Object.values(values).join(" ")}` : key;
t.has = () => false;
const FORMATS = {
  t, money: amount => `${amount} EUR`, duration: ms => `${ms} ms`, clock: iso => iso.slice(11, 19),
};
"""
PATHS = {name: PAGE / f"{name}.js" for name in ("format", "sequence", "api")}


def call(*calls: tuple[str, str, list[Any]]) -> list[Any]:
    """Return the results of calls: module, function and arguments."""
    modules = {
        # The client of the API opens the browser's storage. Its functions do not.
        name: path.read_text().replace("sessionStorage.getItem", "String")
        for name, path in PATHS.items()
    }
    command = ["node", "--input-type=module", "--eval", FORMATS + RUN]
    done = subprocess.run(
        [*command, json.dumps([calls, modules])],
        capture_output=True,
        text=True,
        check=True,
    )
    results: list[Any] = json.loads(done.stdout)
    return results


def test_an_amount_keeps_all_its_digits() -> None:
    amounts = {
        ("0.00", "EUR", "en"): "€0.00",
        ("1234.50", "EUR", "en"): "€1,234.50",
        ("1234.50", "EUR", "ru"): "1 234,50 €",
        ("-0.05", "EUR", "en"): "−€0.05",
        ("1500", "JPY", "en"): "¥1,500",
        ("1.005", "KWD", "en"): "KWD 1.005",
        # A float has not as many digits.
        ("90071992547409931.10", "EUR", "en"): "€90,071,992,547,409,931.10",
    }
    found = call(*(("format", "formatMoney", [*key]) for key in amounts))
    assert [text.replace("\xa0", " ") for text in found] == [*amounts.values()]


def test_a_comma_is_a_decimal_point_only_in_russian() -> None:
    """In English it separates thousands. The API refuses it."""
    texts = [(" 30.10 ", "en"), ("30,10", "ru"), ("30,10", "en"), ("1,000", "en")]
    found = call(*(("format", "parseAmount", [*each]) for each in texts))
    assert found == ["30.10", "30.10", "30,10", "1,000"]


def test_a_body_of_the_log_changes_only_in_its_white_space() -> None:
    body = '{"a": "x, {y}: \\"[", "n": [1.0, {}], "e": []}'
    [text] = call(("api", "indent", [body]))
    assert text.splitlines() == [
        "{",
        '  "a": "x, {y}: \\"[",',
        '  "n": [',
        "    1.0,",
        "    {}",
        "  ],",
        '  "e": []',
        "}",
    ]


PAID = {"status": "done", "balance_after": "69.90"}
DONE = {"state": "done", "at": "2026-11-27T10:00:00.100000Z", "since_previous_ms": 3.1}
EVENTS = (
    "order_placed",
    "withdrawal_recorded",
    "order_settled",
    "event_published",
    "letter_written",
)


def story(status: str = "paid", attempts: int = 0, **steps: Any) -> dict[str, Any]:
    """Return a story. Its steps are done, except those that are named."""
    facts: dict[str, Any] = {
        "withdrawal_recorded": {"operation": PAID},
        "letter_written": {"letter": {"subject": "Your order is paid"}},
    }
    return {
        "order": {"price": "30.10", "status": status},
        "steps": [
            {"event": event, **steps.get(event, DONE | facts.get(event, {}))}
            for event in EVENTS
        ],
        "attempts": {"count": attempts}
        | ({"last_at": "2026-11-27T10:00:10.000000Z"} if attempts else {}),
    }


def rows(story: dict[str, Any], sent: dict[str, Any] | None) -> list[dict[str, Any]]:
    [found] = call(("sequence", "rowsOf", [story, sent, "FORMATS"]))
    listed: list[dict[str, Any]] = found
    return listed


def ids(found: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for row in found]


def test_a_paid_order_has_an_arrow_for_each_message() -> None:
    sent = {"status": 201, "statusText": "Created", "ms": 24}
    found = {row["id"]: row for row in rows(story(), sent)}
    assert [*found] == [
        *("sign-up", "request", "place", "withdrawal", "outcome"),
        *("settled", "response", "event", "letter"),
    ]
    assert found["withdrawal"]["time"] == "+3.1 ms"
    assert found["outcome"]["label"] == "row.done 69.90 EUR"
    assert found["response"]["label"] == "201 Created"
    assert found["response"]["time"] == "row.measured 24 ms"
    assert found["letter"]["label"] == "Your order is paid"
    # users takes part only at sign-up.
    [only] = [row for row in found.values() if "users" in (row["from"], row["to"])]
    assert only["style"] == "earlier"


def test_a_response_that_this_page_did_not_measure_has_no_time() -> None:
    [response] = [row for row in rows(story(), None) if row["id"] == "response"]
    assert (response["label"], response["time"]) == ("row.reply", "")


def test_steps_that_are_pending_or_unknown_are_shown_as_such() -> None:
    open_steps = {
        "withdrawal_recorded": {"state": "unknown"},
        **{event: {"state": "pending"} for event in EVENTS[2:]},
    }
    found = rows(story("pending", **open_steps), ACCEPTED)
    assert ids(found) == [
        *("sign-up", "request", "place", "first", "unsettled", "accepted", "wait"),
        *("withdrawal", "sweeper", "retry", "outcome", "settled", "response"),
        *("event", "letter"),
    ]
    states = {row["id"]: row["state"] for row in found}
    assert states["first"] == "lost"
    assert states["withdrawal"] == "unknown"
    assert {states[each] for each in ids(found)[8:]} == {"pending"}
    assert {row["time"] for row in found if row["state"] == "unknown"} == {
        "state.unknown"
    }


LATE = DONE | {"at": "2026-11-27T10:00:08.000000Z", "since_previous_ms": 8000}
AFTER_THE_RETRY = DONE | {"at": "2026-11-27T10:00:12.000000Z"}
RETRIED = DONE | {"since_previous_ms": 10_000}
UNKNOWN = {"state": "unknown"}
ACCEPTED = {"status": 202, "statusText": "Accepted", "ms": 3000}
RESPONSE = ["unsettled", "accepted", "wait"]


@pytest.mark.parametrize(
    ("sent", "attempts", "recorded", "drawn"),
    [
        # billing died between the recording and the reply.
        (ACCEPTED, 1, DONE, ["withdrawal", *RESPONSE, "sweeper", "retry"]),
        # billing was frozen, and recorded it after the response.
        (ACCEPTED, 1, LATE, [*RESPONSE, "withdrawal", "sweeper", "retry"]),
        # It is recorded, or may be, and orders has not retried yet.
        (ACCEPTED, 0, LATE, [*RESPONSE, "withdrawal", "sweeper", "retry"]),
        (ACCEPTED, 0, UNKNOWN, [*RESPONSE, "withdrawal", "sweeper", "retry"]),
        (None, 1, LATE, ["unsettled", "accepted", "withdrawal", "sweeper", "retry"]),
        # A retry reached it, and its reply was lost. The next one got the same outcome.
        (None, 2, RETRIED, ["unsettled", "accepted", "withdrawal", "sweeper", "retry"]),
        # billing was dead. Only the retry reached it.
        (None, 1, AFTER_THE_RETRY, ["unsettled", "accepted", "sweeper", "withdrawal"]),
    ],
)
def test_a_call_without_a_reply_is_not_drawn_like_its_retry(
    sent: dict[str, Any] | None,
    attempts: int,
    recorded: dict[str, Any],
    drawn: list[str],
) -> None:
    status = "paid" if attempts else "pending"
    steps = {"withdrawal_recorded": recorded | {"event": "withdrawal_recorded"}}
    found = rows(story(status, attempts, **steps), sent)
    [first, *others] = found[3:]
    is_note = "retry" in drawn
    is_late = is_note and recorded in (DONE, LATE)
    assert first["id"] == "first"
    assert first["state"] == ("late" if is_late else "lost")
    assert ids(others)[: len(drawn)] == drawn
    [recording] = [row for row in found if row["id"] == "withdrawal"]
    assert recording["event"] == "withdrawal_recorded"
    # A note at billing, or a call that reached it.
    ends = {recording["from"], recording["to"]}
    assert ends == ({"billing"} if is_note else {"orders", "billing"})
    for row in found:
        if row["id"] == "retry":
            assert row["time"] == ("row.same-key" if attempts else "state.pending")


SLOW = DONE | {"since_previous_ms": 1100}


@pytest.mark.parametrize(
    ("attempts", "steps", "explanations"),
    [
        (0, {}, []),
        (0, {"withdrawal_recorded": SLOW}, ["story.slow"]),
        (0, {"letter_written": SLOW}, ["story.slow-letter"]),
        (1, {"withdrawal_recorded": LATE}, ["story.same-key"]),
        (1, {"withdrawal_recorded": AFTER_THE_RETRY}, ["story.retried"]),
        (0, {"withdrawal_recorded": UNKNOWN}, []),
    ],
)
def test_a_delay_is_explained_after_the_settlement(
    attempts: int,
    steps: dict[str, Any],
    explanations: list[str],
) -> None:
    named = {event: step | {"event": event} for event, step in steps.items()}
    settled = story("paid", attempts, **named)
    assert call(("sequence", "explanationsOf", [settled])) == [explanations]
    pending = story("pending", attempts, **named)
    assert call(("sequence", "explanationsOf", [pending])) == [[]]


def test_a_repeated_request_shows_no_response_to_the_first_one() -> None:
    repeated = {"status": 201, "statusText": "Created", "ms": 24}
    found = rows(story(attempts=2), repeated)
    [accepted] = [row for row in found if row["id"] == "accepted"]
    assert (accepted["label"], accepted["time"]) == ("row.no-outcome", "")
    assert "response" not in ids(found)
