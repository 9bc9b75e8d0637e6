"""/openapi.json and /docs are public, and the page needs no other host."""

import re
from urllib.parse import urljoin

import pytest

from gateway import documents

PAGE_NEEDS = re.compile(r'(?:src|href)="(?!data:)([^"]+)"')


def test_the_served_files_are_these() -> None:
    assert documents.FILES.keys() == {
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


def test_the_page_and_every_file_it_names_are_served(client) -> None:
    page = client.get("/docs")
    assert page.headers["Content-Type"] == "text/html"
    needed = {urljoin("/docs", name) for name in PAGE_NEEDS.findall(page.text)}
    assert needed == documents.FILES.keys() - {"/docs", "/openapi.json"}
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
    assert headers["Cache-Control"].startswith("max-age=")


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


def test_the_page_has_no_inline_script(client) -> None:
    scripts = re.findall(r"<script[^>]*>([^<]*)<", client.get("/docs").text)
    assert scripts == [""] * 2
    assert not re.search(r"\son\w+=|javascript:", client.get("/docs").text)


@pytest.mark.parametrize(
    "path",
    [
        "/docs/",
        "/docs/LICENSE",
        "/docs/..%2fopenapi.json",
        "/docs/index.html",
        "/static/openapi.json",
    ],
)
def test_no_other_file_of_the_folder_is_served(client, path) -> None:
    assert client.get(path).status_code == 404


def test_documents_and_health_accept_only_get_and_head(client) -> None:
    for path in ("/docs", "/openapi.json", "/healthz", "/metrics"):
        response = client.post(path)
        assert (response.status_code, response.headers["Allow"]) == (405, "GET, HEAD")
