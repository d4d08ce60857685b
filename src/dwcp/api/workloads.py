"""Endpoints of workloads and jobs.

What makes the node read a file of somebody's choice, or a peer remove one, needs the token on every listener, loopback
included: any local user reaches that one, and the manager may read more than they.

Nothing here restores: the node would write what a peer keeps where the request says, with the manager's rights, and the
token would be worth a shell. `/workloads/{name}/versions` gives the command, which writes as the user who runs it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, fields
from typing import Any

from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from dwcp.api.bodies import read_object
from dwcp.api.endpoint import Endpoint, Json, Parameter, obj
from dwcp.config.load import as_written
from dwcp.config.model import NODE_NAME
from dwcp.config.workloads import NEVER_OVER_HTTP, WorkloadSection
from dwcp.errors import NotFoundError, UsageError
from dwcp.metrics.view import NodeView
from dwcp.policy.queueing import JobState
from dwcp.store.job import Job
from dwcp.transfer.remote_versions import RemoteVersion
from dwcp.workloads.plan import jobs_of, workload_of

JOB_KEYS = ("source", "target", "delete", "checksum", "priority", "keep", "bandwidth")


def job_document(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "workload": job.workload,
        "kind": job.kind,
        "source": job.source,
        "target": job.place,
        "priority": job.priority,
        "state": job.state,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "not_before": job.not_before,
        "started_at": job.started_at,
        "ended_at": job.ended_at,
        "reason": job.reason,
        "version": job.version,
        "files": job.files,
        "bytes": job.bytes,
        "wire_bytes": job.wire_bytes,
    }


def workload_document(view: NodeView, name: str) -> dict[str, Any]:
    """Raises NotFoundError."""
    workload, status = workload_of(view.config, name), view.workloads.status
    known = status.known.get(name)
    standings = {standing.target: standing for standing in status.standings if standing.workload == name}
    targets = []
    for target in workload.targets:
        standing = standings.get(target)
        targets.append(
            {
                "target": target,
                "sent_at": standing.sent_at if standing else 0.0,
                "version": standing.version if standing else "",
                "verified_at": standing.verified_at if standing else 0.0,
                "damaged": standing.damaged if standing else 0,
            }
        )
    settings = {key: value for key, value in as_written(workload).items() if key != "targets"}
    return {
        "name": name,
        **settings,
        "owner": view.workloads.owner(name),
        "paused": known.paused if known else False,
        "targets": targets,
    }


async def _workloads(view: NodeView, request: Request) -> Response:
    return Json([workload_document(view, name) for name in view.config.workloads])


async def _workload(view: NodeView, request: Request) -> Response:
    return Json(workload_document(view, request.path_params["name"]))


async def _add_workload(view: NodeView, request: Request) -> Response:
    body = await read_object(request)
    name = body.pop("name", None)
    if not isinstance(name, str):
        raise UsageError("name is missing, or no text")
    forbidden = [key for key in NEVER_OVER_HTTP if key in body]
    if forbidden:
        raise UsageError(f"{', '.join(forbidden)}: commands are not taken over HTTP; write them into the configuration")
    await view.add_workload(name, _section(body))
    return Json(workload_document(view, name), 201)


def _section(values: dict[str, Any]) -> WorkloadSection:
    """Raises UsageError with all that is wrong."""
    try:
        return WorkloadSection.model_validate(values)
    except ValidationError as error:
        problems = [f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors()]
        raise UsageError("; ".join(problems)) from error


async def _remove_workload(view: NodeView, request: Request) -> Response:
    await view.remove_workload(request.path_params["name"])
    return Json({"name": request.path_params["name"]})


async def _run(view: NodeView, request: Request) -> Response:
    jobs = await view.workloads.ask(request.path_params["name"], "send")
    return Json([job_document(job) for job in jobs], 202)


async def _verify(view: NodeView, request: Request) -> Response:
    jobs = await view.workloads.ask(request.path_params["name"], "verify")
    return Json([job_document(job) for job in jobs], 202)


async def _pause(view: NodeView, request: Request) -> Response:
    await view.workloads.pause(request.path_params["name"], paused=True)
    return Json({"name": request.path_params["name"], "paused": True})


async def _resume(view: NodeView, request: Request) -> Response:
    await view.workloads.pause(request.path_params["name"], paused=False)
    return Json({"name": request.path_params["name"], "paused": False})


async def _versions(view: NodeView, request: Request) -> Response:
    name, target = request.path_params["name"], request.query_params.get("target", "")
    if not target:
        raise UsageError("target is missing: one of the workload's, PEER:EXPORT/PATH")
    peer = target.partition(":")[0]
    return Json(
        [
            {**asdict(version), "restore": f"dwcp workload restore {name} DST --version {version.id} --from {peer}"}
            for version in await view.workloads.versions(name, target)
        ]
    )


async def _jobs(view: NodeView, request: Request) -> Response:
    wanted = request.query_params.get("state")
    if wanted is not None and wanted not in list(JobState):
        raise UsageError(f"no job is ever {wanted!r}; state is one of {', '.join(JobState)}")
    jobs = await view.workloads.jobs(*([JobState(wanted)] if wanted is not None else []))
    return Json([job_document(job) for job in jobs])


async def _job(view: NodeView, request: Request) -> Response:
    return Json(job_document(await view.workloads.job(_job_id(request))))


async def _add_job(view: NodeView, request: Request) -> Response:
    body = await read_object(request)
    unknown = body.keys() - JOB_KEYS
    if unknown:
        raise UsageError(f"unknown: {', '.join(sorted(unknown))}; a job has {', '.join(JOB_KEYS)}")
    target = body.pop("target", "")
    section = _section({"delete": False, **body, "targets": [target]})
    (job,) = jobs_of("", section, "send")
    if job.peer not in view.config.peers:
        raise NotFoundError(f"no peer {job.peer!r}; known peers: {', '.join(sorted(view.config.peers)) or 'none'}")
    return Json(job_document(await view.workloads.add(job)), 201)


async def _cancel_job(view: NodeView, request: Request) -> Response:
    return Json(job_document(await view.workloads.cancel(_job_id(request))), 202)


async def _retry_job(view: NodeView, request: Request) -> Response:
    return Json(job_document(await view.workloads.retry(_job_id(request))), 202)


def _job_id(request: Request) -> int:
    text = request.path_params["id"]
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise NotFoundError(f"no job {text!r}; jobs have numbers")
    return int(text)


def _body_schema(required: dict[str, dict[str, Any]], leave_out: Collection[str]) -> dict[str, Any]:
    """Of an object with the keys of a workload's section, each as it is written in a configuration."""
    written = WorkloadSection.model_json_schema()["properties"].items()
    keys = {key: _written(schema) for key, schema in written if key not in leave_out}
    return {
        "type": "object",
        "properties": {**keys, **required},
        "required": list(required),
        "additionalProperties": False,
    }


def _written(schema: dict[str, Any]) -> dict[str, Any]:
    """Times and rates are numbers with a unit."""
    described = {"description": f"{schema['description']} {schema['allowed']}"}
    if "unit" in schema:
        return {"type": "string", **described}
    return {key: schema[key] for key in _OF_JSON_SCHEMA if key in schema} | described


_OF_JSON_SCHEMA = ("type", "enum", "items", "pattern", "minimum", "maximum", "minItems", "maxItems")
_NAME = {"type": "string", "pattern": NODE_NAME}
_SOURCE = {"type": "string", "pattern": "^/", "description": "File or directory here."}
_TARGET = {"type": "string", "description": "PEER:EXPORT/PATH"}
_TARGETS = {"type": "array", "items": _TARGET, "minItems": 1, "maxItems": 64}
_NEW_WORKLOAD = _body_schema({"name": _NAME, "source": _SOURCE, "targets": _TARGETS}, NEVER_OVER_HTTP)
_NEW_JOB = _body_schema({"source": _SOURCE, "target": _TARGET}, WorkloadSection.model_fields.keys() - {*JOB_KEYS})

_STATES = {"enum": list(JobState)}
_JOB = obj(
    id="integer",
    workload="string",
    kind={"enum": ["send", "verify"]},
    source="string",
    target="string",
    priority="integer",
    state=_STATES,
    attempts="integer",
    created_at="number",
    not_before="number",
    started_at="number",
    ended_at="number",
    reason="string",
    version="string",
    files="integer",
    bytes="integer",
    wire_bytes="integer",
)
_JOBS = {"type": "array", "items": _JOB}
_STANDING = obj(target="string", sent_at="number", version="string", verified_at="number", damaged="integer")
_WORKLOAD = obj(
    name="string",
    source="string",
    enabled="boolean",
    owner="string",
    paused="boolean",
    targets={"type": "array", "items": _STANDING},
)
_VERSION = obj(
    **{item.name: "string" if item.name == "id" else "integer" for item in fields(RemoteVersion)}, restore="string"
)
_PAUSED = obj(name="string", paused="boolean")

ENDPOINTS = (
    Endpoint(
        "GET",
        "/workloads",
        _workloads,
        "Declared workloads, and where they stand at each target",
        {"type": "array", "items": _WORKLOAD},
    ),
    Endpoint(
        "POST",
        "/workloads",
        _add_workload,
        "Declare a workload: the body has its `name` and the keys of `workloads.NAME`, hooks excepted",
        _WORKLOAD,
        {201: "it is declared", 400: "it cannot be meant, or the name is taken"},
        body=_NEW_WORKLOAD,
        secret=True,
    ),
    Endpoint("GET", "/workloads/{name}", _workload, "One workload", _WORKLOAD, {404: "no such workload"}),
    Endpoint(
        "DELETE",
        "/workloads/{name}",
        _remove_workload,
        "Forget a workload that was added; what is at its targets stays",
        obj(name="string"),
        {400: "it is in the configuration", 404: "no such workload"},
        secret=True,
    ),
    Endpoint(
        "POST",
        "/workloads/{name}/run",
        _run,
        "Run a workload now",
        _JOBS,
        {202: "its jobs are queued", 404: "no such workload"},
    ),
    Endpoint(
        "POST",
        "/workloads/{name}/verify",
        _verify,
        "Check a workload's versions at its targets, and mend them",
        _JOBS,
        {202: "its jobs are queued", 400: "it keeps no versions", 404: "no such workload"},
    ),
    Endpoint(
        "POST",
        "/workloads/{name}/pause",
        _pause,
        "Let a workload not run by itself any more",
        _PAUSED,
        {404: "no such workload"},
    ),
    Endpoint(
        "POST", "/workloads/{name}/resume", _resume, "Let it run by itself again", _PAUSED, {404: "no such workload"}
    ),
    Endpoint(
        "GET",
        "/workloads/{name}/versions",
        _versions,
        "Its versions at a target, oldest first, asked of the peer; `restore` is the command that brings one back",
        {"type": "array", "items": _VERSION},
        {400: "no target", 404: "no such workload, or target", 409: "the peer cannot be asked now"},
        {
            "target": Parameter(
                "one of its targets, PEER:EXPORT/PATH", {"type": "string", "minLength": 1}, required=True
            )
        },
        private=True,
    ),
    Endpoint(
        "GET",
        "/jobs",
        _jobs,
        "Jobs that wait, run or are parked, and the newest of those that ended",
        _JOBS,
        {400: "no such state"},
        {"state": Parameter("waiting, running, parked, done or cancelled", {"enum": list(JobState)})},
    ),
    Endpoint(
        "POST",
        "/jobs",
        _add_job,
        "Queue a transfer: the body has `source` here, `target` (PEER:EXPORT/PATH), and `delete`, `checksum`, "
        "`priority`, `keep` and `bandwidth` as a workload has them",
        _JOB,
        {201: "it is queued", 400: "it cannot be meant", 404: "no such peer"},
        body=_NEW_JOB,
        secret=True,
    ),
    Endpoint("GET", "/jobs/{id}", _job, "One job", _JOB, {404: "no such job"}),
    Endpoint(
        "POST",
        "/jobs/{id}/cancel",
        _cancel_job,
        "Cancel a job that has not ended; what has arrived is kept",
        _JOB,
        {202: "it is cancelled, or will be soon", 400: "it has ended", 404: "no such job"},
    ),
    Endpoint(
        "POST",
        "/jobs/{id}/retry",
        _retry_job,
        "Let a job that is parked, waits or was cancelled go at once",
        _JOB,
        {202: "it is queued", 400: "it runs, or is done", 404: "no such job"},
    ),
)
