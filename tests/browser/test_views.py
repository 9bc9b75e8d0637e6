"""Each view in both languages and themes: axe-core has no findings, and a phone fits it."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.browser.shopper import Shopper

AXE = Path("dev/browser/node_modules/axe-core/axe.min.js").read_text()
# It cannot decide about the contrast of a text in an SVG: see CONTRASTS.
RUN_AXE = """async () => {
  const { violations, incomplete } = await axe.run();
  const undecided = incomplete.filter(({ id }) => id !== "color-contrast");
  return [...violations, ...undecided].map(({ id, nodes }) => (
    { id, nodes: nodes.map(({ html, failureSummary }) => html + failureSummary) }
  ));
}"""
# The contrast of each text in an SVG with the card below it (WCAG 2.2, "relative luminance").
CONTRASTS = """() => {
  const luminance = (colour) => {
    const [red, green, blue] = colour.match(/[\\d.]+/g).map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  return [...document.querySelectorAll(".card svg text")].map((text) => {
    const card = getComputedStyle(text.closest(".card")).backgroundColor;
    const both = [luminance(getComputedStyle(text).fill), luminance(card)];
    return [text.textContent, (Math.max(...both) + 0.05) / (Math.min(...both) + 0.05)];
  });
}"""
MIN_CONTRAST = 4.5
LANGUAGES = ("en", "ru")
THEMES = ("light", "dark")
PHONE = {"width": 360, "height": 780}


def sign_up(shopper: Shopper) -> None:
    expect(shopper["sign-up"]).to_be_visible()


def log_in(shopper: Shopper) -> None:
    shopper["switch-form"].click()
    expect(shopper["log-in"]).to_be_visible()


def refused(shopper: Shopper) -> None:
    shopper.watch.allow("status of 401")
    shopper["username"].fill("nobody")
    shopper["password"].fill("wrong password")
    shopper["log-in"].click()
    expect(shopper.page.get_by_role("alert")).to_be_visible()


def new_user(shopper: Shopper) -> None:
    shopper["switch-form"].click()
    shopper.join()


def paid_order(shopper: Shopper) -> None:
    shopper.deposit("1234567.89")
    shopper.order("1234560.00")
    shopper.await_letter()


def rejected_order(shopper: Shopper) -> None:
    shopper.order("99.99")
    shopper.await_letter()


def statement(shopper: Shopper) -> None:
    expect(shopper.show("statement")).to_have_count(3)


def letter(shopper: Shopper) -> None:
    letters = shopper.show("letters")
    expect(letters).to_have_count(2)
    letters.first.locator("summary").click()


def problem(shopper: Shopper) -> None:
    shopper.watch.allow("status of 422", "status of 400")
    shopper["price"].fill("a price")
    shopper["place-order"].click()
    expect(shopper["price-error"]).to_be_visible()


def wire(shopper: Shopper) -> None:
    shopper.exchange("POST", "/orders").locator(".send-again").click()
    expect(shopper.page.locator(".proof p")).to_have_count(2)


def logged_out(shopper: Shopper) -> None:
    shopper.log_out()


VIEWS: list[Callable[[Shopper], None]] = [
    sign_up,
    log_in,
    refused,
    new_user,
    paid_order,
    rejected_order,
    statement,
    letter,
    problem,
    wire,
    logged_out,
]


def findings(shopper: Shopper) -> list[Any]:
    """Return the findings of axe-core. Unlike a script of the page, it is evaluated despite CSP."""
    if not shopper.page.evaluate("'axe' in window"):
        shopper.page.evaluate(AXE)
    found: list[Any] = shopper.page.evaluate(RUN_AXE)
    return found


def test_axe_has_no_findings_in_any_view(shopper) -> None:
    found = {}
    for view in VIEWS:
        view(shopper)
        for language in LANGUAGES:
            for theme in THEMES:
                shopper.choose(language=language, theme=theme)
                if result := findings(shopper):
                    found[f"{view.__name__}, {language}, {theme}"] = result
    assert not found, json.dumps(found, indent=1)


def test_axe_finds_a_field_without_label_and_a_weak_contrast(shopper) -> None:
    shopper.page.evaluate("document.querySelector('label[for=username]').remove()")
    shopper.page.evaluate("document.querySelector('h2').style.color = '#eee'")
    assert {finding["id"] for finding in findings(shopper)} >= {
        "label",
        "color-contrast",
    }


@pytest.mark.parametrize("theme", THEMES)
def test_all_texts_of_the_diagram_have_a_contrast(shopper, theme) -> None:
    shopper.choose(theme=theme)
    shopper.join("10.00")
    shopper.order("5.00")
    shopper.await_letter()
    contrasts = dict(shopper.page.evaluate(CONTRASTS))
    assert len(contrasts) > 15
    weak = {text: c for text, c in contrasts.items() if c < MIN_CONTRAST}
    assert weak == {}


OVERFLOWS = """() => {
  const root = document.documentElement;
  const isWide = (element) => element.getBoundingClientRect().right > root.clientWidth;
  if (root.scrollWidth <= root.clientWidth) return [];
  const wide = [...document.querySelectorAll("body *")].filter(isWide);
  return wide.map((element) => element.outerHTML.slice(0, 120));
}"""


def test_a_phone_shows_all_views_without_horizontal_scrolling(new_shopper) -> None:
    shopper = new_shopper(viewport=PHONE, has_touch=True, is_mobile=True)
    found = {}
    for view in VIEWS:
        view(shopper)
        for language in LANGUAGES:
            shopper.choose(language=language)
            if elements := shopper.page.evaluate(OVERFLOWS):
                found[f"{view.__name__}, {language}"] = elements
    assert not found, json.dumps(found, indent=1)


def test_the_diagram_follows_a_window_that_shrinks(shopper) -> None:
    shopper.join("100.00")
    shopper.order("30.10")
    shopper.await_letter()
    for width in (768, PHONE["width"]):
        shopper.page.set_viewport_size({"width": width, "height": PHONE["height"]})
        # The picture is drawn again after the layout.
        shopper.page.wait_for_function(f"({OVERFLOWS})().length === 0")
        drawn = shopper["sequence"].bounding_box()
        assert drawn
        assert drawn["width"] > 0.7 * PHONE["width"]


def test_a_wide_element_is_found(new_shopper) -> None:
    shopper = new_shopper(viewport=PHONE)
    shopper.page.evaluate("document.querySelector('h2').style.width = '400px'")
    assert shopper.page.evaluate(OVERFLOWS)


CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)


@pytest.mark.parametrize("language", LANGUAGES)
def test_headings_and_buttons_are_in_the_language(new_shopper, language) -> None:
    shopper = new_shopper(locale=language)
    for view in VIEWS:
        view(shopper)
        texts = shopper.page.locator(
            "main :is(h2, h3, button, label)"
        ).all_inner_texts()
        wrong = [
            t for t in texts if t and bool(CYRILLIC.search(t)) != (language == "ru")
        ]
        assert texts
        assert not wrong, view.__name__
