"""Reads what the machine is like. Thin: what it means is for `judge` to say. Nothing is changed."""

from __future__ import annotations

import ctypes
import errno
import os
import pwd
import resource
import socket
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dwcp.config import Config
from dwcp.doctor.judge import Kernel, Machine, Port, Space
from dwcp.errors import DwcpError, StateError
from dwcp.links.endpoints import split_address
from dwcp.store.identity import load_or_create
from dwcp.transfer.node import Node
from dwcp.transfer.probe import probe

PROC, SYS = Path("/proc"), Path("/sys")
SYSCTLS = (
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.tcp_allowed_congestion_control",
    "net.ipv4.tcp_congestion_control",
    "net.core.rmem_max",
    "net.core.wmem_max",
    "net.ipv4.tcp_ecn",
    "net.ipv4.tcp_window_scaling",
    "net.ipv4.tcp_sack",
)
TIME_ERROR = 5
"""Of adjtimex(2): the clock is not synchronised."""
PEERS_AT_ONCE = 16


def machine() -> Machine:
    total, available = _memory()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        cores=min([float(len(os.sched_getaffinity(0))), *_cpu_quotas()]),
        memory_total=total,
        memory_available=available,
        descriptors=None if hard == resource.RLIM_INFINITY else hard,
        clock_now=time.time(),
        clock_error=_clock_error(),
    )


def _memory() -> tuple[int | None, int | None]:
    """(total, available) bytes, of the machine or of the control group that is narrower."""
    text = _text(PROC / "meminfo") or ""
    fields = {line.partition(":")[0]: line.split()[1] for line in text.splitlines() if len(line.split()) > 1}
    if "MemTotal" not in fields or "MemAvailable" not in fields:
        return None, None
    total, available = int(fields["MemTotal"]) * 1024, int(fields["MemAvailable"]) * 1024
    for group in _groups():
        limit, used = _text(group / "memory.max"), _text(group / "memory.current")
        if limit and used and limit.isdecimal() and used.isdecimal():
            total = min(total, int(limit))
            available = min(available, max(0, int(limit) - int(used)))
    return total, available


def _cpu_quotas() -> list[float]:
    """Cores that control groups allow."""
    words = [(_text(group / "cpu.max") or "max").split() for group in _groups()]
    return [int(quota[0]) / int(quota[1]) for quota in words if len(quota) == 2 and quota[0] != "max"]


def _groups() -> list[Path]:
    """The control group of this process and those around it (cgroups(7), version 2)."""
    text = _text(PROC / "self" / "cgroup") or ""
    own = next((line[3:] for line in text.splitlines() if line.startswith("0::")), "/")
    root = SYS / "fs" / "cgroup"
    group = root / own.strip("/")
    return [path for path in (group, *group.parents) if path == root or root in path.parents]


def _clock_error() -> float | None:
    """As of `Machine`. By adjtimex(2), with `modes` 0: it only reads."""
    library = ctypes.CDLL(None, use_errno=True)
    # struct timex has 208 bytes where long has 8
    buffer = ctypes.create_string_buffer(512)
    state = library.adjtimex(buffer)
    if state < 0:
        return -1.0
    # modes, offset, freq, maxerror
    _, _, _, microseconds = struct.unpack_from("@illl", buffer)
    return None if state == TIME_ERROR else float(microseconds) / 1e6


def space(path: Path) -> Space:
    """Raises OSError where not even / can be looked at."""
    nearest = path
    while not nearest.exists():
        nearest = nearest.parent
    status, system = nearest.stat(), os.statvfs(nearest)
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = f"user {status.st_uid}"
    return Space(
        path=str(path),
        exists=path.exists(),
        writable=os.access(nearest, os.W_OK | os.X_OK),
        owner=owner,
        total=system.f_blocks * system.f_frsize,
        free=system.f_bavail * system.f_frsize,
        files_free=system.f_favail if system.f_files else None,
    )


def user() -> str:
    """Who looks."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def kernel() -> Kernel:
    found = {name: _text(PROC / "sys" / name.replace(".", "/")) for name in SYSCTLS}
    return Kernel({name: value for name, value in found.items() if value is not None})


def port(key: str, address: str, ours: str | None) -> Port:
    """`ours`: the address that the running manager has for this key, None where none runs."""
    host, number = split_address(address)
    if ours is not None and ours.rpartition(":")[2] == str(number):
        return Port(key, address, 0, True)
    family = socket.AF_INET6 if ":" in host or (not host and socket.has_dualstack_ipv6()) else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        # as the listener does: what only lingers (TIME_WAIT) is in nobody's way
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(bool(host)))
        try:
            sock.bind((host, number))
        except socket.gaierror:
            return Port(key, address, errno.EADDRNOTAVAIL, False)
        except OSError as error:
            return Port(key, address, error.errno or 0, False)
    return Port(key, address, 0, False)


def rdma_devices() -> list[str]:
    directory = SYS / "class" / "infiniband"
    return sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []


def has_identity(state_dir: Path) -> bool:
    """Whether both of its files are there, so that nothing is made by looking. Raises StateError."""
    try:
        return all((state_dir / "identity" / name).exists() for name in ("node.key", "node.crt"))
    except PermissionError as error:
        raise StateError(f"cannot read {error.filename}: {error.strerror}") from error


def peers(config: Config, timeout: float) -> dict[str, float | DwcpError | None]:
    """A round trip to each peer with an address, on a session in which both have proved who they are; or what it failed
    with. None where there is no identity to prove. `timeout`: seconds for each step."""
    names = [name for name, peer in config.peers.items() if peer.address is not None]
    state_dir = Path(config.storage.state_dir)
    short = {"connect_timeout": timeout, "read_timeout": timeout, "write_timeout": timeout}
    hurried = config.model_copy(update={"transport": config.transport.model_copy(update=short)})
    try:
        if not names or not has_identity(state_dir):
            return dict.fromkeys(names)
        node = Node(hurried, load_or_create(state_dir / "identity", config.node.name))
    except DwcpError as error:
        return dict.fromkeys(names, error)
    with ThreadPoolExecutor(PEERS_AT_ONCE) as pool:
        return dict(zip(names, pool.map(lambda name: _outcome(node, name), names), strict=True))


def _outcome(node: Node, name: str) -> float | DwcpError:
    try:
        return probe(node, name)
    except DwcpError as error:
        return error


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None
