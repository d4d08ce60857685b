"""What is foreseen of each link."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dwcp.api.endpoint import Endpoint, Json, obj
from dwcp.metrics.view import NodeView
from dwcp.prediction.predictor import LinkView


def link_document(link: LinkView | None) -> dict[str, Any]:
    if link is None:
        return {"forecast": None, "score": None}
    return {"forecast": asdict(link.forecast) if link.forecast is not None else None, "score": asdict(link.score)}


async def _forecasts(view: NodeView, request: Request) -> Response:
    return Json({peer: link_document(link) for peer, link in view.links().items()})


async def _forecast(view: NodeView, request: Request) -> Response:
    peer = request.path_params["id"]
    samples = await asyncio.to_thread(view.link_samples, peer)
    history = [asdict(sample) for sample in samples]
    return Json({**link_document(view.links().get(peer)), "samples": history})


_FORECAST = obj(
    made_at="number",
    horizon="number",
    rate="number",
    low="number",
    high="number",
    confidence="number",
    model="string",
    measurements="integer",
    doubts={"type": "array", "items": {"type": "string"}},
)
_SCORE = obj(
    outcomes="integer",
    error="number",
    last_error="number",
    covered="integer",
    models={"type": "object", "additionalProperties": {"type": "number"}},
)
_OR_NONE = {"type": ["object", "null"]}
_LINK = {"forecast": _FORECAST | _OR_NONE, "score": _SCORE | _OR_NONE}
_NUMBER_OR_NONE = {"type": ["number", "null"]}
_SAMPLE = obj(
    at="number",
    width="number",
    rate="number",
    limited="boolean",
    source={"enum": ["transfer", "probe"]},
    round_trip=_NUMBER_OR_NONE,
    loss=_NUMBER_OR_NONE,
)

ENDPOINTS = (
    Endpoint(
        "GET",
        "/forecasts",
        _forecasts,
        "What each link will carry: mean rate over the horizon with an interval, and how good forecasts were",
        {"type": "object", "additionalProperties": obj(**_LINK)},
    ),
    Endpoint(
        "GET",
        "/forecasts/{id}",
        _forecast,
        "The forecast of the link to one peer, and what it was made from",
        obj(**_LINK, samples={"type": "array", "items": _SAMPLE}),
        {404: "no such peer"},
    ),
)
