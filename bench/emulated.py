"""An emulated long link between two network namespaces, `wa` and `wb`: `tc netem` where the kernel has it, else the
program that the environment's DWCP_WANLINK names (called as `PROGRAM up --rate MBIT --delay MS --loss PERCENT`, with
`--trace FILE` for a rate that varies, and `PROGRAM down`; it has to leave the namespaces wa, 10.99.0.1, and wb,
10.99.0.2). Nothing leaves the machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SENDER, RECEIVER = "wa", "wb"
HOSTS = Path("/etc/netns")
SENDER_HOST, RECEIVER_HOST = "10.99.0.1", "10.99.0.2"
TCP_MEMORY = "4096 131072 67108864"
"""tcp_rmem and tcp_wmem of the namespaces: autotuning may reach twice the largest path's bandwidth-delay product."""


class NoLinkError(Exception):
    """Why no link can be emulated here."""


@dataclass(frozen=True, slots=True)
class Profile:
    """`rate` in Mbit/s at IP level, `round_trip` in ms (half of it each way), `loss` in percent of packets."""

    rate: float
    round_trip: float
    loss: float

    def __str__(self) -> str:
        return f"{self.rate:g} Mbit/s, {self.round_trip:g} ms, {self.loss:g}% loss"

    @property
    def queue_bytes(self) -> int:
        """One bandwidth-delay product of drop-tail queue."""
        return int(self.rate * 1e6 / 8 * self.round_trip / 1e3)


@contextlib.contextmanager
def link(profile: Profile, congestion: str, trace: Path | None = None) -> Iterator[None]:
    """The link is there inside of the block, with `congestion` as both ends' default. Raises NoLinkError.

    `trace`: a file with the rate of each second in Mbit/s, from the sender to the receiver, which netem cannot follow.
    """
    if os.geteuid() != 0:
        raise NoLinkError("network namespaces need root")
    if shutil.which("ip") is None:
        raise NoLinkError("iproute2 is not installed")
    emulator = os.environ.get("DWCP_WANLINK", "")
    down = _netem(profile) if trace is None and _has_netem() else _program(emulator, profile, trace)
    try:
        _write_hosts()
        for namespace in (SENDER, RECEIVER):
            _run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv4.tcp_congestion_control={congestion}")
        yield
    finally:
        down()
        for namespace in (SENDER, RECEIVER):
            shutil.rmtree(HOSTS / namespace, ignore_errors=True)


def _write_hosts() -> None:
    """ip-netns(8) shows these as /etc/hosts inside: some servers look up names of their own host and address."""
    text = f"127.0.0.1 localhost\n{SENDER_HOST} {SENDER}\n{RECEIVER_HOST} {RECEIVER}\n"
    for namespace, host in ((SENDER, SENDER_HOST), (RECEIVER, RECEIVER_HOST)):
        (HOSTS / namespace).mkdir(parents=True, exist_ok=True)
        (HOSTS / namespace / "hosts").write_text(f"{text}{host} {socket.gethostname()}\n")


def inside(namespace: str, *command: str | Path) -> list[str]:
    """The command that runs `command` in a namespace."""
    return ["ip", "netns", "exec", namespace, *map(str, command)]


def _program(emulator: str, profile: Profile, trace: Path | None) -> Callable[[], None]:
    if not emulator:
        lacking = "this kernel has no netem" if trace is None else "netem follows no trace"
        raise NoLinkError(f"{lacking}, and DWCP_WANLINK names no other emulator")
    _run(
        *(emulator, "up", "--rate", f"{profile.rate:g}"),
        *("--delay", f"{profile.round_trip / 2:g}", "--loss", f"{profile.loss:g}"),
        *(("--trace", str(trace)) if trace is not None else ()),
    )
    return lambda: _run(emulator, "down")


def _has_netem() -> bool:
    """Whether a netem queue can be made, found out in a namespace of its own."""
    probe = f"dwcp-probe-{os.getpid()}"
    try:
        _run("ip", "netns", "add", probe)
    except NoLinkError:
        return False
    try:
        _run(*inside(probe, "tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"))
    except NoLinkError:
        return False
    finally:
        _run("ip", "netns", "del", probe)
    return True


def _netem(profile: Profile) -> Callable[[], None]:
    """A veth pair; each end's egress is a rate limit with a queue behind a delay with loss."""
    _remove_namespaces()
    try:
        for namespace in (SENDER, RECEIVER):
            _run("ip", "netns", "add", namespace)
            _run("ip", "-n", namespace, "link", "set", "lo", "up")
            for name in ("rmem", "wmem"):
                _run(*inside(namespace, "sysctl", "-qw", f"net.ipv4.tcp_{name}={TCP_MEMORY}"))
        _run("ip", "link", "add", "wan0", "netns", SENDER, "type", "veth", "peer", "name", "wan0", "netns", RECEIVER)
        packets = max(100, profile.queue_bytes // 1500)
        in_flight = packets + int(profile.rate * 1e6 / 8 / 1500 * profile.round_trip / 1e3) + 1000
        for namespace, host in ((SENDER, SENDER_HOST), (RECEIVER, RECEIVER_HOST)):
            _run("ip", "-n", namespace, "addr", "add", f"{host}/24", "dev", "wan0")
            _run("ip", "-n", namespace, "link", "set", "wan0", "up")
            _run(
                *inside(namespace, "tc", "qdisc", "add", "dev", "wan0", "root", "handle", "1:", "netem"),
                *("delay", f"{profile.round_trip / 2:g}ms", "loss", f"{profile.loss:g}%"),
                *("rate", f"{profile.rate:g}mbit", "limit", str(in_flight)),
            )
    except NoLinkError:
        _remove_namespaces()
        raise
    return _remove_namespaces


def _remove_namespaces() -> None:
    for namespace in (SENDER, RECEIVER):
        subprocess.run(["ip", "netns", "del", namespace], capture_output=True, check=False)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoLinkError(f"{' '.join(command)}: {done.stderr.strip() or done.stdout.strip()}")
