"""From what was found to what it means. Pure: observations and the configuration in, findings out.

The minima are those that the operator's runbook names for a production node. Less of a machine works, only slower,
and is a warning; a problem is what a manager of this configuration would fail on.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dwcp.config import Config
from dwcp.doctor.finding import Finding, Level, ok, problem, warning
from dwcp.errors import AuthenticationError, DwcpError, StateError, VersionError
from dwcp.units import format_size

MIN_CORES = 8
MIN_MEMORY = 16 * 10**9
"""Bytes; decimal, because the kernel keeps some of 16 GiB for itself and never shows them."""
MIN_DISK = 100 * 10**9
LEAST_FREE = 2**30
"""Bytes below which the transaction log, snapshots and journals soon find no room."""
LOW_FREE = 0.1
"""Share of a file system; many of them slow down when less is free."""
MIN_DESCRIPTORS = 65536
"""As LimitNOFILE in the unit: 1024 streams, and three descriptors for each file in work."""
MAX_CLOCK_ERROR = 1.0
"""Seconds: logs of two nodes can be put in order, and certificates are valid when they should be."""
SYSCTL_FILE = "/etc/sysctl.d/90-dwcp.conf"
OLDEST = 1_735_689_600.0
"""2025-01-01: a clock that is before this program was made was never set."""


AS_OWNER = "it belongs to somebody else: run this as the user that the manager runs as"
AS_OWNER_COMMAND = "sudo -u dwcp dwcp doctor"


@dataclass(frozen=True, slots=True)
class Machine:
    """`memory_total`, `memory_available`: bytes, None unknown. `descriptors`: hard limit, None for none.
    `clock_error`: seconds, None where the clock is not kept by anybody, negative where nobody can say."""

    cores: float
    memory_total: int | None
    memory_available: int | None
    descriptors: int | None
    clock_now: float
    clock_error: float | None


@dataclass(frozen=True, slots=True)
class Space:
    """Of the file system of a directory, or of the nearest one above it that exists. Bytes; `files_free` inodes, None
    where the file system does not count them."""

    path: str
    exists: bool
    writable: bool
    owner: str
    total: int
    free: int
    files_free: int | None


@dataclass(frozen=True, slots=True)
class Kernel:
    """Values of sysctls by name; those that cannot be read are not there."""

    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Port:
    """What became of an attempt to bind `address`: 0, or an errno. `ours`: the running manager has it."""

    key: str
    address: str
    error: int
    ours: bool


def machine(seen: Machine, config: Config) -> list[Finding]:
    return [_cores(seen), *_memory(seen, config), _descriptors(seen), _clock(seen)]


def _cores(seen: Machine) -> Finding:
    found, wanted = f"{seen.cores:g}", f"{MIN_CORES} or more"
    if seen.cores >= MIN_CORES:
        return ok("machine", "cores", found, wanted)
    fix = "give this node more, or ask less of it: fewer streams and a faster level of compression"
    return warning("machine", "cores", found, wanted, fix, "dwcp bench")


def _memory(seen: Machine, config: Config) -> list[Finding]:
    if seen.memory_total is None or seen.memory_available is None:
        return [warning("machine", "memory", "unknown", "/proc/meminfo", "mount /proc", "mount -t proc proc /proc")]
    total, wanted = format_size(seen.memory_total), f"{format_size(MIN_MEMORY)} or more"
    findings = [ok("machine", "memory", total, wanted)]
    if seen.memory_total < MIN_MEMORY:
        fix = f"more memory caches more of the files; the manager itself keeps to memory.limit, {_limit(config)}"
        findings = [warning("machine", "memory", total, wanted, fix, "free -h")]
    available, needed = format_size(seen.memory_available), f"memory.limit, {_limit(config)}"
    if seen.memory_available >= config.memory.limit:
        return [*findings, ok("machine", "memory available", available, needed)]
    fix = "end what takes it, or lower memory.limit in the configuration (64MiB at the least)"
    return [*findings, problem("machine", "memory available", available, needed, fix, "ps aux --sort=-rss | head")]


def _limit(config: Config) -> str:
    return format_size(config.memory.limit)


def _descriptors(seen: Machine) -> Finding:
    wanted = f"{MIN_DESCRIPTORS} or more"
    if seen.descriptors is None or seen.descriptors >= MIN_DESCRIPTORS:
        found = "unlimited" if seen.descriptors is None else str(seen.descriptors)
        return ok("machine", "descriptors", found, wanted)
    fix = (
        f"set LimitNOFILE={MIN_DESCRIPTORS} in the unit; for a login shell a line `* hard nofile {MIN_DESCRIPTORS}` "
        f"in /etc/security/limits.conf"
    )
    command = "systemctl show dwcp-manager --property=LimitNOFILE"
    return warning("machine", "descriptors", str(seen.descriptors), wanted, fix, command)


def _clock(seen: Machine) -> Finding:
    wanted = f"kept, within {MAX_CLOCK_ERROR:g} s"
    if seen.clock_now < OLDEST:
        fix = "certificates are not valid yet: set the clock"
        return problem("machine", "clock", "before 2025", wanted, fix, "timedatectl set-ntp true")
    if seen.clock_error is None:
        fix = "nobody keeps this clock: run chrony or systemd-timesyncd, on the host where this is a container"
        return warning("machine", "clock", "not synchronised", wanted, fix, "timedatectl set-ntp true")
    if seen.clock_error < 0:
        fix = "ask the host whether it keeps its clock"
        return warning("machine", "clock", "cannot be told", wanted, fix, "timedatectl show --property=NTPSynchronized")
    if seen.clock_error > MAX_CLOCK_ERROR:
        fix = "see which servers answer"
        found = f"within {seen.clock_error:.1f} s"
        return warning("machine", "clock", found, wanted, fix, "timedatectl timesync-status")
    return ok("machine", "clock", f"within {seen.clock_error * 1000:.0f} ms", wanted)


def disk(name: str, seen: Space) -> Finding:
    """Of the state directory, or of an export."""
    found = f"{seen.path}: {format_size(seen.free)} free of {format_size(seen.total)}"
    wanted = f"{format_size(MIN_DISK)} in all, {LOW_FREE:.0%} free"
    fix, command = "free some, or move the directory to a larger disk", f"df -h {seen.path}"
    if seen.free < LEAST_FREE:
        return problem("disk", name, found, f"{format_size(LEAST_FREE)} free at the least", fix, command)
    if seen.files_free == 0:
        return problem("disk", name, f"{seen.path}: no inode free", "some", "remove files", f"df -i {seen.path}")
    if seen.total < MIN_DISK or seen.free < LOW_FREE * seen.total:
        return warning("disk", name, found, wanted, fix, command)
    return ok("disk", name, found, wanted)


def directory(area: str, name: str, seen: Space, *, user: str, write: bool) -> Finding:
    """Whether `user`, who looks, can use it. A state directory that is not there yet is made at the first start."""
    wanted = f"writable for {user}" if write else f"readable for {user}"
    if not seen.exists:
        command = f"install -d -o dwcp -g dwcp -m 750 {seen.path}"
        if area == "state" and seen.writable:
            return ok(area, name, f"{seen.path} is made at the first start", wanted)
        return problem(area, name, f"{seen.path} does not exist", wanted, "make it", command)
    if write and not seen.writable:
        fix = f"run as {seen.owner}, who owns it, or give it to the service's user; ReadWritePaths of the unit too"
        return problem(area, name, f"{seen.path} is {seen.owner}'s", wanted, fix, f"chown -R dwcp:dwcp {seen.path}")
    return ok(area, name, f"{seen.path}, owner {seen.owner}", wanted)


def ports(seen: list[Port], pid: int | None) -> list[Finding]:
    """`pid`: of the manager that runs, None where none does."""
    return [_port(port, pid) for port in seen]


def _port(port: Port, pid: int | None) -> Finding:
    number = port.address.rpartition(":")[2]
    if port.ours:
        return ok("ports", port.key, f"{port.address}, taken by this node's manager (pid {pid})", "free, or its own")
    if port.error == 0:
        return ok("ports", port.key, f"{port.address}, free", "free, or its own")
    reason = os.strerror(port.error)
    found = f"{port.address}: {reason}"
    if port.error == errno.EADDRINUSE:
        fix = f"somebody else has it: end that, or change {port.key}"
        return problem("ports", port.key, found, "free, or its own", fix, f"ss -ltnp 'sport = :{number}'")
    if port.error == errno.EACCES:
        fix = f"ports below 1024 need a privilege: take a higher one for {port.key}"
        return problem(
            "ports", port.key, found, "a port that may be had", fix, "sysctl net.ipv4.ip_unprivileged_port_start"
        )
    fix = f"{port.key} has to be an address of this machine, or none (:{number}) for all"
    return problem("ports", port.key, found, "an address of this machine", fix, "ip -brief address")


def kernel(seen: Kernel, config: Config) -> list[Finding]:
    return [
        *_congestion(seen, config),
        _buffer(seen, "rmem_max", "recv_buffer_size", config.transport.recv_buffer_size),
        _buffer(seen, "wmem_max", "send_buffer_size", config.transport.send_buffer_size),
        _ecn(seen, config),
        _switch(seen, "net.ipv4.tcp_window_scaling", "a window of more than 64 KiB, without which no long link fills"),
        _switch(seen, "net.ipv4.tcp_sack", "losses repaired one by one"),
    ]


def _congestion(seen: Kernel, config: Config) -> list[Finding]:
    wanted = config.transport.congestion_algorithm
    available = seen.values.get("net.ipv4.tcp_available_congestion_control", "").split()
    default = seen.values.get("net.ipv4.tcp_congestion_control", "")
    allowed = seen.values.get("net.ipv4.tcp_allowed_congestion_control", "").split()
    findings = []
    if not available:
        fix = "mount /proc/sys"
        findings.append(warning("kernel", "congestion control available", "unknown", wanted, fix, "uname -r"))
    elif wanted in available:
        findings.append(ok("kernel", "congestion control available", " ".join(available), wanted))
    else:
        fix = f"load it now and at each boot; until then each socket has {default or 'the default'}"
        command = f"modprobe tcp_{wanted} && echo tcp_{wanted} > /etc/modules-load.d/dwcp.conf"
        found = " ".join(available)
        findings.append(warning("kernel", "congestion control available", found, wanted, fix, command))
    if allowed and wanted in available and wanted not in allowed:
        together = " ".join([*allowed, wanted])
        fix = "only root may use it: allow it to others"
        command = _sysctl("net.ipv4.tcp_allowed_congestion_control", together)
        findings.append(warning("kernel", "congestion control allowed", " ".join(allowed), wanted, fix, command))
    # each socket sets its own, so that the default is for others on the machine
    findings.append(ok("kernel", "congestion control default", default or "unknown", "any"))
    if wanted != "bbr":
        findings.append(ok("kernel", "bbr", "available" if "bbr" in available else "not loaded", "not asked for"))
    return findings


def _sysctl(name: str, value: str | int) -> str:
    """Sets it now and at each boot."""
    quoted = f"'{value}'" if isinstance(value, str) and " " in value else value
    return f"sysctl -w {name}={quoted} && echo '{name} = {value}' >> {SYSCTL_FILE}"


def _buffer(seen: Kernel, limit: str, key: str, wanted: int) -> Finding:
    name = f"net.core.{limit}"
    text, goal = seen.values.get(name, ""), f"{wanted} (transport.{key})"
    if not text.isdecimal():
        fix = "it is not shown in this network namespace: look on the host"
        return warning("kernel", name, "unknown", goal, fix, f"sysctl {name}")
    if int(text) >= wanted:
        return ok("kernel", name, text, goal)
    fix = "raise it; until then a stream has a smaller window than was asked for"
    return warning("kernel", name, text, goal, fix, _sysctl(name, wanted))


def _ecn(seen: Kernel, config: Config) -> Finding:
    name = "net.ipv4.tcp_ecn"
    found, wanted = seen.values.get(name, "unknown"), "1" if config.transport.enable_ecn else "0 or 2"
    if found == "unknown":
        return warning("kernel", name, found, wanted, "look on the host", f"sysctl {name}")
    # 3 and above (linux 6.18) ask for accurate ECN as well
    asks = found not in ("0", "2")
    if asks == config.transport.enable_ecn:
        return ok("kernel", name, found, wanted)
    if config.transport.enable_ecn:
        return warning("kernel", name, found, wanted, "ask for it", _sysctl(name, 1))
    return warning("kernel", name, found, wanted, "do not ask for it", _sysctl(name, 2))


def _switch(seen: Kernel, name: str, what: str) -> Finding:
    found = seen.values.get(name, "unknown")
    if found == "0":
        return warning("kernel", name, found, "1", f"it gives {what}", _sysctl(name, 1))
    return ok("kernel", name, found, "1")


def rdma(devices: list[str], trouble: str | None, *, has_package: bool, config: Config) -> list[Finding]:
    """`devices`: of /sys/class/infiniband. `trouble`: why the configured one cannot be used, None where it can."""
    found = ", ".join(devices) or "no device"
    if not config.transport.enable_rdma:
        return [ok("rdma", "devices", found, "not asked for")]
    say = problem if config.transport.rdma_required else warning
    wanted = f"{config.transport.rdma_device} port {config.transport.rdma_port}"
    findings = []
    if trouble:
        fix = "TCP does the work instead; bring the device up, or set transport.enable_rdma to false"
        if config.transport.rdma_required:
            fix = "the manager will not start: bring the device up, or set transport.rdma_required to false"
        findings.append(say("rdma", "devices", f"{trouble} (there is: {found})", wanted, fix, "rdma link show"))
    else:
        findings.append(ok("rdma", "devices", found, wanted))
    if not has_package:
        fix = "install the extra that drives it"
        findings.append(say("rdma", "package", "ucxx is not installed", "ucxx", fix, "pip install 'dwcp[rdma]'"))
    return findings


def peer(name: str, address: str | None, fingerprint: str, outcome: float | DwcpError | None) -> Finding:
    """`outcome`: seconds of a round trip, what it failed with, or None where nobody tried."""
    wanted = f"reachable, {fingerprint}"
    if address is None:
        return ok("peers", name, "has no address: it connects to this node", fingerprint)
    if outcome is None:
        fix = "this node has no identity yet: start its manager once"
        return warning("peers", name, f"{address}: not tried", wanted, fix, "systemctl start dwcp-manager")
    if isinstance(outcome, float):
        return ok("peers", name, f"{address}: {outcome * 1000:.1f} ms, identity proved", wanted)
    found = f"{address}: {outcome}"
    if isinstance(outcome, AuthenticationError):
        fix = (
            "compare `dwcp id` on both sides with `dwcp peer list`; where the peer was set up anew, "
            f"`dwcp peer remove {name}` and add it with its new fingerprint"
        )
        return problem("peers", name, found, wanted, fix, "dwcp id && dwcp peer list")
    if isinstance(outcome, StateError):
        return problem("peers", name, found, wanted, AS_OWNER, AS_OWNER_COMMAND)
    if isinstance(outcome, VersionError):
        return problem("peers", name, found, wanted, "bring both to one version", "dwcp --version")
    fix = f"start its manager, open its port in firewalls, or correct peers.{name}.address"
    return problem("peers", name, found, wanted, fix, f"dwcp ping {name}")


def components(health: Mapping[str, Any] | None, address: str, closed: str = "") -> list[Finding]:
    """`health`: what the manager at `address` answers to /health, None where no manager runs. `closed`: why nobody can
    say whether one does."""
    if closed:
        return [problem("components", "manager", closed, "runs", AS_OWNER, AS_OWNER_COMMAND)]
    if health is None:
        fix = "start it"
        return [warning("components", "manager", "does not run", "runs", fix, "systemctl start dwcp-manager")]
    findings = [ok("components", "manager", f"runs, {health['status']}", "healthy")]
    reasons = health.get("reasons", {})
    for name, state in health.get("components", {}).items():
        findings.append(_component(name, state, reasons.get(name, ""), address))
    return findings


_STATES = {"healthy": Level.OK, "closed": Level.OK, "unhealthy": Level.PROBLEM, "open": Level.PROBLEM}


def _component(name: str, state: str, reason: str, address: str) -> Finding:
    level = _STATES.get(state, Level.WARNING)
    found = f"{state}: {reason}" if reason else state
    if level is Level.OK:
        return ok("components", name, found, state)
    if name == "circuit_breaker":
        fix = "a peer failed again and again: `dwcp status` says which and why; once it is mended, wait or reset it"
        command = f"curl -X POST http://{address}/circuit-breaker/reset"
        return Finding("components", name, level, found, "closed", fix, command)
    fix = "it is restarted by itself; where the reason stays, mend that, and the next try finds it so"
    return Finding("components", name, level, found, "healthy", fix, "dwcp log")


def configuration(names: list[str], problems: list[str], open_to_others: list[str]) -> list[Finding]:
    """`names`: of the files; `problems`: one line each; `open_to_others`: which others may write."""
    found = ", ".join(names) or "no file: all as by default"
    command = " ".join(["dwcp-manager", *(f"--config {name}" for name in names), "--validate"])
    findings = [
        problem("configuration", "contents", line, "valid", "correct the file, then check it again", command)
        for line in problems
    ]
    if not problems:
        findings.append(ok("configuration", "contents", found, "valid"))
    for name in open_to_others:
        fix = "others than its owner may write it, and so command this node"
        findings.append(problem("configuration", "permissions", name, "0640", fix, f"chmod 640 {name}"))
    return findings


def state(problems: list[str], notes: list[str], *, has_identity: bool) -> list[Finding]:
    """`problems` and `notes`: what `store.verify` says of the state directory."""
    fix = "put back the newest snapshot that is whole: `dwcp state list`, `dwcp state restore`"
    findings = [problem("state", "contents", line, "whole", fix, "dwcp state verify") for line in problems]
    if not problems:
        findings.append(ok("state", "contents", "; ".join(notes) or "whole", "whole"))
    findings.append(ok("state", "identity", "there" if has_identity else "is made at the first start"))
    return findings


def no_peers() -> list[Finding]:
    fix = "tell this node of another one, and the other of this one"
    command = "dwcp peer add NAME HOST:PORT --trust-first-use"
    return [warning("peers", "peers", "none", "one or more", fix, command)]
