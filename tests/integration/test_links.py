"""Every link passes the same check, and RDMA devices are told apart from what isn't there."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dwcp.errors import ProtocolError, TemporaryError, UnreachableError
from dwcp.links.rdma_device import RdmaDevice
from dwcp.links.tcp import TcpLink
from dwcp.links.ucx import PIECE, Ucx, UcxLink
from dwcp.testing import check_link
from tests.support import UCX_DEVICES, needs_ucx


def tcp_ends() -> tuple[TcpLink, TcpLink]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    return TcpLink(near, read_timeout=10, write_timeout=1), TcpLink(far, read_timeout=10, write_timeout=1)


def ucx_ends(device: str) -> Callable[[], tuple[UcxLink, UcxLink]]:
    ucx = Ucx(RdmaDevice(device))

    def ends() -> tuple[UcxLink, UcxLink]:
        companions = tcp_ends()
        near, far = ucx.open(), ucx.open()
        times = {"read_timeout": 10.0, "write_timeout": 1.0}
        return near.connect(far.address, companions[0], **times), far.connect(near.address, companions[1], **times)

    return ends


def test_a_tcp_link_does_what_links_promise() -> None:
    check_link(tcp_ends)


@needs_ucx
@pytest.mark.parametrize("device", UCX_DEVICES)
def test_a_ucx_link_does_what_links_promise(device: str) -> None:
    check_link(ucx_ends(device))


@needs_ucx
@pytest.mark.parametrize("device", UCX_DEVICES)
def test_an_end_without_a_word_is_a_broken_link(device: str) -> None:
    """As when the other process is killed: its companion is closed by the kernel."""
    near, far = ucx_ends(device)()
    near._companion.shutdown()
    with pytest.raises(UnreachableError, match="without a word"):
        far.receive_into(memoryview(bytearray(1)))
    with pytest.raises(UnreachableError):
        far.send(b"x" * 100_000)
    near.shutdown()
    near.close()
    far.close()


@needs_ucx
def test_a_message_that_is_too_long_is_not_received() -> None:
    near, far = ucx_ends("lo")()
    near._piece = lambda: 2 * PIECE  # type: ignore[method-assign]

    def send() -> None:
        with contextlib.suppress(TemporaryError):
            near.send(bytes(PIECE + 1))

    sending = threading.Thread(target=send)
    sending.start()
    with pytest.raises(ProtocolError, match="1 to 1048576 bytes"):
        far.receive_into(memoryview(bytearray(2 * PIECE)))
    near.shutdown()
    sending.join()
    near.close()
    far.close()


@needs_ucx
@pytest.mark.parametrize("address", [b"", b"\0" * 5000], ids=["empty", "long"])
def test_an_address_of_no_sensible_length_is_refused(address: bytes) -> None:
    ends = tcp_ends()
    with pytest.raises(UnreachableError, match="a UCX address has"):
        Ucx(RdmaDevice("lo")).open().connect(address, ends[0], read_timeout=1, write_timeout=1)
    for end in ends:
        end.close()


# -- devices -----------------------------------------------------------------------------------------------------------


def fake_sysfs(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content + "\n")
    return root


@pytest.mark.parametrize(
    ("files", "name", "port", "problem"),
    [
        ({}, "mlx5_0", 1, "RDMA device not found: mlx5_0"),
        ({"infiniband/mlx5_0/ports/1/state": "4: ACTIVE"}, "mlx5_0", 1, None),
        (
            {"infiniband/mlx5_0/ports/1/state": "4: ACTIVE"},
            "mlx5_0",
            2,
            "RDMA device not found: mlx5_0 has no port 2",
        ),
        (
            {"infiniband/mlx5_0/ports/1/state": "1: DOWN"},
            "mlx5_0",
            1,
            "RDMA device not found: mlx5_0 port 1 is DOWN",
        ),
        ({"net/eth7/operstate": "up"}, "eth7", 1, None),
        ({"net/lo/operstate": "unknown"}, "lo", 1, None),
        ({"net/eth7/operstate": "down"}, "eth7", 1, "RDMA device not found: eth7 is down"),
        ({}, "shm", 1, None),
    ],
)
def test_a_device_is_there_or_not(
    tmp_path: Path, files: dict[str, str], name: str, port: int, problem: str | None
) -> None:
    assert RdmaDevice(name, port, fake_sysfs(tmp_path, files)).problem() == problem


def test_ucx_is_told_the_device_and_its_port(tmp_path: Path) -> None:
    sysfs = fake_sysfs(tmp_path, {"infiniband/mlx5_0/ports/2/state": "4: ACTIVE"})
    device = RdmaDevice("mlx5_0", 2, sysfs)
    assert device.options() == {"TLS": "ib", "NET_DEVICES": "mlx5_0:2"}
    assert str(device) == "mlx5_0 port 2"
    assert device.detects_failure


def test_without_the_device_nothing_is_loaded() -> None:
    with pytest.raises(UnreachableError, match="RDMA device not found: nosuch0"):
        Ucx(RdmaDevice("nosuch0"))


@needs_ucx
def test_a_ucx_without_verbs_says_how_to_get_them(tmp_path: Path) -> None:
    """The one in the package has none; the device is invented, so that another one does not find it either."""
    sysfs = fake_sysfs(tmp_path, {"infiniband/invented0/ports/1/state": "4: ACTIVE"})
    with pytest.raises(UnreachableError, match="RAPIDS_LIBUCX_PREFER_SYSTEM_LIBRARY"):
        Ucx(RdmaDevice("invented0", 1, sysfs))


def test_without_the_package_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("ucxx"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UnreachableError, match="RDMA needs the package ucxx"):
        Ucx(RdmaDevice("lo"))


@needs_ucx
def test_ucx_takes_no_signal_for_itself() -> None:
    """SIGHUP, say, tells a manager to reload."""
    code = (
        "from dwcp.links.ucx import _load\n"
        "line = lambda: next(l for l in open('/proc/self/status') if l.startswith('SigCgt'))\n"
        # above 31 are those that the C library uses itself
        "caught = lambda: int(line().split()[1], 16) & (2**31 - 1)\n"
        "before = caught(); _load(); assert caught() == before, (before, caught())"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
