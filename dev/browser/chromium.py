"""Debian's Chromium, which Playwright drives."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

from dev.failure import Failure

# It needs no other host than this one.
FLAGS = (
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Chromium without a window and with a new profile. It ends with the block.

    It has no sandbox, because a sandbox does not work for root, and it opens only our own page.
    """
    program = shutil.which("chromium")
    if program is None:
        raise Failure("chromium is missing: run dev/install.sh --browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program,
            args=list(FLAGS),
            # "Back" shows a page as it was left, as for every user.
            ignore_default_args=["--disable-back-forward-cache"],
        )
        try:
            yield browser
        finally:
            browser.close()
