"""The programs that are measured beside dwcp on an emulated link: each brings one file from `wa` to `wb`.

A peer is started anew for each run, the time of its client alone counts: that is what an operator waits for. Servers
listen in the namespace `wb` (rclone's in `wa`: it fetches), are stopped by their process id, and write below one
temporary directory.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.emulated import RECEIVER, RECEIVER_HOST, SENDER, SENDER_HOST, inside

START_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Job:
    """Bring `source` to `target`; `directory` is for whatever a peer needs besides."""

    source: Path
    target: Path
    directory: Path
    congestion: str
    seconds: float
    """That the file takes at the link's rate."""
    patience: float
    """Seconds after which a program is stopped."""
    few_streams: bool

    @property
    def size(self) -> int:
        return self.source.stat().st_size


Run = Callable[[Job], float]
"""Does the job once; Mbit/s of content."""


@dataclass(frozen=True, slots=True)
class Peer:
    """`needs`: programs that have to be installed. `limit`: shows what the link can do, and moves no file."""

    name: str
    needs: tuple[str, ...]
    run: Run
    limit: bool = False

    @property
    def missing(self) -> list[str]:
        return [tool for tool in self.needs if shutil.which(tool) is None]


def timed(job: Job, command: list[str]) -> float:
    """Mbit/s of a client's run, its start included; when it is stopped, of what had arrived. Raises RuntimeError when
    it fails or the file is not whole."""
    for old in job.target.parent.iterdir():
        # dwcp keeps a directory there for what is unfinished
        if old.is_file():
            old.unlink()
    before, began = _received(), time.monotonic()
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=job.patience, check=False
        )
    except subprocess.TimeoutExpired:
        # not by the file: some set aside all of its blocks before anything comes
        return (_received() - before) * 8 / job.patience / 1e6
    seconds = time.monotonic() - began
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:6])}...: {(done.stderr or done.stdout).strip()[-500:]}")
    if job.target.stat().st_size != job.size:
        raise RuntimeError(f"{command[4]} left {job.target.stat().st_size} of {job.size} bytes")
    job.target.unlink()
    return job.size * 8 / seconds / 1e6


def _received() -> int:
    """Bytes that have come over the link to the receiver's side, headers included."""
    table = subprocess.run(inside(RECEIVER, "cat", "/proc/net/dev"), check=True, capture_output=True, text=True).stdout
    rows = [line.split(":") for line in table.splitlines() if ":" in line]
    return sum(int(counts.split()[0]) for name, counts in rows if name.strip() != "lo")


@contextlib.contextmanager
def server(command: list[str], namespace: str, host: str, port: int) -> Iterator[None]:
    """Runs it in a namespace until the block ends; enters when something listens on the port."""
    with subprocess.Popen(inside(namespace, *command), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            deadline = time.monotonic() + START_SECONDS
            # looked up, not tried: some servers take one connection and no other
            look = inside(namespace, "ss", "-Hltn", "src", f"{host}:{port}")
            while not subprocess.run(look, check=True, capture_output=True).stdout:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{command[0]} does not listen on port {port}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()


def _iperf3(streams: int) -> Run:
    def run(job: Job) -> float:
        command = inside(RECEIVER, "iperf3", "-s", "-1", "--forceflush")
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            while "listening" not in process.stdout.readline():
                pass
            client = inside(SENDER, "iperf3", "-c", RECEIVER_HOST, "-J", "-P", str(streams), "-t", f"{job.seconds:.0f}")
            try:
                report = subprocess.run(
                    [*client, "-C", job.congestion], check=True, capture_output=True, text=True, timeout=job.patience
                )
                process.communicate(timeout=START_SECONDS)
            finally:
                process.kill()
        return float(json.loads(report.stdout)["end"]["sum_received"]["bits_per_second"]) / 1e6

    return run


def _sshd(job: Job) -> tuple[list[str], list[str]]:
    """(server, ssh client options): keys and configuration of its own, nobody's account is touched."""
    home = job.directory / "ssh"
    if not home.exists():
        home.mkdir(mode=0o700)
        for name in ("host", "user"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", home / name], check=True)
        (home / "config").write_text(
            f"Port 2222\nListenAddress {RECEIVER_HOST}\nHostKey {home}/host\nPidFile none\nUsePAM no\n"
            f"AuthorizedKeysFile {home}/user.pub\nStrictModes no\nPermitRootLogin prohibit-password\n"
            "Subsystem sftp internal-sftp\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
    server_command = [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-f", str(home / "config")]
    options = ["-i", str(home / "user"), "-o", "StrictHostKeyChecking=no", "-o", f"UserKnownHostsFile={home}/known"]
    return server_command, [*options, "-o", "LogLevel=ERROR"]


def _rsync_ssh(job: Job) -> float:
    serve, options = _sshd(job)
    with server(serve, RECEIVER, RECEIVER_HOST, 2222):
        shell = " ".join(["ssh", "-p", "2222", *options])
        command = ["rsync", "--whole-file", "-e", shell, str(job.source), f"root@{RECEIVER_HOST}:{job.target}"]
        return timed(job, inside(SENDER, *command))


def _scp(job: Job) -> float:
    serve, options = _sshd(job)
    with server(serve, RECEIVER, RECEIVER_HOST, 2222):
        command = ["scp", "-q", "-P", "2222", *options, str(job.source), f"root@{RECEIVER_HOST}:{job.target}"]
        return timed(job, inside(SENDER, *command))


def _rsync_daemon(job: Job) -> float:
    config = job.directory / "rsyncd.conf"
    config.write_text(
        f"port = 8730\naddress = {RECEIVER_HOST}\nuse chroot = no\nuid = root\ngid = root\n"
        f"[b]\npath = {job.target.parent}\nread only = no\n"
    )
    serve = ["rsync", "--daemon", "--no-detach", f"--config={config}"]
    with server(serve, RECEIVER, RECEIVER_HOST, 8730):
        target = f"rsync://{RECEIVER_HOST}:8730/b/{job.target.name}"
        return timed(job, inside(SENDER, "rsync", "--whole-file", job.source, target))


def _rclone(streams: int) -> Run:
    def run(job: Job) -> float:
        serve = ["rclone", "serve", "http", str(job.source.parent), "--addr", f"{SENDER_HOST}:8081", "--config", ""]
        with server(serve, SENDER, SENDER_HOST, 8081):
            command = ["rclone", "copyto", f":http:{job.source.name}", str(job.target), "--config", ""]
            command += ["--http-url", f"http://{SENDER_HOST}:8081", "--multi-thread-cutoff", "1M"]
            return timed(job, inside(RECEIVER, *command, "--multi-thread-streams", str(streams)))

    return run


def _gridftp(streams: int) -> Run:
    def run(job: Job) -> float:
        serve = [
            "globus-gridftp-server",
            "-aa",
            "-anonymous-user",
            "nobody",
            "-anonymous-group",
            "nogroup",
            "-p",
            "2811",
        ]
        serve += ["-control-interface", RECEIVER_HOST, "-data-interface", RECEIVER_HOST, "-home-dir", "/"]
        # it refuses to serve as root
        job.directory.chmod(0o711)
        job.target.parent.chmod(0o777)
        with server(serve, RECEIVER, RECEIVER_HOST, 2811):
            command = ["globus-url-copy", "-fast", "-p", str(streams), f"file://{job.source}"]
            return timed(job, inside(SENDER, *command, f"ftp://{RECEIVER_HOST}:2811{job.target}"))

    return run


PEERS = (
    Peer("iperf3", ("iperf3",), _iperf3(1), limit=True),
    Peer("iperf3 -P 8", ("iperf3",), _iperf3(8), limit=True),
    Peer("rclone, 16 threads", ("rclone",), _rclone(16)),
    Peer("GridFTP -p 8", ("globus-url-copy", "globus-gridftp-server"), _gridftp(8)),
    Peer("GridFTP -p 32", ("globus-url-copy", "globus-gridftp-server"), _gridftp(32)),
    Peer("rsync daemon", ("rsync",), _rsync_daemon),
    Peer("rsync over ssh", ("rsync", "ssh", "sshd"), _rsync_ssh),
    Peer("scp", ("scp", "sshd"), _scp),
)
