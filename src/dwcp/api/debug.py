"""What is under /debug: for whoever looks for a fault in a running node. Off unless `debug.enabled` says otherwise."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import structlog
from starlette.requests import Request
from starlette.responses import Response

from dwcp import logs
from dwcp.api.endpoint import Endpoint, Handler, Json, Parameter, obj
from dwcp.config.load import as_written
from dwcp.errors import RefusedError, UsageError
from dwcp.metrics.view import NodeView
from dwcp.profiling import cpu, heap, pprof, stacks

DEFAULT_SECONDS = 30.0
"""What Go's servers take, and so what readers of their profiles expect."""
MAX_SECONDS = 300.0
GONE_CHECK = 0.5
"""Seconds between looks at whether whoever asked is still there."""
_threads_of_ours = ThreadPoolExecutor(3, "dwcp-debug")
"""Not those that health checks run in: one of each kind of profile may be under way, and stacks be looked at."""
HIDDEN = "(hidden)"

_SECRET = re.compile(r"(^|_)(token|secret|password|passphrase|credential|credentials|private_key|api_key)$")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")

log = structlog.get_logger()


def _allowed(handler: Handler) -> Handler:
    async def answer(view: NodeView, request: Request) -> Response:
        if not view.config.debug.enabled:
            raise RefusedError("debugging is off here; debug.enabled: true in the configuration and a reload allow it")
        return await handler(view, request)

    return answer


@_allowed
async def _heap(view: NodeView, request: Request) -> Response:
    return await _profile(request, lambda stop: heap.profile())


@_allowed
async def _cpu(view: NodeView, request: Request) -> Response:
    seconds = _seconds(request.query_params.get("seconds"))
    return await _profile(request, lambda stop: cpu.profile(seconds, stop))


async def _profile(request: Request, take: Callable[[threading.Event], pprof.Profile]) -> Response:
    """Taken and encoded in a thread, and left off when nobody waits for it any more."""
    stop = threading.Event()
    work = asyncio.get_running_loop().run_in_executor(_threads_of_ours, lambda: pprof.encode(take(stop)))
    try:
        while not (await asyncio.wait({work}, timeout=GONE_CHECK))[0]:
            if await request.is_disconnected():
                stop.set()
    finally:
        stop.set()
    return Response(work.result(), media_type=_PPROF)


def _seconds(given: str | None) -> float:
    try:
        seconds = DEFAULT_SECONDS if given is None else float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= MAX_SECONDS:
        raise UsageError(f"seconds is a number above 0, {MAX_SECONDS:g} at most; found {given!r}")
    return seconds


@_allowed
async def _threads(view: NodeView, request: Request) -> Response:
    found = await asyncio.get_running_loop().run_in_executor(_threads_of_ours, stacks.threads)
    document = {
        "threads": [_with_frames(asdict(entry), entry.stack) for entry in found],
        "tasks": [_with_frames(asdict(entry), entry.stack) for entry in stacks.tasks()],
    }
    return Json(document)


def _with_frames(entry: dict[str, Any], stack: tuple[pprof.Frame, ...]) -> dict[str, Any]:
    frames = [{"function": frame.function, "file": frame.file, "line": frame.line} for frame in stack]
    return {**entry, "stack": frames}


@_allowed
async def _config(view: NodeView, request: Request) -> Response:
    return Json(without_secrets(as_written(view.config)))


def without_secrets(value: Any) -> Any:
    """A configuration in which whatever is called a secret is hidden, and so are names and passwords in URLs."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if _SECRET.search(key) and entry else without_secrets(entry) for key, entry in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(entry) for entry in value]
    return _USERINFO.sub(HIDDEN, value) if isinstance(value, str) else value


@_allowed
async def _log_level(view: NodeView, request: Request) -> Response:
    return Json({"level": logs.level(), "configured": view.config.node.log_level})


@_allowed
async def _set_log_level(view: NodeView, request: Request) -> Response:
    wanted, before = request.query_params.get("level", ""), logs.level()
    if wanted not in logs.LEVELS:
        raise UsageError(f"level is one of {', '.join(logs.LEVELS)}; found {wanted!r}")
    order = list(logs.LEVELS)
    if order.index(wanted) < order.index(before):
        logs.set_level(wanted)
    # under the level that shows more, so that a log that becomes silent says why
    log.warning("log level changes, asked over HTTP", was=before, now=wanted)
    logs.set_level(wanted)
    return await _log_level(view, request)


_OFF = {403: "debugging is off, or asked from another site's page"}
_FRAMES = {"type": "array", "items": obj(function="string", file="string", line="integer")}
_THREAD = obj(
    name="string",
    native_id={"type": ["integer", "null"]},
    daemon="boolean",
    cpu_seconds={"type": ["number", "null"]},
    stack=_FRAMES,
)
_THREADS = obj(
    threads={"type": "array", "items": _THREAD}, tasks={"type": "array", "items": obj(name="string", stack=_FRAMES)}
)
_LEVEL = obj(level={"enum": list(logs.LEVELS)}, configured={"enum": list(logs.LEVELS)})
_PPROF = "application/octet-stream"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/debug/pprof/heap",
        _heap,
        "Memory in use, for `go tool pprof`: by allocating stack with `debug.heap_frames`, else by type of object",
        {"type": "string", "format": "binary"},
        {**_OFF, 409: "another one is being taken"},
        private=True,
        media_type=_PPROF,
    ),
    Endpoint(
        "GET",
        "/debug/pprof/profile",
        _cpu,
        "What all threads do for some seconds, for `go tool pprof`: processor time, and time that passed",
        {"type": "string", "format": "binary"},
        {400: "no such duration", **_OFF, 409: "another one is being taken"},
        {
            "seconds": Parameter(
                f"how long, {DEFAULT_SECONDS:g} without it, {MAX_SECONDS:g} at most",
                {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SECONDS},
            )
        },
        private=True,
        media_type=_PPROF,
    ),
    Endpoint("GET", "/debug/threads", _threads, "Where each thread and task is", _THREADS, _OFF, private=True),
    Endpoint(
        "GET",
        "/debug/config",
        _config,
        "The configuration in force, with all defaults; no secrets",
        {"type": "object"},
        _OFF,
        private=True,
    ),
    Endpoint("GET", "/debug/log-level", _log_level, "What is logged", _LEVEL, _OFF, private=True),
    Endpoint(
        "POST",
        "/debug/log-level",
        _set_log_level,
        "Log more or less, until the configuration is read again",
        _LEVEL,
        {400: "no such level", **_OFF},
        {"level": Parameter(", ".join(logs.LEVELS), {"enum": list(logs.LEVELS)}, required=True)},
    ),
)
