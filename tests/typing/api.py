"""The public API as a user writes it: `mypy --strict` on this file says whether its types can be lived with.

Checked, not run: tests/integration/test_examples.py.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import assert_type

import dwcp


def configuration() -> dwcp.Config:
    config = dwcp.load_config([Path("config.yaml")], {"DWCP_TRANSPORT__MAX_STREAMS": "64"}, {"node.name": "a"})
    assert_type(config.transport.max_streams, int)
    assert_type(config.transport.connect_timeout, float)
    assert_type(config.peers["b"].address, str | None)
    assert_type(dwcp.fingerprint(config), str)
    return config


def on_progress(status: dwcp.TransferStatus) -> None:
    assert_type(status.bytes_done, int)
    assert_type(status.eta_seconds, float | None)
    assert_type(status.rate, float)


async def transfers() -> dwcp.TransferResult:
    async with dwcp.connect("b", config=configuration()) as peer:
        assert_type(peer, dwcp.Peer)
        assert_type(await peer.ping(), float)
        entries = await peer.ls("inbox")
        assert_type(entries, list[dwcp.RemoteEntry])
        assert_type(entries[0].size, int)
        entry = await peer.stat("inbox/file")
        assert_type(entry, dwcp.RemoteEntry)
        assert_type(await peer.read("inbox/file", 0, 4096, unchanged=entry), bytes)
        await peer.send(Path("tree"), "inbox/tree", delete=True, checksum="blake3", on_progress=on_progress)
        await peer.send("file", "inbox/")
        await peer.send(io.BytesIO(b"content"), "inbox/file")
        await peer.get("inbox/file", io.BytesIO())
        assert_type(await peer.keep_version("inbox/tree", "last 5, daily 7"), dwcp.KeptVersion)
        assert_type(await peer.versions("inbox/tree"), list[dwcp.RemoteVersion])
        assert_type(await peer.check_versions("inbox/tree", rate=50_000_000), dwcp.CheckedVersions)
        await peer.restore("inbox/tree", Path("old"), version="latest")
        result = await peer.get("inbox/tree", "back")
        assert_type(result.verified, bool)
        assert_type(result.wire_bytes, int)
        assert_type(result.errors, list[str])
        return result


async def usual_files() -> None:
    async with dwcp.connect("b") as peer:
        await peer.ping()


async def embedded() -> None:
    async with dwcp.Manager(configuration()) as node:
        assert_type(node, dwcp.Manager)
        assert_type(node.fingerprint, str)
        assert_type(node.health().uptime_seconds, float)
        for status in node.board.live():
            assert_type(status, dwcp.TransferStatus)
        assert_type(node.reload(configuration()), tuple[list[str], list[str]])


def failures(error: dwcp.DwcpError) -> tuple[int, str]:
    return error.exit_code, error.code


def mistakes() -> None:
    # each of these has to be an error: an ignore that is not needed is one itself
    dwcp.connect(5)  # type: ignore[arg-type]
    dwcp.connect("b").ls()  # type: ignore[attr-defined]
    dwcp.Manager("config.yaml")  # type: ignore[arg-type]
    dwcp.load_config("config.yaml")  # type: ignore[arg-type]
