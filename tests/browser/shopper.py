"""A visitor of the page whose browser is watched."""

import itertools
import os
import re
from urllib.parse import urlsplit

from playwright.sync_api import (
    APIResponse,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    WebError,
    WebSocket,
)

from dev.browser.visitor import DEADLINE_MS, Visitor

_numbers = itertools.count(1)
# Chromium itself writes this for each response of 400 or more, and for each broken connection.
FAILED = re.compile(r"Failed to load resource: .*?(status of \d+|net::\w+)")
MAX_TABS = 100
POLL_MS = 50
FOCUSED = "document.activeElement.outerHTML.slice(0, 200)"
# The body has the focus after the last element of the page.
SHOWS_FOCUS = """(() => {
  const element = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(element);
  return element === document.body || (outlineStyle !== "none" && outlineWidth !== "0px");
})()"""


def new_name() -> str:
    return f"user-{os.getpid()}-{next(_numbers)}"


class Watch:
    """Collects what a browser context reports and requests.

    A violation of the Content-Security-Policy is an error in the console.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.origin = origin
        self.requests: list[Request] = []
        self._messages: list[str] = []
        self._allowed: set[str] = set()
        context.on("console", self._on_console)
        context.on("weberror", self._on_error)
        context.on("request", lambda request: self.requests.append(request))
        context.on("page", lambda page: page.on("websocket", self._on_socket))

    def allow(self, *failures: str) -> None:
        """Allow responses or broken connections: "status of 409", "net::ERR_FAILED"."""
        self._allowed.update(failures)

    def complaints(self) -> list[str]:
        """Return errors and warnings of the page, and requests to other hosts."""
        strange = [f"request: {url}" for url in self.urls() if not self._is_own(url)]
        return [text for text in self._messages if not self._is_allowed(text)] + strange

    def forget(self) -> None:
        self._messages.clear()
        self.requests.clear()

    def urls(self) -> list[str]:
        return [request.url for request in self.requests]

    def _is_own(self, url: str) -> bool:
        parts = urlsplit(url)
        return f"{parts.scheme}://{parts.netloc}" == self.origin

    def _is_allowed(self, text: str) -> bool:
        found = FAILED.search(text)
        return found is not None and found[1] in self._allowed

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            where = message.location.get("url", "")
            self._messages.append(f"{message.type}: {message.text} ({where})")

    def _on_error(self, error: WebError) -> None:
        self._messages.append(f"exception: {error.error}")

    def _on_socket(self, socket: WebSocket) -> None:
        self._messages.append(f"WebSocket: {socket.url}")


class Shopper(Visitor):
    """A visitor with a watched browser and a name that no other one has."""

    def __init__(self, page: Page, url: str) -> None:
        super().__init__(page, url)
        self.name = new_name()
        self.watch = Watch(page.context, self.origin)

    def join(self, money: str = "") -> "Shopper":
        """Sign up, and deposit money."""
        self.sign_up(self.name)
        if money:
            self.deposit(money)
        return self

    def await_complaints(self, count: int = 1) -> list[str]:
        """Wait for complaints, and return them. The watch forgets them."""
        for _ in range(DEADLINE_MS // POLL_MS):
            if len(found := self.watch.complaints()) >= count:
                self.watch.forget()
                return found
            self.page.wait_for_timeout(POLL_MS)
        raise AssertionError(f"fewer than {count} complaints: {found}")

    def fetch(self, path: str) -> APIResponse:
        """Send a request with the token of the session. The watch does not see it."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return self.page.request.get(f"{self.origin}{path}", headers=headers)

    @property
    def token(self) -> str:
        """Return the access token of the session."""
        return str(self.page.evaluate("sessionStorage.getItem('token')"))

    def exchange(self, method: str, path: str) -> Locator:
        """Open the first request to a path in the panel "On the wire"."""
        path_text = self.page.locator(f".path:text-is('{path}')")
        found = self["wire"].locator(f"details.{method}").filter(has=path_text).last
        found.locator("summary").click()
        return found

    def brightness(self) -> float:
        """Return the brightness of the background, from 0 to 1."""
        colour = self.page.evaluate(
            "getComputedStyle(document.documentElement).backgroundColor"
        )
        numbers = [float(each) for each in re.findall(r"[\d.]+", colour)[:3]]
        return sum(numbers) / (3 * 255)

    def tab_to(self, target: str | Locator) -> None:
        """Press Tab until an element has the focus. Each focused element must show it."""
        wanted = self[target] if isinstance(target, str) else target
        for _ in range(MAX_TABS):
            if wanted.evaluate("element => element === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
            assert self.page.evaluate(SHOWS_FOCUS), self.page.evaluate(FOCUSED)
        raise AssertionError(f"Tab does not reach {target}")
