"""Endpoints of the cluster: who is there, who owns what, and what an operator wants to be so."""

from __future__ import annotations

import asyncio
import re
from dataclasses import asdict
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from dwcp.api.bodies import read_object
from dwcp.api.endpoint import Endpoint, Json, Parameter, obj
from dwcp.config.workloads import NODE_NAME
from dwcp.errors import NotFoundError, UsageError
from dwcp.metrics.view import NodeView
from dwcp.ownership.decide import Facts, heir, why_not
from dwcp.workloads.owners import policy_of
from dwcp.workloads.ownership import ClusterStatus, Ownership
from dwcp.workloads.shared import SharedRecord


def cluster_document(view: NodeView) -> dict[str, Any]:
    """What the node knows now; only `enabled` is true of one without consensus."""
    ownership = view.ownership
    status = ownership.status if ownership is not None else ClusterStatus()
    ledger = status.ledger
    return {
        "enabled": ownership is not None,
        "node": view.config.node.name,
        "cluster": status.cluster,
        "lease": status.lease,
        "seen_at": status.at,
        "problem": status.problem,
        "trouble": status.trouble or "",
        "nodes": [
            {
                "name": name,
                "address": node.address,
                "drained": name in ledger.drained,
                "copies": {
                    workload: {"token": token, "complete": complete}
                    for workload, (token, complete) in sorted(node.states.items())
                },
            }
            for name, node in sorted(ledger.nodes.items())
        ],
        "shared": [
            {"name": name, "places": record.places, "settings": record.settings}
            for name, record in sorted(ledger.shared.items())
        ],
        "workloads": [
            _workload(view, ledger.facts, name) for name in sorted(_shared(view) | ledger.facts.owners.keys())
        ],
    }


def _shared(view: NodeView) -> set[str]:
    return {name for name, workload in view.config.workloads.items() if workload.owners}


def _workload(view: NodeView, facts: Facts, name: str) -> dict[str, Any]:
    owner, last = facts.owners.get(name), facts.last.get(name)
    declared = view.config.workloads.get(name)
    owners = tuple(declared.owners) if declared is not None else ()
    return {
        "name": name,
        "owner": owner.node if owner is not None else "",
        "token": owner.token if owner is not None else 0,
        "last_owner": last.node if last is not None else "",
        "owners": list(owners),
        "moving_to": facts.moves.get(name, ""),
        "leaving_to": view.ownership.leaving(name) if view.ownership is not None else "",
        "waits_for": "" if owner is not None or declared is None else _waits_for(view, facts, name),
    }


def _waits_for(view: NodeView, facts: Facts, name: str) -> str:
    """Why nobody owns it."""
    declared = view.config.workloads[name]
    policy = policy_of(declared)
    found = heir(facts, name, policy)
    if found is not None:
        return f"{found} is about to own it"
    if name not in facts.last:
        first = policy.owners[0]
        return f"it begins at {first}, the first of its owners: {why_not(facts, name, policy, first)}"
    return "; ".join(why_not(facts, name, policy, node) for node in policy.owners)


async def _cluster(view: NodeView, request: Request) -> Response:
    return Json(cluster_document(view))


async def _members(view: NodeView, request: Request) -> Response:
    return Json([asdict(member) for member in await _ownership(view).members()])


async def _events(view: NodeView, request: Request) -> Response:
    return Json([asdict(event) for event in _ownership(view).events])


async def _move(view: NodeView, request: Request) -> Response:
    name, to = request.path_params["name"], request.query_params.get("to", "")
    if not to:
        raise UsageError("to is missing: the node that should own it")
    await _ownership(view).desk.move(name, to)
    return Json({"name": name, "to": to}, 202)


async def _stay(view: NodeView, request: Request) -> Response:
    await _ownership(view).desk.stay(request.path_params["name"])
    return Json({"name": request.path_params["name"]})


async def _drain(view: NodeView, request: Request) -> Response:
    await _ownership(view).desk.drain(request.path_params["node"], drained=True)
    return Json({"node": request.path_params["node"], "drained": True}, 202)


async def _undrain(view: NodeView, request: Request) -> Response:
    await _ownership(view).desk.drain(request.path_params["node"], drained=False)
    return Json({"node": request.path_params["node"], "drained": False})


async def _share(view: NodeView, request: Request) -> Response:
    body = await read_object(request)
    try:
        record = msgspec.convert({key: value for key, value in body.items() if key != "name"}, SharedRecord)
    except msgspec.ValidationError as error:
        raise UsageError(f"the body has name, places and settings: {error}") from error
    name = body.get("name")
    if not isinstance(name, str) or not re.fullmatch(NODE_NAME, name):
        raise UsageError("name is missing, or cannot be one: letters, digits, . _ -, at most 63")
    await _ownership(view).desk.share(name, record)
    return Json({"name": name, "places": record.places, "settings": record.settings}, 202)


async def _unshare(view: NodeView, request: Request) -> Response:
    await _ownership(view).desk.unshare(request.path_params["name"])
    return Json({"name": request.path_params["name"]})


async def _fences(view: NodeView, request: Request) -> Response:
    return Json([asdict(record) for record in await asyncio.to_thread(view.fences)])


async def _unfence(view: NodeView, request: Request) -> Response:
    key = request.query_params.get("key", "")
    await view.unfence(key)
    return Json({"key": key})


def _ownership(view: NodeView) -> Ownership:
    if view.ownership is None:
        raise NotFoundError("this node is in no cluster: consensus.enabled is false")
    return view.ownership


_WORKLOAD = obj(
    name="string",
    owner="string",
    token="integer",  # noqa: S106 - a fencing token, no secret
    last_owner="string",
    owners={"type": "array", "items": {"type": "string"}},
    moving_to="string",
    leaving_to="string",
    waits_for="string",
)
_NODE = obj(name="string", address="string", drained="boolean", copies="object")
_MEMBER = obj(
    endpoint="string",
    name="string",
    version="string",
    is_leader="boolean",
    has_leader="boolean",
    size="integer",
    problem="string",
)
_SHARED = obj(name="string", places={"type": "array", "items": {"type": "string"}}, settings="object")
_FENCE = obj(key="string", highest="integer", begun="integer", complete="integer", owned="integer", path="string")
_PLACES = {"type": "array", "items": {"type": "string", "description": "NODE:EXPORT/PATH"}, "minItems": 2}
_NEW_SHARED = {
    **obj(name={"type": "string", "pattern": NODE_NAME}, places=_PLACES, settings="object"),
    "required": ["name", "places"],
    "additionalProperties": False,
}
_NO_CLUSTER = "this node is in no cluster"

ENDPOINTS = (
    Endpoint(
        "GET",
        "/cluster",
        _cluster,
        "Who is there, and who owns each workload that has `owners`, as this node knows it",
        obj(
            enabled="boolean",
            node="string",
            cluster="string",
            lease={"enum": ["held", "doubtful", "unconfirmed", "lost"]},
            seen_at="number",
            problem="string",
            trouble="string",
            nodes={"type": "array", "items": _NODE},
            shared={"type": "array", "items": _SHARED},
            workloads={"type": "array", "items": _WORKLOAD},
        ),
    ),
    Endpoint(
        "GET",
        "/cluster/members",
        _members,
        "The members of the etcd cluster, each as it answers for itself",
        {"type": "array", "items": _MEMBER},
        {404: _NO_CLUSTER},
    ),
    Endpoint(
        "GET",
        "/cluster/events",
        _events,
        "What this node has seen happen to nodes and owners since it started",
        {"type": "array", "items": obj(at="number", event="string", detail="object")},
        {404: _NO_CLUSTER},
    ),
    Endpoint(
        "POST",
        "/workloads/{name}/move",
        _move,
        "Hand a workload over to another node, once what runs has ended",
        obj(name="string", to="string"),
        {202: "it will be", 400: "that node cannot own it", 404: "no such workload, or no cluster"},
        {"to": Parameter("the node that should own it", {"type": "string", "pattern": NODE_NAME}, required=True)},
        secret=True,
    ),
    Endpoint(
        "DELETE",
        "/workloads/{name}/move",
        _stay,
        "Leave a workload where it is, where it has not been handed over yet",
        obj(name="string"),
        {400: "it has no owners", 404: "no such workload, or no cluster"},
        secret=True,
    ),
    Endpoint(
        "POST",
        "/cluster/drains/{node}",
        _drain,
        "Have a node hand over all that it owns, and own nothing",
        obj(node="string", drained="boolean"),
        {202: "it will", 404: "no such node, or no cluster"},
        secret=True,
    ),
    Endpoint(
        "DELETE",
        "/cluster/drains/{node}",
        _undrain,
        "Let a node own workloads again",
        obj(node="string", drained="boolean"),
        {404: "no such node, or no cluster"},
        secret=True,
    ),
    Endpoint(
        "POST",
        "/cluster/workloads",
        _share,
        "Declare a workload for all nodes: the body has its `name`, its `places` (NODE:EXPORT/PATH, who should own it "
        "first) and `settings`, keys of `workloads.NAME`, hooks excepted",
        _SHARED,
        {202: "nodes take it that have consensus.shared_workloads", 400: "it cannot be meant", 404: _NO_CLUSTER},
        body=_NEW_SHARED,
        secret=True,
    ),
    Endpoint(
        "DELETE",
        "/cluster/workloads/{name}",
        _unshare,
        "Take a declaration for all nodes back; what is at its places stays",
        obj(name="string"),
        {404: "no such declaration, or no cluster"},
        secret=True,
    ),
    Endpoint(
        "GET",
        "/fences",
        _fences,
        "Workloads whose former owners are kept out here, with the token from which on a writer is let in",
        {"type": "array", "items": _FENCE},
    ),
    Endpoint(
        "DELETE",
        "/fences",
        _unfence,
        "Forget a workload's token: whoever comes next is let in, as after its cluster was made anew",
        obj(key="string"),
        {404: "nothing is fenced by that key"},
        {"key": Parameter("as GET /fences lists it", required=True)},
        secret=True,
    ),
)
