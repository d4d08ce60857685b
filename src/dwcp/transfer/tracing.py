"""A transfer as spans: one at its initiator, and below it one for each session at its responder; below either, one for
each data connection."""

from __future__ import annotations

import os

from dwcp.links.interface import Link
from dwcp.telemetry import Attributes, Span, Telemetry, spanning
from dwcp.transfer.board import State, TransferStatus
from dwcp.transfer.node import Node
from dwcp.transfer.session import Dialled, begin_session
from dwcp.wire import messages as m


def begin_initiated(telemetry: Telemetry, transfer: str, direction: str, peer: str, path: bytes) -> Span:
    return telemetry.begin(direction, _attributes(transfer, peer, path), kind="client")


def begin_served(telemetry: Telemetry, request: m.Open, peer: str) -> Span:
    attributes = _attributes(request.transfer, peer, request.path)
    return telemetry.begin(f"serve {request.direction}", attributes, kind="server", parent=request.traceparent)


def end(span: Span, final: TransferStatus) -> None:
    counts = {
        "dwcp.state": final.state.value,
        "dwcp.files": final.files_done,
        "dwcp.bytes": final.bytes_done,
        "dwcp.wire_bytes": final.wire_bytes,
    }
    span.end(counts, "" if final.state is State.DONE else final.error or final.state.value)


def connect(node: Node, peer: str, address: str, expected: str, ahead: int = 0) -> Dialled:
    """As `begin_session`, for what somebody wants from a peer: whether one is there is asked too often to be told."""
    with spanning(node.telemetry, "connect", {"dwcp.peer": peer, "dwcp.address": address}, kind="client"):
        return begin_session(node, address, expected, ahead)


def begin_stream(telemetry: Telemetry, number: int, peer: str) -> Span:
    return telemetry.begin("stream", {"dwcp.peer": peer, "dwcp.stream": number})


def end_stream(span: Span, link: Link, error: str) -> None:
    sent, received = link.wire_bytes()
    span.end({"dwcp.link": link.description, "dwcp.sent": sent, "dwcp.received": received}, error)


def _attributes(transfer: str, peer: str, path: bytes) -> Attributes:
    return {"dwcp.transfer": transfer, "dwcp.peer": peer, "dwcp.path": os.fsdecode(path)}
