"""A visitor clicks through the page, from the sign-up to the letter."""

import json
import re

import pytest
from playwright.sync_api import Route, expect

from dev.browser.visitor import PASSWORD, is_order
from tests.browser.shopper import Shopper

DURATION = re.compile(r"^\+\d+([.,]\d)?\s(ms|s|мс|с)$")
CLOCK = re.compile(r"^\d\d:\d\d:\d\d[.,]\d{3}$")
# The five steps of a story as rows of the diagram, and their times.
STEPS = {
    "place": CLOCK,
    "withdrawal": DURATION,
    "outcome": DURATION,
    "event": DURATION,
    "letter": DURATION,
}
PHONE = {"width": 360, "height": 780}


def assert_complete(shopper: Shopper) -> None:
    """Assert that the diagram shows five steps that are done, with their times."""
    for step, time in STEPS.items():
        row = shopper[f"row-{step}"]
        expect(row).to_have_class(re.compile(r"\bdone shown\b"))
        expect(row.locator(".time")).to_have_text(time)
    expect(shopper["total"]).to_have_text(re.compile(r"\d"))


@pytest.mark.parametrize(
    ("language", "theme", "options"),
    [
        ("en", "light", {}),
        ("ru", "dark", {"viewport": PHONE, "reduced_motion": "no-preference"}),
    ],
    ids=["desktop, English", "phone, Russian"],
)
def test_a_paid_and_a_rejected_order_show_complete_stories(
    new_shopper, language, theme, options
) -> None:
    shopper = new_shopper(**options)
    shopper.choose(language=language, theme=theme)
    shopper.join("100.00")

    shopper.order("30.10")
    letter = shopper.await_letter()
    assert_complete(shopper)
    expect(shopper["story-title"].locator(".badge")).to_have_class(
        re.compile("badge-good")
    )
    expect(letter).to_contain_text(shopper.name)
    expect(letter).to_contain_text(re.compile(r"30[.,]10"))

    shopper.order("69.91")
    letter = shopper.await_letter()
    assert_complete(shopper)
    expect(letter).to_have_class(re.compile("grief"))
    expect(shopper["story-title"].locator(".badge")).to_have_class(
        re.compile("badge-bad")
    )

    expect(shopper.show("orders")).to_have_count(2)
    operations = shopper.show("statement")
    expect(operations).to_have_count(3)
    expect(operations.nth(0).locator(".struck")).to_have_count(1)
    letters = shopper.show("letters")
    expect(letters).to_have_count(2)
    letters.nth(1).locator("summary").click()
    expect(letters.nth(1).locator(".letter-body")).to_contain_text(shopper.name)
    expect(shopper["balance"]).to_have_text(re.compile(r"69[.,]90"))

    shopper.log_out()
    shopper.log_in(shopper.name)
    expect(shopper["balance"]).to_have_text(re.compile(r"69[.,]90"))
    expect(shopper.show("orders")).to_have_count(2)


def test_money_can_be_withdrawn(shopper) -> None:
    shopper.join("20.00")
    shopper["amount"].fill("5.50")
    shopper["withdraw"].click()
    expect(shopper["balance"]).to_have_text("€14.50")


def test_an_older_order_shows_its_story(shopper) -> None:
    shopper.join("20.00")
    shopper.order("1.00")
    shopper.order("2.00")
    shopper.await_letter()
    shopper.show("orders").nth(1).get_by_role("button").click()
    expect(shopper["story-title"]).to_contain_text("€1.00")
    shopper.await_letter()
    assert_complete(shopper)


def test_send_again_withdraws_nothing(shopper) -> None:
    """The panel "On the wire" sends the same order again, with the same Idempotency-Key."""
    shopper.join("20.00")
    shopper.order("5.00")
    shopper.await_letter()
    sent = shopper.exchange("POST", "/orders")
    expect(sent.locator("pre").first).to_contain_text("Idempotency-Key: page-")
    with shopper.page.expect_response(is_order) as second:
        sent.locator(".send-again").click()
    proof = sent.locator(".proof p")
    expect(proof).to_have_text(
        ["The same response.", "The balance did not change: €15.00."]
    )
    assert second.value.status == 201
    expect(shopper.show("orders")).to_have_count(1)


def test_a_user_logs_out_although_the_profile_is_unavailable(shopper) -> None:
    shopper.join()
    shopper.watch.allow("net::ERR_FAILED")
    shopper.page.route("**/users/me", lambda route: route.abort())
    shopper.page.reload()
    expect(shopper["balance"]).to_have_text("€0.00")
    expect(shopper["user"]).to_have_count(0)
    shopper.log_out()


def test_many_reads_displace_no_order_from_the_panel(shopper) -> None:
    shopper.join("20.00")
    shopper.order("5.00")
    shopper.await_letter()
    methods = shopper["wire"].locator("summary .method")
    for number in range(40):
        # Reads in a row are shown as one if they are equal. Only the log matters here.
        tab = ("statement", "letters", "orders")[number % 3]
        shopper[f"tab-{tab}"].click()
    shopper["wire-reads"].uncheck()
    expect(methods).to_have_text(["POST", "POST", "POST"])


def test_the_panel_of_requests_hides_those_that_change_nothing(shopper) -> None:
    shopper.join("20.00")
    requests = shopper["wire"].locator("summary .method")
    expect(requests.filter(has_text="GET").first).to_be_visible()
    shopper["wire-reads"].uncheck()
    expect(requests).to_have_text(["POST", "POST"])
    shopper["wire-reads"].check()
    expect(requests.filter(has_text="GET").first).to_be_visible()


def test_the_story_of_an_earlier_order_fades_while_a_new_one_is_placed(
    shopper,
) -> None:
    shopper.join("20.00")
    shopper.order("5.00")
    shopper.await_letter()
    held: list[Route] = []
    shopper.page.route("**/orders", lambda route: held.append(route), times=1)
    shopper["price"].fill("6.00")
    shopper["place-order"].click()
    text = shopper.page.get_by_text("Waiting for the response of the services…")
    expect(text).to_be_visible()
    outdated = shopper.page.locator(".outdated")
    expect(outdated).to_have_css("opacity", "0.35")
    held[0].continue_()
    expect(shopper["story-title"]).to_contain_text("€6.00")
    expect(outdated).to_have_count(0)
    expect(text).to_have_count(0)


def test_send_again_shows_the_order_in_its_current_state(shopper) -> None:
    """The first response was that of a pending order."""

    def pend(route: Route) -> None:
        response = route.fetch()
        body = json.dumps(response.json() | {"status": "pending"})
        route.fulfill(response=response, body=body)

    shopper.join("20.00")
    shopper.page.route("**/orders", pend, times=1)
    shopper.order("5.00")
    shopper.await_letter()
    sent = shopper.exchange("POST", "/orders")
    sent.locator(".send-again").click()
    expect(sent.locator(".proof p")).to_have_text(
        [
            "The same order, in its current state.",
            "The balance did not change: €15.00.",
        ]
    )


def test_send_again_after_a_lost_response_finds_the_outcome(shopper) -> None:
    def lose_response(route: Route) -> None:
        route.fetch()
        route.abort()

    shopper.join()
    shopper.watch.allow("net::ERR_FAILED")
    shopper.page.route("**/account/deposits", lose_response, times=1)
    shopper.deposit("20.00")
    sent = shopper.exchange("POST", "/account/deposits")
    sent.locator(".send-again").click()
    expect(sent.locator(".proof p")).to_have_text(
        [
            "Now the outcome is known. The request has its effect at most once.",
            "The balance did not change: €20.00.",
        ]
    )


def test_secrets_are_masked_on_the_wire(shopper) -> None:
    shopper.join()
    sign_up = shopper.exchange("POST", "/users")
    expect(sign_up.locator("pre").first).to_contain_text('"password":"••••••••"')
    expect(sign_up.locator("pre").last).to_contain_text(
        re.compile(r'"access_token": ?"••••••••"')
    )
    account = shopper.exchange("GET", "/account")
    expect(account.locator("pre").first).to_contain_text("Bearer ••••••••")
    text = shopper.page.content()
    assert shopper.token not in text
    assert PASSWORD not in text


def test_the_page_follows_the_language_and_the_theme_of_the_browser(
    new_shopper,
) -> None:
    shopper = new_shopper(locale="ru-RU", color_scheme="dark")
    expect(shopper.page.locator("html")).to_have_attribute("lang", "ru")
    assert shopper.brightness() < 0.2
    shopper.choose(theme="light")
    assert shopper.brightness() > 0.8
    shopper.choose(language="en")
    expect(shopper["sign-up"]).to_have_text("Sign up")


def test_a_choice_of_language_and_theme_is_remembered(shopper) -> None:
    shopper.choose(language="ru", theme="dark")
    shopper.page.reload()
    expect(shopper.page.locator("html")).to_have_attribute("lang", "ru")
    assert shopper.brightness() < 0.2


def test_a_reload_keeps_the_session(shopper) -> None:
    shopper.join("20.00")
    shopper.page.reload()
    expect(shopper["user"]).to_have_text(shopper.name)
    expect(shopper["balance"]).to_have_text("€20.00")


def test_the_whole_path_works_with_the_keyboard(shopper) -> None:
    keyboard = shopper.page.keyboard
    for field, text in (
        ("username", shopper.name),
        ("email", f"{shopper.name}@example.org"),
        ("password", PASSWORD),
    ):
        shopper.tab_to(field)
        keyboard.type(text)
    keyboard.press("Enter")
    expect(shopper["user"]).to_have_text(shopper.name)

    shopper.tab_to("amount")
    keyboard.type("100")
    keyboard.press("Enter")
    expect(shopper["balance"]).to_have_text("€100.00")
    shopper.tab_to("price")
    keyboard.type("30.10")
    shopper.tab_to("place-order")
    keyboard.press("Space")
    shopper.await_letter()

    shopper.tab_to("tab-orders")
    keyboard.press("ArrowRight")
    expect(shopper["tab-statement"]).to_be_focused()
    expect(shopper.page.locator("#statement > li")).to_have_count(2)
    keyboard.press("ArrowRight")
    expect(shopper.page.locator("#letters > li")).to_have_count(1)
    shopper.tab_to(shopper.page.locator("#letters summary"))
    keyboard.press("Enter")
    expect(shopper.page.locator("#letters .letter-body")).to_be_visible()

    shopper.tab_to("log-out")
    keyboard.press("Enter")
    expect(shopper["log-in"]).to_be_visible()


def test_a_problem_has_its_title_its_detail_and_its_field(shopper) -> None:
    shopper.join("1.00")
    shopper.watch.allow("status of 409", "status of 422", "status of 400")
    with shopper.page.expect_response("**/account/withdrawals") as refused:
        shopper["amount"].fill("2.00")
        shopper["withdraw"].click()
    problem = refused.value.json()
    shown = shopper["movement-problem"]
    expect(shown).to_contain_text(f"{problem['status']} {problem['title']}")
    expect(shown).to_contain_text(problem["detail"])

    with shopper.page.expect_response(is_order) as invalid:
        shopper["price"].fill("-1")
        shopper["place-order"].click()
    problem = invalid.value.json()
    expect(shopper["order-problem"]).to_contain_text(problem["title"])
    expect(shopper["price-error"]).to_have_text(problem["errors"]["price"][0])
    expect(shopper["price"]).to_be_focused()


def test_a_taken_username_is_a_problem(new_shopper) -> None:
    first, second = new_shopper().join(), new_shopper()
    second.watch.allow("status of 409")
    second["username"].fill(first.name)
    second["email"].fill(f"{second.name}@example.org")
    second["password"].fill(PASSWORD)
    second["sign-up"].click()
    expect(second.page.get_by_role("alert")).to_contain_text("in use")
    expect(second["username-error"]).to_be_visible()


def test_a_detail_that_repeats_the_explanation_is_shown_once(shopper) -> None:
    shopper.watch.allow("status of 401")
    shopper["switch-form"].click()
    shopper["username"].fill(shopper.name)
    shopper["password"].fill("wrong password")
    shopper["log-in"].click()
    problem = shopper.page.get_by_role("alert")
    expect(problem.get_by_text("Username or password is wrong.")).to_have_count(1)
