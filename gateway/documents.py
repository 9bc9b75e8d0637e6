"""The API's OpenAPI document, and Swagger UI to read it and try it: files, read once at the start."""

from pathlib import Path

STATIC = Path(__file__).with_name("static")
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".json": "application/json"}
HEADERS = {
    "Cache-Control": "max-age=600",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
FILES = {  # the media type and the content, by path
    f"/{path.relative_to(STATIC)}".removesuffix("/index.html"): (TYPES[path.suffix], path.read_bytes())
    for path in STATIC.rglob("*.*")
    if path.suffix in TYPES
}
