"""A visitor of the page. All methods work in each language."""

from urllib.parse import urlsplit

from playwright.sync_api import Locator, Page, Response, expect

PASSWORD = "correct horse battery"  # noqa: S105 - of users that a test makes
# Generous, for waiting and never for measuring.
DEADLINE_MS = 30_000
expect.set_options(timeout=DEADLINE_MS)


def is_order(response: Response) -> bool:
    """Return whether a response is that of a new order."""
    request = response.request
    return request.method == "POST" and urlsplit(request.url).path == "/orders"


class Visitor:
    """A page of one browser context. `url` may contain the token of the development server."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        page.set_default_timeout(DEADLINE_MS)

    @property
    def origin(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def open(self) -> None:
        self.page.goto(self.url)
        expect(self["sign-up"]).to_be_visible()

    def __getitem__(self, element_id: str) -> Locator:
        return self.page.locator(f"#{element_id}")

    def choose(self, *, language: str | None = None, theme: str | None = None) -> None:
        """Choose a language or a theme in the header."""
        if language:
            self["language"].select_option(language)
            expect(self.page.locator("html")).to_have_attribute("lang", language)
        if theme:
            self["theme"].select_option(theme)
            expect(self.page.locator("html")).to_have_attribute("data-theme", theme)

    def sign_up(self, name: str) -> None:
        self["username"].fill(name)
        self["email"].fill(f"{name}@example.org")
        self["password"].fill(PASSWORD)
        self["sign-up"].click()
        expect(self["user"]).to_have_text(name)

    def log_in(self, name: str) -> None:
        self["username"].fill(name)
        self["password"].fill(PASSWORD)
        self["log-in"].click()
        expect(self["user"]).to_have_text(name)

    def log_out(self) -> None:
        self["log-out"].click()
        expect(self["session-message"]).to_be_visible()

    def deposit(self, amount: str) -> None:
        """Deposit an amount and wait until the balance has changed."""
        expect(self["balance"]).not_to_have_text("…")
        before = self["balance"].inner_text()
        self["amount"].fill(amount)
        self["deposit"].click()
        expect(self["balance"]).not_to_have_text(before)

    def order(self, price: str) -> str:
        """Place an order, wait until its story is shown, and return its id."""
        self["price"].fill(price)
        with self.page.expect_response(is_order) as response:
            self["place-order"].click()
        order_id = str(response.value.json()["id"])
        expect(self.page.locator("#story code").first).to_have_text(order_id)
        expect(self["sequence"]).to_be_visible()
        return order_id

    def await_letter(self) -> Locator:
        """Wait until the letter of the shown order is written and all arrows are drawn."""
        expect(self["story"]).to_have_attribute("data-following", "false")
        expect(self.page.locator("#sequence .arrow.hidden")).to_have_count(0)
        letter = self.page.locator("#story .letter")
        expect(letter).to_be_visible()
        return letter

    def show(self, tab: str) -> Locator:
        """Show one of the lists: orders, statement or letters. Return its rows."""
        self[f"tab-{tab}"].click()
        return self.page.locator(f"#{tab} > li")
