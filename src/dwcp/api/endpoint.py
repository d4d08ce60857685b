"""What a row of the table of endpoints is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dwcp.config import Config
from dwcp.metrics.view import NodeView
from dwcp.supervise.health import NodeHealth

Handler = Callable[[NodeView, Request], Awaitable[Response]]
Probe = Callable[[Config, NodeHealth], tuple[int, Any]]
"""Gives (status, document)."""


def compact(document: Any) -> str:
    """JSON; keys in the order in which they were put."""
    return json.dumps(document, separators=(",", ":"))


class Json(Response):
    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return compact(content).encode()


@dataclass(frozen=True, slots=True)
class Parameter:
    """Of the query; `schema`: JSON Schema of its value."""

    meaning: str
    schema: dict[str, Any] = field(default_factory=lambda: {"type": "string"})
    required: bool = False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`schema`: JSON Schema of the answer; `statuses`: meaning of each status besides 200."""

    method: str
    path: str
    handler: Handler
    summary: str
    schema: dict[str, Any] = field(default_factory=dict)
    statuses: dict[int, str] = field(default_factory=dict)
    query: dict[str, Parameter] = field(default_factory=dict)
    body: dict[str, Any] | None = None
    """JSON Schema of the request's body."""
    private: bool = False
    """Reading it needs what changing something needs."""
    media_type: str = "application/json"
    secret: bool = False
    """It needs the token on loopback too."""
    probe: Probe | None = None
    """Where `api.probes` answers with a copy."""

    @property
    def changes_state(self) -> bool:
        return self.method not in ("GET", "HEAD")

    @property
    def guarded(self) -> bool:
        """Whether it is refused without the token, or to another site's page."""
        return self.changes_state or self.private


def obj(**properties: str | dict[str, Any]) -> dict[str, Any]:
    """The schema of an object with these properties, each a type's name or a schema."""
    return {
        "type": "object",
        "properties": {key: {"type": kind} if isinstance(kind, str) else kind for key, kind in properties.items()},
    }
