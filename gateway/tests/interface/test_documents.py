"""/, /openapi.json and /docs are public, and their pages need no other host."""

import re
from pathlib import PurePath
from urllib.parse import urljoin

import pytest

from gateway import documents

DOCUMENT_NEEDS = re.compile(r'(?:src|href)="(?!data:)([^"]+)"')
MODULE_NEEDS = re.compile(r'^(?:import|\} from) .*?"([^"]+)";$', re.MULTILINE)


def is_of_page(path: str) -> bool:
    return path == "/" or path.startswith("/page/")


def test_the_served_documents_are_these() -> None:
    served = {path for path in documents.FILES if not is_of_page(path)}
    assert served == {
        "/docs",
        "/docs/initializer.js",
        "/docs/swagger-ui-bundle.js",
        "/docs/swagger-ui.css",
        "/openapi.json",
    }


def test_the_document_is_public(client, fakes) -> None:
    response = client.get("/openapi.json", headers={"Authorization": None})
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["openapi"] == "3.1.0"
    assert fakes.calls == []


def test_the_page_and_the_files_it_needs_are_served(client) -> None:
    """No other file is: no licence, and no module that nothing imports."""
    needed, unread = set(), {"/"}
    while unread:
        path = unread.pop()
        needed.add(path)
        text = client.get(path).text
        names = (DOCUMENT_NEEDS if path == "/" else MODULE_NEEDS).findall(text)
        unread |= {urljoin(path, name) for name in names} - needed
    assert needed == set(filter(is_of_page, documents.FILES))
    assert len(needed) > 5


@pytest.mark.parametrize("path", sorted(filter(is_of_page, documents.FILES)))
def test_a_file_of_the_page_is_strict_and_never_outdated(client, path) -> None:
    response = client.get(path)
    headers = response.headers
    assert headers["Cache-Control"] == "no-cache"
    assert headers["Content-Security-Policy"] == (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " object-src 'none'"
    )
    types = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    expected = types.get(PurePath(path).suffix, "text/html")
    assert headers["Content-Type"] == expected
    # The policy would block them.
    assert not re.search(
        r"\beval\(|new Function|\sstyle=|javascript:|https?://(?!www.w3.org/)",
        response.text,
    )


def test_swagger_ui_and_every_file_it_names_are_served(client) -> None:
    page = client.get("/docs")
    assert page.headers["Content-Type"] == "text/html"
    needed = {urljoin("/docs", name) for name in DOCUMENT_NEEDS.findall(page.text)}
    assert needed == {path for path in documents.FILES if path.startswith("/docs/")}
    for path in needed:
        media_type, content = documents.FILES[path]
        response = client.get(path)
        assert (response.status_code, response.content) == (200, content)
        assert response.headers["Content-Type"] == media_type
    [url] = re.findall(r'url: "([^"]+)"', client.get("/docs/initializer.js").text)
    assert urljoin("/docs", url) == "/openapi.json"


@pytest.mark.parametrize("path", sorted(documents.FILES))
def test_a_browser_may_run_only_these_scripts(client, path) -> None:
    headers = client.head(path).headers
    rules = dict(
        rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; ")
    )
    assert rules["default-src"] == "'self'"
    assert "script-src" not in rules
    assert "'none'" in rules["frame-ancestors"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == (
        "no-cache" if is_of_page(path) else "max-age=600"
    )


@pytest.mark.parametrize("path", sorted(documents.FILES))
def test_a_file_is_compressed_for_clients_that_accept_it(client, path) -> None:
    def get(accepted: str | None) -> tuple[bytes, str, str]:
        response = client.get(path, headers={"Accept-Encoding": accepted}, stream=True)
        coding = response.headers.get("Content-Encoding", "")
        assert response.headers["Vary"] == "Accept-Encoding"
        return response.content, coding, response.headers["Content-Length"]

    content = documents.FILES[path][1]
    for accepted in ("gzip", "br;q=1, gzip;q=0.1", "*", "GZIP"):
        assert get(accepted) == (content, "gzip", str(len(documents.COMPRESSED[path])))
    for accepted in (None, "", "br", "identity", "gzip;q=0", "gzip;q=0, *"):
        assert get(accepted) == (content, "", str(len(content)))


def test_a_long_accept_encoding_is_read_in_part() -> None:
    assert "Content-Encoding" in documents.respond("/docs", "br, gzip").headers
    assert (
        "Content-Encoding"
        not in documents.respond("/docs", 'a;b="c",' * 1_000 + "gzip").headers
    )


@pytest.mark.parametrize(("path", "number"), [("/", 1), ("/docs", 2)])
def test_a_document_has_no_inline_script(client, path, number) -> None:
    text = client.get(path).text
    assert re.findall(r"<script[^>]*>([^<]*)<", text) == [""] * number
    assert not re.search(r"\son\w+=|javascript:|<style", text)


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/LICENSE",
        "/docs/..%2fopenapi.json",
        "/docs/index.html",
        "/static/openapi.json",
        "/page",
        "/page/",
        "/page/index.html",
        "/page/htm.LICENSE",
    ],
)
def test_no_other_file_of_the_folder_is_served(client, path) -> None:
    assert client.get(path).status_code == 404


def test_documents_and_health_accept_only_get_and_head(client) -> None:
    for path in ("/", "/page/app.js", "/docs", "/openapi.json", "/healthz", "/metrics"):
        response = client.post(path)
        assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")
