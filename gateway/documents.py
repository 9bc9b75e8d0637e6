"""Serves the shop's page, the OpenAPI document and Swagger UI: static files, read at the start."""

import gzip
from pathlib import Path

from werkzeug.http import parse_accept_header

from gateway.http.responses import Response

STATIC = Path(__file__).with_name("static")
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
HEADERS = {
    "Cache-Control": "max-age=600",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Vary": "Accept-Encoding",
}
# The page's files fit together only in one version, so a browser asks for them each time.
PAGE_HEADERS = HEADERS | {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        " object-src 'none'"
    ),
}
# The media type and the content, by path.
FILES = {
    f"/{path.relative_to(STATIC)}".removesuffix("/index.html"): (
        TYPES[path.suffix],
        path.read_bytes(),
    )
    for path in STATIC.rglob("*.*")
    if path.suffix in TYPES
}
FILES["/"] = FILES.pop("/page")
COMPRESSED = {
    path: gzip.compress(content, mtime=0) for path, (_, content) in FILES.items()
}


def respond(path: str, accept_encoding: str) -> Response:
    """Return a file, compressed if the client accepts gzip (RFC 9110, section 12.5.3)."""
    media_type, content = FILES[path]
    is_of_page = path == "/" or path.startswith("/page/")
    headers = {"Content-Type": media_type, **(PAGE_HEADERS if is_of_page else HEADERS)}
    # The start of the header is enough. To parse 16 KB would take 10 ms.
    if parse_accept_header(accept_encoding[:200])["gzip"]:
        return Response(200, COMPRESSED[path], {**headers, "Content-Encoding": "gzip"})
    return Response(200, content, headers)
