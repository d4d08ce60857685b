"""What pages and `dwcp top` stand on: the live stream, the configuration in force, the sending limit."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from dwcp.api.debug import without_secrets
from dwcp.api.endpoint import Endpoint, Json, Parameter, obj
from dwcp.config.load import as_written
from dwcp.dashboard.feed import Feed
from dwcp.metrics.view import NodeView

EVENT_STREAM = "text/event-stream"


async def _events(view: NodeView, request: Request) -> Response:
    feed: Feed = request.app.state.feed
    if request.method == "HEAD":
        return Response(media_type=EVENT_STREAM)
    stream = feed.follow(request.headers.get("last-event-id", ""))
    # nginx, for one, would collect it
    return StreamingResponse(stream, media_type=EVENT_STREAM, headers={"X-Accel-Buffering": "no"})


async def _config(view: NodeView, request: Request) -> Response:
    return Json(without_secrets(as_written(view.config)))


async def _limit(view: NodeView, request: Request) -> Response:
    limit = view.limit()
    return Json({"bits_per_second": limit.bits_per_second, "by_operator": limit.by_operator})


async def _set_limit(view: NodeView, request: Request) -> Response:
    await view.set_limit(request.query_params.get("rate", ""))
    return await _limit(view, request)


_LIMIT = obj(bits_per_second={"type": ["integer", "null"]}, by_operator="boolean")

ENDPOINTS = (
    Endpoint(
        "GET",
        "/events",
        _events,
        "What the dashboard shows, live: server-sent events `snapshot`, `patch` (JSON Merge Patch of its document), "
        "`sample` and `log`; goes on after `Last-Event-ID` where it can",
        {"type": "string"},
        {409: "too many look already"},
        private=True,
        media_type=EVENT_STREAM,
    ),
    Endpoint(
        "GET",
        "/config",
        _config,
        "The configuration in force, with all defaults; no secrets",
        {"type": "object"},
        private=True,
    ),
    Endpoint("GET", "/limit", _limit, "How fast the node may send", _LIMIT),
    Endpoint(
        "POST",
        "/limit",
        _set_limit,
        "Set how fast the node may send, as `dwcp limit` does",
        _LIMIT,
        {400: "no rate, or too small a one", 409: "it cannot be kept"},
        {"rate": Parameter("like 200Mbit/s; off for no limit, auto for as configured", required=True)},
    ),
)
