"""Tokens stay secret, the text of users stays text, and users see only their own orders."""

import json
import re
import time
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from playwright.sync_api import Route, expect

from dev.browser.visitor import PASSWORD, is_order
from tests.browser.shopper import Shopper

HOSTILE = "<img src=x onerror=alert(1)>"


def stored(shopper: Shopper, name: str) -> dict[str, str]:
    """Return the content of localStorage or sessionStorage."""
    found: dict[str, str] = shopper.page.evaluate(f"({{...{name}}})")
    return found


def history(shopper: Shopper) -> list[str]:
    """Return the addresses in the history of the tab."""
    session = shopper.page.context.new_cdp_session(shopper.page)
    entries = session.send("Page.getNavigationHistory")["entries"]
    return [entry["url"] for entry in entries]


def test_no_token_is_in_an_address_or_outlives_the_tab(suite, shopper) -> None:
    dev_token = suite.page_url.partition("#dev=")[2]
    shopper.join("20.00")
    shopper.order("5.00")
    shopper.await_letter()
    secrets = (dev_token, shopper.token)
    assert all(secrets)
    assert shopper.page.url == f"{shopper.origin}/"
    assert history(shopper) == ["about:blank", f"{shopper.origin}/"]
    assert set(stored(shopper, "localStorage")) <= {"language", "theme"}
    assert set(stored(shopper, "sessionStorage").values()) == set(secrets)
    assert shopper.page.context.cookies() == []
    for request in shopper.watch.requests:
        address = f"{request.url} {request.headers.get('referer')}"
        assert not any(secret in address for secret in secrets)


def test_the_development_token_is_sent_only_to_the_development_server(
    suite, shopper
) -> None:
    shopper.join()
    for request in shopper.watch.requests:
        is_for_panel = urlsplit(request.url).path == "/dev/processes"
        assert ("x-dev-token" in request.headers) == is_for_panel, request.url
        assert not (is_for_panel and "authorization" in request.headers)


def test_a_new_tab_has_no_session(new_shopper) -> None:
    shopper = new_shopper().join()
    tab = Shopper(shopper.page.context.new_page(), shopper.url)
    tab.open()
    assert stored(tab, "sessionStorage").keys() == {"dev-token"}


def test_log_out_forgets_the_session(shopper) -> None:
    shopper.join("20.00")
    token = shopper.token
    shopper.log_out()
    assert token not in stored(shopper, "sessionStorage").values()
    assert shopper.name not in shopper["wire"].inner_text()
    shopper.page.reload()
    expect(shopper["sign-up"]).to_be_visible()


def test_back_shows_no_page_of_a_user_who_has_logged_out(shopper) -> None:
    """The browser keeps the page that was left, with the token in its memory."""
    shopper.join("20.00")
    shopper.page.evaluate(
        "addEventListener('pageshow', event => sessionStorage.shown = event.persisted)"
    )
    shopper.page.goto(f"{shopper.origin}/docs")
    shopper.page.goto(f"{shopper.origin}/")
    shopper.log_out()
    shopper.page.evaluate("void setTimeout(() => history.go(-2))")
    shopper.page.wait_for_function("sessionStorage.shown === 'true'")
    expect(shopper["sign-up"]).to_be_visible()


def test_a_request_is_sent_again_as_the_user_who_sent_it(shopper) -> None:
    """Another one may log in while the page reads the balance before it."""
    shopper.join("20.00").order("5.00")
    shopper.await_letter()
    owner = shopper.token
    held: list[Route] = []
    shopper.page.route(
        "**/account",
        lambda route: route.continue_() if held else held.append(route),
    )
    with shopper.page.expect_request("**/account"):
        shopper.exchange("POST", "/orders").locator(".send-again").click()
    shopper.log_out()
    shopper["switch-form"].click()
    shopper.name += "-2"
    shopper.join("20.00")
    assert shopper.token != owner
    with shopper.page.expect_response(is_order) as response:
        held[0].continue_()
    assert response.value.status == 201
    assert response.value.request.headers["authorization"] == f"Bearer {owner}"
    assert shopper.fetch("/orders").json()["items"] == []


@pytest.mark.parametrize("kind", ["expired", "invalid"])
def test_an_expired_token_leads_to_the_log_in(suite, shopper, kind) -> None:
    shopper.join("20.00")
    user = shopper.fetch("/users/me").json()["id"]
    secret = suite.env("gateway")["TOKEN_SECRET"]
    claims = {"iss": "shop", "sub": user, "exp": int(time.time()) - 1}
    token = jwt.encode(claims, secret, "HS256") if kind == "expired" else "a.b.c"
    shopper.page.evaluate("token => sessionStorage.setItem('token', token)", token)
    shopper.watch.allow("status of 401")
    shopper.page.reload()
    expect(shopper["session-message"]).to_have_text(
        "Your session has ended. Log in again."
    )
    shopper.log_in(shopper.name)
    expect(shopper["balance"]).to_have_text("€20.00")


def test_another_user_sees_neither_the_order_nor_its_story(new_shopper) -> None:
    owner, other = new_shopper().join("20.00"), new_shopper().join("20.00")
    order_id = owner.order("5.00")
    for path in (f"/orders/{order_id}", f"/orders/{order_id}/story"):
        assert owner.fetch(path).status == 200
        assert other.fetch(path).status == 404
    other.page.reload()
    expect(other["list"]).to_have_text("No orders yet.")
    assert order_id not in other.page.content()


def replace(route: Route, change: Any) -> None:
    """Let the API respond with changed data."""
    response = route.fetch()
    route.fulfill(response=response, body=json.dumps(change(response.json())))


def hostile(data: Any) -> Any:
    """Return data whose free texts are HTML."""
    if isinstance(data, list):
        return [hostile(each) for each in data]
    if isinstance(data, dict):
        return {
            name: HOSTILE if name in FREE_TEXTS else hostile(value)
            for name, value in data.items()
        }
    return data


FREE_TEXTS = {"username", "reason", "subject", "body", "to", "detail", "title"}


def test_html_of_users_and_services_is_shown_as_text(shopper) -> None:
    """The API accepts no such username. The page does not depend on that."""
    dialogs: list[str] = []
    shopper.page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    shopper.watch.allow("status of 422", "status of 400", "status of 409")
    shopper["username"].fill(HOSTILE)
    shopper["email"].fill(f"{shopper.name}@example.org")
    shopper["password"].fill(PASSWORD)
    shopper["sign-up"].click()
    expect(shopper["username-error"]).to_be_visible()

    shopper.page.route(
        re.compile(r"/(users/me|orders.*|notifications.*|account.*)$"),
        lambda route: replace(route, hostile),
    )
    shopper["username"].fill(shopper.name)
    shopper["sign-up"].click()
    expect(shopper["user"]).to_have_text(HOSTILE)
    shopper.deposit("1.00")
    shopper.order("2.00")
    letter = shopper.await_letter()
    expect(letter.locator("h4")).to_have_text(HOSTILE)
    expect(letter.locator(".letter-body")).to_have_text(HOSTILE)
    expect(shopper["sequence"]).to_contain_text(HOSTILE)
    expect(shopper.show("orders").first).to_contain_text(HOSTILE)
    expect(shopper.show("statement").first).to_contain_text(HOSTILE)
    shopper.show("letters").first.locator("summary").click()
    shopper["amount"].fill("5.00")
    shopper["withdraw"].click()
    expect(shopper["movement-problem"]).to_contain_text(HOSTILE)
    expect(shopper["wire"]).to_contain_text("/orders")
    assert shopper.page.locator("img[src=x]").count() == 0
    assert dialogs == []


ELEMENT = "document.body.append(Object.assign(document.createElement('{}'), {}))"
ATTACKS = {
    "an image of another host": ELEMENT.format("img", "{src: 'http://127.0.0.2:9'}"),
    "an inline script": ELEMENT.format("script", "{text: 'alert(1)'}"),
    "an inline style": ELEMENT.format("style", "{textContent: '*{}'}"),
    "a request to another host": "fetch('http://127.0.0.2:9').catch(() => {})",
}


@pytest.mark.parametrize("script", ATTACKS.values(), ids=ATTACKS.keys())
def test_the_content_security_policy_is_in_force_and_watched(shopper, script) -> None:
    """So that the absence of complaints in all other tests means something."""
    assert shopper.watch.complaints() == []
    shopper.page.evaluate(f"void ({script})")
    found = shopper.await_complaints()
    assert "violates the following Content Security Policy" in found[0]


def test_the_watch_sees_errors_warnings_and_other_hosts(shopper) -> None:
    shopper.page.evaluate("console.warn('one')")
    shopper.page.evaluate("console.error('two')")
    shopper.page.evaluate("void setTimeout(() => { throw new Error('three') })")
    shopper.page.evaluate("void fetch('/nowhere')")
    complaints = shopper.await_complaints(4)
    for text in ("one", "two", "three", "status of 404"):
        assert [each for each in complaints if text in each], text
