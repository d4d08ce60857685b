"""The table of everything that HTTP answers: routing and the OpenAPI document are both made from it."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import asdict, fields
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from dwcp.api import cluster, debug, forecasts, sync, watching, workloads
from dwcp.api.endpoint import Endpoint, Json, Parameter, Probe
from dwcp.api.endpoint import obj as _obj
from dwcp.config import Config
from dwcp.errors import UsageError
from dwcp.metrics.view import NodeView
from dwcp.supervise.breaker import BreakerStatus
from dwcp.supervise.breaker import State as BreakerState
from dwcp.supervise.health import NodeHealth, Status
from dwcp.transfer.board import State, TransferStatus
from dwcp.transfer.counters import TransportCounters


def health_document(config_version: str, enabled: bool, health: NodeHealth) -> dict[str, Any]:
    """The superset of the runbook's answers."""
    document: dict[str, Any] = {
        "status": health.status,
        "version": config_version,
        "enabled": enabled,
        "components": {
            **{name: component.status for name, component in health.components.items()},
            "circuit_breaker": health.circuit_breaker,
        },
        "uptime_seconds": int(health.uptime_seconds),
        "components_healthy": not health.unhealthy_components,
        "unhealthy_components": health.unhealthy_components,
        "recovery_in_progress": health.recovery_in_progress,
        "circuit_breaker": health.circuit_breaker,
    }
    document["checks"] = {
        name: {
            "since": round(component.since, 3),
            "check_seconds": round(component.check_seconds, 6),
            "recovering": component.recovering,
            "failed": component.failed,
        }
        for name, component in health.components.items()
    }
    reasons = {name: component.reason for name, component in health.components.items() if component.reason}
    if reasons:
        document["reasons"] = reasons
    if health.status is Status.UNHEALTHY:
        document["error"] = health.reason
    return document


def breaker_document(status: BreakerStatus, now: float) -> dict[str, Any]:
    """`now`: seconds since the epoch."""
    is_open = status.state == BreakerState.OPEN
    return {**asdict(status), "next_probe_at": round(now + status.retry_at_seconds, 3) if is_open else None}


def transfer_document(status: TransferStatus) -> dict[str, Any]:
    return {
        **asdict(status),
        "rate_bits_per_second": status.rate,
        "ratio": status.ratio,
        "eta_seconds": status.eta_seconds,
        "eta_range_seconds": status.eta_range,
    }


def _health(config: Config, health: NodeHealth) -> tuple[int, Any]:
    document = health_document(config.version, config.enabled, health)
    return 503 if health.status is Status.UNHEALTHY else 200, document


def _live(config: Config, health: NodeHealth) -> tuple[int, Any]:
    return 200, {"status": "alive"}


def _ready(config: Config, health: NodeHealth) -> tuple[int, Any]:
    if health.status is Status.UNHEALTHY:
        return 503, {"status": "not ready", "reason": health.reason}
    return 200, {"status": "ready", "reason": health.reason}


def _probe(path: str, read: Probe, summary: str, schema: dict[str, Any], statuses: dict[int, str]) -> Endpoint:
    async def answer(view: NodeView, request: Request) -> Response:
        status, document = read(view.config, view.health())
        return Json(document, status)

    return Endpoint("GET", path, answer, summary, schema, statuses, probe=read)


async def _breaker_state(view: NodeView, request: Request) -> Response:
    return Json(view.health().circuit_breaker)


async def _breakers(view: NodeView, request: Request) -> Response:
    now = time.time()
    return Json({name: breaker_document(status, now) for name, status in view.breakers().items()})


async def _reset(view: NodeView, request: Request) -> Response:
    view.reset_breakers(request.query_params.get("peer"))
    return Json({"state": view.health().circuit_breaker})


async def _transfers(view: NodeView, request: Request) -> Response:
    wanted = request.query_params.get("state")
    if wanted is not None and wanted not in list(State):
        raise UsageError(f"no transfer is ever {wanted!r}; state is one of {', '.join(State)}")
    transfers = [*view.board.live(), *view.board.recent()]
    return Json([transfer_document(status) for status in transfers if wanted in (None, status.state)])


async def _transfer(view: NodeView, request: Request) -> Response:
    return Json(transfer_document(view.board.get(request.path_params["id"])))


async def _cancel(view: NodeView, request: Request) -> Response:
    view.board.cancel(request.path_params["id"])
    return Json({"id": request.path_params["id"], "state": "cancelling"}, 202)


async def _pause(view: NodeView, request: Request) -> Response:
    return await _paused(view, request.path_params["id"], paused=True)


async def _resume(view: NodeView, request: Request) -> Response:
    return await _paused(view, request.path_params["id"], paused=False)


async def _paused(view: NodeView, transfer: str, *, paused: bool) -> Response:
    # the peer is told, which may wait for the network
    await asyncio.to_thread(view.board.pause, transfer, paused=paused)
    return Json({"id": transfer, "state": "pausing" if paused else "resuming"}, 202)


async def _status(view: NodeView, request: Request) -> Response:
    sockets, warnings = view.sockets()
    counters = view.transport()
    document = {
        "node": view.config.node.name,
        "fingerprint": view.fingerprint,
        "addresses": dict(view.addresses),
        "exports": {
            name: {"path": export.path, "read_only": export.read_only}
            for name, export in view.config.storage.exports.items()
        },
        "peers": {
            name: {
                "address": peer.address,
                "fingerprint": peer.fingerprint,
                "latency_milliseconds": _milliseconds(counters.latency_seconds.get(name)),
            }
            for name, peer in view.config.peers.items()
        },
        "sockets": dict(sockets),
        "warnings": warnings,
        "transport": {**asdict(counters), "latency_seconds": dict(counters.latency_seconds)},
    }
    return Json(document)


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)


_NUMBERS = {"type": "object", "additionalProperties": {"type": "number"}}
_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}
_PROBLEM = _obj(code="string", message="string")
_TRANSFER = _obj(
    id="string",
    role={"enum": ["send", "receive"]},
    peer="string",
    target="string",
    state={"enum": list(State)},
    started_at="number",
    seconds="number",
    files_total="integer",
    files_done="integer",
    bytes_total="integer",
    bytes_done="integer",
    wire_bytes="integer",
    streams="integer",
    paused="boolean",
    error="string",
    rate_bits_per_second="number",
    ratio="number",
    eta_seconds={"type": ["number", "null"]},
    eta_range_seconds={"type": ["array", "null"], "items": {"type": "number"}},
    foreseen=_obj(low="number", rate="number", high="number") | {"type": ["object", "null"]},
)
_HEALTH = _obj(
    status={"enum": list(Status)},
    version="string",
    enabled="boolean",
    components=_STRINGS,
    uptime_seconds="integer",
    components_healthy="boolean",
    unhealthy_components={"type": "array", "items": {"type": "string"}},
    recovery_in_progress="boolean",
    circuit_breaker={"enum": ["closed", "half-open", "open"]},
    checks={
        "type": "object",
        "additionalProperties": _obj(since="number", check_seconds="number", recovering="boolean", failed="boolean"),
    },
    reasons=_STRINGS,
    error="string",
)
_BREAKER = _obj(
    name="string",
    state={"enum": ["closed", "half-open", "open"]},
    failures="integer",
    calls="integer",
    failure_rate="number",
    trips="integer",
    tripped_by="string",
    reason="string",
    retry_at_seconds="number",
    next_probe_at={"type": ["number", "null"]},
)
_EXPORT = _obj(path="string", read_only="boolean")
_PEER = _obj(
    address={"type": ["string", "null"]}, fingerprint="string", latency_milliseconds={"type": ["number", "null"]}
)
_STATUS = _obj(
    node="string",
    fingerprint="string",
    addresses=_STRINGS,
    exports={"type": "object", "additionalProperties": _EXPORT},
    peers={"type": "object", "additionalProperties": _PEER},
    sockets=_STRINGS,
    warnings={"type": "array", "items": {"type": "string"}},
    transport=_obj(
        latency_seconds=_NUMBERS,
        **{item.name: "integer" for item in fields(TransportCounters) if item.name != "latency_seconds"},
    ),
)

_CANNOT_PAUSE = {
    403: "the peer sends, and is too old to be asked",
    404: "no such transfer",
    409: "the peer is not connected now",
}

ENDPOINTS = (
    _probe("/health", _health, "Health of the node and its components", _HEALTH, {503: "unhealthy"}),
    _probe("/live", _live, "The process answers", _obj(status="string"), {503: "it is stuck"}),
    _probe("/ready", _ready, "The node can do its job", _obj(status="string", reason="string"), {503: "not yet"}),
    Endpoint(
        "GET",
        "/circuit-breaker/state",
        _breaker_state,
        "State of the worst circuit breaker",
        {"enum": ["closed", "half-open", "open"]},
    ),
    Endpoint(
        "GET",
        "/circuit-breakers",
        _breakers,
        "Each peer's circuit breaker",
        {"type": "object", "additionalProperties": _BREAKER},
    ),
    Endpoint(
        "POST",
        "/circuit-breaker/reset",
        _reset,
        "Close all circuit breakers, or one",
        _obj(state="string"),
        {404: "no such peer"},
        {"peer": Parameter("the peer whose breaker is meant; all without it")},
    ),
    Endpoint(
        "GET",
        "/transfers",
        _transfers,
        "Running transfers, and the newest of those that ended",
        {"type": "array", "items": _TRANSFER},
        {400: "no such state"},
        {"state": Parameter("running, done, failed or cancelled", {"enum": list(State)})},
    ),
    Endpoint("GET", "/transfers/{id}", _transfer, "One transfer", _TRANSFER, {404: "no such transfer"}),
    Endpoint(
        "DELETE",
        "/transfers/{id}",
        _cancel,
        "Cancel a transfer; what has arrived is kept for the next try",
        _obj(id="string", state="string"),
        {202: "it is being cancelled", 404: "no such transfer"},
    ),
    Endpoint(
        "POST",
        "/transfers/{id}/cancel",
        _cancel,
        "The same, for clients without DELETE",
        _obj(id="string", state="string"),
        {202: "it is being cancelled", 404: "no such transfer"},
    ),
    Endpoint(
        "POST",
        "/transfers/{id}/pause",
        _pause,
        "Let a transfer rest: what is under way ends, nothing more is sent, its session lives; a restart of either end "
        "resumes it",
        _obj(id="string", state="string"),
        {202: "it will rest soon", **_CANNOT_PAUSE},
    ),
    Endpoint(
        "POST",
        "/transfers/{id}/resume",
        _resume,
        "Let a paused transfer go on, whichever end paused it",
        _obj(id="string", state="string"),
        {202: "it goes on soon", **_CANNOT_PAUSE},
    ),
    Endpoint("GET", "/status", _status, "The node: identity, addresses, peers, sockets, counters", _STATUS),
    *forecasts.ENDPOINTS,
    *watching.ENDPOINTS,
    *workloads.ENDPOINTS,
    *cluster.ENDPOINTS,
    *sync.ENDPOINTS,
    *debug.ENDPOINTS,
)


def openapi(package_version: str, *, token_needed: bool = True) -> dict[str, Any]:
    """OpenAPI 3.1 of the table, /metrics and itself included. `token_needed`: the listener is not on loopback."""
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, token_needed)
    text = {"200": {"description": "Prometheus text format", "content": {"text/plain": {"schema": {"type": "string"}}}}}
    paths["/metrics"] = {"get": {"summary": "Metrics for Prometheus", "responses": text}}
    document = {
        "200": {"description": "this document", "content": {"application/json": {"schema": {"type": "object"}}}}
    }
    paths["/openapi.json"] = {"get": {"summary": "This document", "responses": document}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "DWCP Manager", "version": package_version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _PROBLEM},
        },
    }


def _operation(endpoint: Endpoint, token_needed: bool) -> dict[str, Any]:
    usual = {} if {201, 202} & endpoint.statuses.keys() else {200: "done"}
    responses: dict[str, Any] = {}
    for status, meaning in {**usual, **endpoint.statuses}.items():
        problem = status in (400, 401, 403, 404, 409)
        schema = {"$ref": "#/components/schemas/Problem"} if problem else endpoint.schema
        media_type = "application/json" if problem else endpoint.media_type
        responses[str(status)] = {"description": meaning, "content": {media_type: {"schema": schema}}}
    operation: dict[str, Any] = {"summary": endpoint.summary, "responses": responses}
    parameters = [
        {"name": name, "in": "query", "required": it.required, "description": it.meaning, "schema": it.schema}
        for name, it in endpoint.query.items()
    ]
    for name in re.findall(r"\{(\w+)\}", endpoint.path):
        parameters.append({"name": name, "in": "path", "required": True, "schema": {"type": "string"}})
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": endpoint.body}}}
    if endpoint.guarded:
        operation["security"] = [{"token": []}] if token_needed or endpoint.secret else [{"token": []}, {}]
        for status, meaning in ((401, "the token is missing or wrong"), (403, "asked from another site's page")):
            ref = {"$ref": "#/components/schemas/Problem"}
            responses.setdefault(
                str(status), {"description": meaning, "content": {"application/json": {"schema": ref}}}
            )
    return operation
