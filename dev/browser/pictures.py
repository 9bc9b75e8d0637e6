"""Photograph the page for README and docs: docs/pictures/*.png.

Each picture contains the SHA-256 of its inputs: the page, the panel and this program. The pictures
are made again only if an input has changed, because ids and times are different each time.

usage: python -m dev.browser.pictures
"""

import hashlib
import io
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, expect

from dev.broker import CHECKOUT
from dev.browser.chromium import chromium
from dev.browser.visitor import Visitor
from dev.cli import Suite
from dev.diagrams.render import stamp_of, stamped
from dev.failure import Failure
from dev.ports import PAGE, free_ports

PICTURES = CHECKOUT / "docs" / "pictures"
INPUTS = (
    "gateway/static/page/*",
    "dev/page/*.js",
    "dev/page/*.css",
    "dev/browser/*.py",
)
SCALE = 2  # pixels of a picture per pixel of the page: sharp on any screen
COLOURS = 256  # a palette makes the files small
# Generous. billing is frozen for 10 seconds.
SETTLEMENT_MS = 60_000


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture: the size of the window in pixels of the page, and the steps before it."""

    name: str
    user: str
    width: int
    height: int
    take: Callable[[Visitor], None]
    language: str = "en"
    theme: str = "light"

    @property
    def path(self) -> Path:
        return PICTURES / f"{self.name}.png"

    @property
    def options(self) -> dict[str, Any]:
        """The options of the browser context."""
        return {
            "viewport": {"width": self.width, "height": self.height},
            "device_scale_factor": SCALE,
            "locale": self.language,
            "color_scheme": self.theme,
            "timezone_id": "UTC",
            "reduced_motion": "reduce",
        }


def buy(visitor: Visitor) -> None:
    """Place an order and wait for its letter."""
    visitor.deposit("100.00")
    visitor.order("30.10")
    visitor.await_letter()


def buy_on_a_phone(visitor: Visitor) -> None:
    buy(visitor)
    visitor["story"].evaluate("element => element.scrollIntoView()")


def buy_while_billing_dies(visitor: Visitor) -> None:
    """Place an order while billing is frozen, kill it, and wait until the order has settled."""
    panel = visitor["dev-panel"]
    billing = panel.locator("tr").filter(has_text="billing")
    visitor.deposit("100.00")
    billing.get_by_role("button", name="Freeze").click()
    expect(billing).to_contain_text("frozen")
    visitor.order("30.10")
    billing.get_by_role("button", name="Kill").click()
    status = visitor["story-title"].locator(".badge")
    expect(status).to_have_text("paid", timeout=SETTLEMENT_MS)
    visitor.await_letter()
    expect(billing).to_contain_text("running")


# The heights end below the diagram.
ALL = (
    Picture(name="page", user="ada", width=1280, height=925, take=buy),
    Picture(
        name="page-dark",
        user="grace",
        width=1280,
        height=925,
        take=buy,
        language="ru",
        theme="dark",
    ),
    Picture(
        name="page-killed",
        user="barbara",
        width=1280,
        height=1240,
        take=buy_while_billing_dies,
    ),
    Picture(
        name="page-phone", user="radia", width=390, height=735, take=buy_on_a_phone
    ),
)


def input_digest() -> str:
    """Return the digest of all inputs of the pictures."""
    files = sorted(path for pattern in INPUTS for path in CHECKOUT.glob(pattern))
    parts = [hashlib.sha256(path.read_bytes()).digest() for path in files]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def take_all(suite: Suite, browser: Browser) -> None:
    # The first order of a new suite is slow.
    _take(suite, browser, replace(ALL[0], user="first"))
    for picture in ALL:
        content = _take(suite, browser, picture)
        picture.path.write_bytes(stamped(content, "png", input_digest()))


def _take(suite: Suite, browser: Browser, picture: Picture) -> bytes:
    """Return the picture as a PNG."""
    with browser.new_context(**picture.options) as context:
        visitor = Visitor(context.new_page(), suite.page_url)
        visitor.open()
        visitor.sign_up(picture.user)
        picture.take(visitor)
        # Neither the focus nor the mouse changes how an element looks.
        visitor.page.evaluate("document.activeElement.blur()")
        visitor.page.mouse.move(0, 0)
        return _small(visitor.page.screenshot(animations="disabled"))


def _small(png: bytes) -> bytes:
    """Return the same picture with a palette."""
    output = io.BytesIO()
    image = Image.open(io.BytesIO(png)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(output, "PNG", optimize=True)
    return output.getvalue()


def main() -> None:
    if {stamp_of(picture.path) for picture in ALL} == {input_digest()}:
        return
    print("docs: photographing the page ...", flush=True)
    PICTURES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="shop-pictures-") as folder:
        suite = Suite(Path(folder, "run"), free_ports([PAGE]), tied=True)
        try:
            suite.up()
            with chromium() as browser:
                take_all(suite, browser)
        finally:
            suite.servers.erase()


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"docs: {failure}")
