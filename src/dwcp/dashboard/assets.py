"""The page and its files, as `make dashboard-assets` built them from the sources in `dashboard`."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import xxhash

TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS = {
    # asked again each time, and answered with 304: an upgrade shows at once
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass(frozen=True, slots=True)
class Asset:
    content: bytes
    media_type: str
    tag: str
    """For ETag, quotes included."""


def load() -> dict[str, Asset]:
    """By path."""
    assets = {}
    for file in (resources.files("dwcp.dashboard") / "assets").iterdir():
        suffix = file.name[file.name.rfind(".") :]
        if suffix in TYPES:
            content = file.read_bytes()
            path = "/" if file.name == "index.html" else f"/dashboard/{file.name}"
            assets[path] = Asset(content, TYPES[suffix], f'"{xxhash.xxh3_64_hexdigest(content)}"')
    return assets
