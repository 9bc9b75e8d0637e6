"""Programs are killed and frozen with the panel's buttons. Orders settle nevertheless."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Route, expect

from dev.browser.visitor import is_order
from dev.supervisor import wait_for
from tests.browser.shopper import Shopper

DEADLINE_S = 60.0
DEADLINE_MS = DEADLINE_S * 1000
# While the gateway does not run, or a service does not reply in time.
OUTAGE = ("status of 503", "status of 504")


@pytest.fixture(autouse=True)
def _healthy(suite) -> Iterator[None]:
    """The whole suite is ready again after each test."""
    yield
    assert wait_for(suite.ready, DEADLINE_S, every_s=0.2)


def row(shopper: Shopper, program: str) -> Locator:
    """Return a program's row in the panel."""
    return shopper["dev-panel"].locator("tr").filter(has_text=program)


def restarts(shopper: Shopper, program: str) -> int:
    return int(row(shopper, program).locator(".restarts").inner_text())


def explanation(shopper: Shopper) -> Locator:
    return shopper["story"].locator("figcaption .notice")


def press(shopper: Shopper, fault: str, program: str) -> None:
    """Press a button of the panel, and wait until the fault is injected."""
    with shopper.page.expect_response(f"**/dev/processes/{program}/*") as response:
        shopper.page.get_by_role("button", name=f"{fault}: {program}").click()
    assert response.value.status == 202


def test_an_order_settles_although_billing_is_frozen_and_killed(shopper) -> None:
    shopper.watch.allow(*OUTAGE)
    shopper.join("100.00")
    press(shopper, "Freeze", "billing")
    expect(row(shopper, "billing").locator(".badge")).to_have_text(
        re.compile(r"^frozen, \d+ s left$")
    )
    order_id = shopper.order("30.10")
    expect(shopper["waiting"]).to_be_visible()
    expect(shopper["row-first"].locator(".time")).to_have_text("no reply in time")
    before = restarts(shopper, "billing")
    press(shopper, "Kill", "billing")

    expect(shopper["story-title"].locator(".badge")).to_have_text(
        "paid", timeout=DEADLINE_MS
    )
    shopper.await_letter()
    expect(shopper["row-sweeper"]).to_contain_text(re.compile(r"[1-9]\d* retr"))
    expect(shopper["waiting"]).to_have_count(0)
    expect(row(shopper, "billing").locator(".restarts")).to_have_text(str(before + 1))
    expect(row(shopper, "billing").locator(".badge")).to_have_text("running")
    expect(shopper["balance"]).to_have_text("€69.90")
    assert shopper.fetch(f"/orders/{order_id}").json()["status"] == "paid"


def test_a_withdrawal_of_a_frozen_billing_is_drawn_once(shopper) -> None:
    """It records the withdrawal when it continues, after the response. The retry comes later."""
    shopper.watch.allow(*OUTAGE)
    shopper.join("100.00")
    press(shopper, "Freeze", "billing")
    shopper.order("30.10")
    expect(shopper["story-title"].locator(".badge")).to_have_text(
        "paid", timeout=DEADLINE_MS
    )
    shopper.await_letter()
    expect(shopper["row-first"].locator(".time")).to_have_text("no reply in time")
    rows = shopper["sequence"].locator("g.arrow")
    order = rows.evaluate_all("rows => rows.map(row => row.id)")
    assert order.index("row-accepted") < order.index("row-withdrawal")
    assert order.index("row-withdrawal") < order.index("row-retry")
    expect(shopper["row-retry"].locator(".time")).to_have_text("the same key")
    expect(explanation(shopper)).to_contain_text("billing recorded one outcome")
    expect(shopper["balance"]).to_have_text("€69.90")


def test_an_order_right_after_a_kill_of_billing_settles(shopper) -> None:
    shopper.watch.allow(*OUTAGE)
    shopper.join("100.00")
    before = restarts(shopper, "billing")
    press(shopper, "Kill", "billing")
    shopper.order("30.10")
    expect(shopper["story-title"].locator(".badge")).to_have_text(
        "paid", timeout=DEADLINE_MS
    )
    shopper.await_letter()
    expect(row(shopper, "billing").locator(".restarts")).to_have_text(str(before + 1))


def test_a_frozen_notifications_delays_only_the_letter(shopper) -> None:
    shopper.join("100.00")
    press(shopper, "Freeze", "notifications")
    shopper.watch.allow(*OUTAGE)
    shopper.order("30.10")
    expect(shopper["story-title"].locator(".badge")).to_have_text("paid")
    expect(shopper["row-letter"].locator(".time")).to_have_text(
        re.compile("unknown|not yet")
    )
    expect(shopper.page.locator("#story .letter")).to_be_visible(timeout=DEADLINE_MS)
    expect(explanation(shopper)).to_contain_text("notifications took long")


def test_a_retry_after_a_killed_gateway_gets_the_same_order(shopper) -> None:
    """The gateway places the order and is killed before the response arrives."""
    shopper.join("100.00")
    shopper.watch.allow(*OUTAGE, "net::ERR_FAILED")
    placed: list[str] = []

    def lose_response(route: Route) -> None:
        placed.append(route.fetch().json()["id"])
        route.abort()

    shopper.page.route("**/orders", lose_response, times=1)
    shopper["price"].fill("30.10")
    shopper["place-order"].click()
    problem = shopper["order-problem"]
    expect(problem).to_contain_text("same Idempotency-Key")

    press(shopper, "Kill", "gateway")
    send_again = problem.get_by_role("button", name="Send again")
    for _ in range(100):
        with shopper.page.expect_response(is_order) as response:
            send_again.click()
        if response.value.ok:
            break
        expect(problem).to_contain_text("503 Service Unavailable")
        expect(problem).to_contain_text("same Idempotency-Key")
        shopper.page.wait_for_timeout(200)
    assert response.value.json()["id"] == placed[0]
    expect(shopper["story"].locator("code").first).to_have_text(placed[0])
    shopper.await_letter()
    expect(shopper.show("orders")).to_have_count(1)
    expect(shopper["balance"]).to_have_text("€69.90")


def test_the_panel_speaks_the_language_of_the_page(shopper) -> None:
    expect(shopper["dev-title"]).to_have_text("Kill something")
    shopper.choose(language="ru")
    expect(shopper["dev-title"]).to_have_text("Сломать что-нибудь")


def test_the_gateway_itself_serves_the_page_without_the_panel(
    suite, new_shopper
) -> None:
    shopper = new_shopper(url=suite.url)
    shopper.join("20.00")
    shopper.order("5.00")
    shopper.await_letter()
    expect(shopper["dev-panel"]).to_have_count(0)
    assert not [url for url in shopper.watch.urls() if "/dev/" in url]
