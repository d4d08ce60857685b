"""Tells the transaction log of each transfer's beginning and end."""

from __future__ import annotations

from dwcp.store.recorder import Recorder
from dwcp.transfer.board import TransferStatus


class TransferRecording:
    """The board's observer."""

    def __init__(self, recorder: Recorder, *, command: bool) -> None:
        """`command`: no manager's, but of a process beside it."""
        self._recorder = recorder
        self._by = "command" if command else "manager"

    def began(self, status: TransferStatus) -> None:
        self._recorder.write(
            "transfer",
            "begin",
            peer=status.peer,
            id=status.id,
            role=status.role.value,
            target=status.target,
            by=self._by,
        )

    def ended(self, status: TransferStatus) -> None:
        failed = {"error": status.error} if status.error else {}
        self._recorder.write(
            "transfer",
            "end",
            peer=status.peer,
            id=status.id,
            role=status.role.value,
            target=status.target,
            state=status.state.value,
            files=status.files_done,
            bytes=status.bytes_done,
            wire_bytes=status.wire_bytes,
            seconds=round(status.seconds, 3),
            **failed,
        )
