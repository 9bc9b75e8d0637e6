"""The suite of `make up`, a browser, and visitors of the page."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from dev.browser.chromium import chromium
from dev.cli import Suite
from dev.ports import PAGE, free_ports
from tests.browser.shopper import Shopper

DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="session")
def suite() -> Iterator[Suite]:
    """Start all five services and the development server, and wait until they are ready."""
    with tempfile.TemporaryDirectory(prefix="shop-browser-") as folder:
        suite = Suite(Path(folder, "run"), free_ports([PAGE]), tied=True)
        try:
            suite.up()
            yield suite
        finally:
            suite.servers.erase()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def new_shopper(suite: Suite, browser: Browser) -> Iterator[Callable[..., Shopper]]:
    """Return a function that opens the page in a browser context of its own.

    It takes a URL, by default that of `make up`, and options of the context. At the end no page may
    have complained, and none may have sent a request to another host.
    """
    with ExitStack() as stack:
        shoppers: list[Shopper] = []

        def open_page(url: str = suite.page_url, **options: Any) -> Shopper:
            # Arrows appear at once.
            usual = {"viewport": DESKTOP, "reduced_motion": "reduce", "locale": "en"}
            context = stack.enter_context(browser.new_context(**usual | options))
            shopper = Shopper(context.new_page(), url)
            shoppers.append(shopper)
            shopper.open()
            return shopper

        yield open_page
        for shopper in shoppers:
            shopper.page.unroute_all(behavior="wait")
            assert shopper.watch.complaints() == []


@pytest.fixture
def shopper(new_shopper: Callable[..., Shopper]) -> Shopper:
    """Open the page as a visitor without an account."""
    return new_shopper()
