"""The command line as people, scripts and terminals meet it: real processes against a lab of two nodes."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.cli.main import _COMMANDS, _SUMMARIES
from dwcp.testing.lab import Lab, LabNode
from tests.processes import DEADLINE, clean_environment, run_dwcp
from tests.support import random_file, wait_until

SIZE = 20_000_000
PACED = ["--set", "transport.enable_pacing=true", "--set", "transport.pacing_rate=16Mbit/s"]
"""The whole of SIZE takes ten seconds."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab.up(tmp_path_factory.mktemp("lab")) as made:
        random_file(made.directory / "content", SIZE)
        yield made


@pytest.fixture
def near(lab: Lab) -> LabNode:
    return lab.nodes[0]


@pytest.fixture
def inbox(lab: Lab) -> Path:
    """Of the other node."""
    return lab.nodes[1].inbox


def configured(node: LabNode, *arguments: str | Path) -> list[str]:
    command, *rest = map(str, arguments)
    return [command, "--config", str(node.config_file), *rest]


def dwcp(node: LabNode, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
    return run_dwcp(*configured(node, *arguments), **options)


def started(node: LabNode, *arguments: str | Path, **options: Any) -> subprocess.Popen[Any]:
    """The command under way, output in pipes."""
    settings: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(
        [sys.executable, "-m", "dwcp.cli", *configured(node, *arguments)],
        env=clean_environment(),
        **{**settings, **options},
    )


def is_clear(done: subprocess.CompletedProcess[Any] | str) -> bool:
    """Lines of words, no traceback."""
    text = done if isinstance(done, str) else done.stderr + done.stdout
    return bool(text.strip()) and not re.search("Traceback|Fatal Python|Exception ignored", text)


# -- help and wrong arguments ------------------------------------------------------------------------------------------


def test_help_names_every_command_and_exit_code() -> None:
    done = run_dwcp("--help")
    assert done.returncode == 0
    for name in _COMMANDS:
        assert re.search(rf"^  {name} +{re.escape(_SUMMARIES[name])}$", done.stdout, re.MULTILINE)
    assert {"0", "2", "3", "5", "7", "23", "130"} <= set(re.findall(r"\d+", done.stdout.partition("Exit codes")[2]))
    assert run_dwcp("-h").stdout == done.stdout


@pytest.mark.parametrize(
    "command", [*([name] for name in _COMMANDS), *(["lab", name] for name in ("up", "down", "status", "demo"))]
)
def test_every_command_has_help(command: list[str]) -> None:
    done = run_dwcp(*command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: dwcp {' '.join(command)} ")
    assert len(done.stdout.splitlines()) > 5
    assert "..." not in done.stdout.partition("Commands:")[2], "a summary is cut short"


def test_version() -> None:
    assert run_dwcp("--version").stdout == "dwcp, version 2.0.0\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nope"], "No such command 'nope'"),
        (["send"], "Missing argument 'SRC'"),
        (["send", "a"], "Missing argument 'PEER:EXPORT/PATH'"),
        (["send", "a", "b"], "'b' names no peer; write PEER:EXPORT/PATH"),
        (["send", "a", ":inbox"], "names no peer"),
        (["ls", "node2"], "'node2' names no peer"),
        (["send", "--nope", "a", "b:c"], "No such option"),
        (["send", "--hash", "md5", "a", "b:c"], "'md5' is not one of 'xxh3', 'blake3'"),
        (["ping", "-c", "0", "node2"], "0 is not in the range"),
        (["send", "--config", "/no/such/file", "a", "b:c"], "/no/such/file: no such file"),
        (["send", "--set", "nope", "a", "b:c"], "--set nope: write KEY=VALUE"),
        (["send", "--set", "transport.max_strems=1", "a", "b:c"], "did you mean max_streams?"),
        (["lab", "up"], "Missing option '--dir'"),
        (["lab", "up", "--nodes", "0", "--dir", "x"], "0 is not in the range"),
    ],
)
def test_wrong_arguments_end_with_2_and_say_what_is_wrong(arguments: list[str], words: str, tmp_path: Path) -> None:
    done = run_dwcp(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert words in done.stderr
    assert is_clear(done)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["send", "/no/such", "node2:inbox/"], 3, "cannot read '/no/such': No such file or directory"),
        (["send", "/etc/passwd", "node9:inbox/"], 3, "no peer 'node9'; known peers: node2"),
        (["send", "/etc/passwd", "node2:nope/x"], 3, "node 'node2' has no export 'nope'; it has: inbox"),
        (["get", "node2:inbox/no/such", "x"], 3, "'inbox/no/such': it does not exist"),
        (["ls", "node2:nope"], 3, "has no export 'nope'"),
        (["send", "/etc/passwd", "node2:"], 2, "name an export at the peer"),
        (["send", "-", "node2:inbox"], 2, "a stream has no name of its own; write EXPORT/NAME"),
        (["send", "-", "node2:inbox/sub/"], 2, "a stream has no name of its own"),
        (["send", "/dev/null", "node2:inbox/"], 2, "'/dev/null' is no file, tree or disk"),
        (["get", "node2:inbox", "-"], 2, "only a single file can be written to a stream"),
        (["send", "/etc/passwd", "node2:inbox/../x"], 7, "'inbox/../x' is refused"),
        (["send", "/etc/passwd", "node2:inbox/.dwcp/x"], 7, "refused"),
        (["get", "node2:inbox/a", "/no/such/x"], 3, "/no/such"),
    ],
)
def test_what_cannot_be_done_has_its_exit_code_and_a_line(
    near: LabNode, inbox: Path, arguments: list[str], code: int, words: str, tmp_path: Path
) -> None:
    (inbox / "a").write_text("a")
    done = dwcp(near, *arguments, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert done.stderr.startswith("dwcp: ")
    assert len(done.stderr.splitlines()) == 1
    assert is_clear(done)
    assert list(tmp_path.iterdir()) == []


def test_a_peer_that_is_away_ends_with_5(near: LabNode) -> None:
    away = ["--set", "peers.node2.address=127.0.0.1:1", "--set", "transport.connect_timeout=200ms"]
    for arguments in (["send", "/etc/passwd", "node2:inbox/"], ["ls", "node2:"], ["ping", "node2"]):
        done = dwcp(near, *arguments, *away)
        assert done.returncode == 5
        assert done.stderr == "dwcp: cannot connect to 127.0.0.1:1: Connection refused\n"


def test_some_files_that_cannot_be_sent_end_with_23_and_are_named(near: LabNode, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "good").write_text("good")
    os.mkfifo(tmp_path / "tree" / "bad")
    done = dwcp(near, "send", tmp_path / "tree", "node2:inbox/partial")
    assert done.returncode == 23
    assert "failed: 'bad' is left out: sockets, FIFOs and devices are not sent" in done.stderr
    assert (inbox / "partial" / "good").read_text() == "good"
    events = json_lines(dwcp(near, "send", "--json", tmp_path / "tree", "node2:inbox/partial"))
    assert [event["event"] for event in events][-2:] == ["file-error", "error"]
    assert (events[-1]["code"], events[-1]["exit_code"]) == ("partial", 23)


def test_logs_of_a_command_are_for_people(near: LabNode, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "bad")
    done = dwcp(near, "send", tmp_path, "node2:inbox/logs")
    assert "a file could not be sent" in done.stderr
    assert '"event"' not in done.stderr
    assert "\x1b" not in done.stderr


# -- sending, getting, looking -----------------------------------------------------------------------------------------


def test_send_and_get_tell_what_was_done(near: LabNode, inbox: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    line = r"{} -> {}: 1 files \({} unchanged\), 7 B, \d.* on the wire \(ratio .*\), .* s, .*bit/s, verified\n"
    done = dwcp(near, "send", tmp_path / "file", "node2:inbox/told")
    assert (done.returncode, (inbox / "told").read_text()) == (0, "content")
    assert re.fullmatch(line.format(re.escape(str(tmp_path / "file")), "node2:inbox/told", 0), done.stdout)
    again = dwcp(near, "send", tmp_path / "file", "node2:inbox/told")
    assert re.fullmatch(line.format(re.escape(str(tmp_path / "file")), "node2:inbox/told", 1), again.stdout)
    got = dwcp(near, "get", "node2:inbox/told", tmp_path / "back")
    assert (got.returncode, (tmp_path / "back").read_text()) == (0, "content")
    quiet = dwcp(near, "get", "--quiet", "node2:inbox/told", tmp_path / "back")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


def test_delete_removes_what_the_source_does_not_have(near: LabNode, inbox: Path, tmp_path: Path) -> None:
    (inbox / "mirror").mkdir()
    (inbox / "mirror" / "old").touch()
    (tmp_path / "new").touch()
    done = dwcp(near, "send", "--delete", tmp_path, "node2:inbox/mirror")
    assert "1 deleted" in done.stdout
    assert [path.name for path in (inbox / "mirror").iterdir()] == ["new"]


def json_lines(done: subprocess.CompletedProcess[Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_lines_end_with_done(near: LabNode, lab: Lab) -> None:
    done = dwcp(near, "send", "--json", lab.directory / "content", "node2:inbox/json")
    first, *_, last = done.stdout.splitlines()
    assert json.loads(first) == {
        "event": "start",
        "source": str(lab.directory / "content"),
        "target": "node2:inbox/json",
    }
    promised = r'\{"event":"done","files":1,"bytes":20000000,"wire_bytes":\d+,"seconds":[\d.]+,"verified":true[,}]'
    assert re.match(promised, last)
    assert SIZE < json.loads(last)["wire_bytes"] < SIZE * 1.01
    again = json_lines(dwcp(near, "send", "--json", lab.directory / "content", "node2:inbox/json"))[-1]
    assert (again["files"], again["bytes"], again["unchanged"]) == (1, SIZE, 1)
    assert again["wire_bytes"] < 10_000
    failed = dwcp(near, "send", "--json", "/no/such", "node2:inbox/json")
    assert json_lines(failed)[-1] == {
        "event": "error",
        "code": "not-found",
        "message": "cannot read '/no/such': No such file or directory",
        "exit_code": 3,
    }


def test_json_lines_tell_progress_and_the_end_of_an_interrupted_transfer(near: LabNode, lab: Lab) -> None:
    process = started(near, "send", "--json", *PACED, lab.directory / "content", "node2:inbox/progress")
    assert process.stdout is not None
    while (event := json.loads(process.stdout.readline()))["event"] != "progress":
        pass
    assert event["bytes_total"] == SIZE
    assert event["files_total"] == 1
    assert event["seconds"] >= 1
    assert {"files", "bytes", "wire_bytes", "streams", "eta_seconds"} <= event.keys()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert json.loads(out.splitlines()[-1])["code"] == "interrupted"


def test_without_a_terminal_there_is_a_line_now_and_then(near: LabNode, lab: Lab) -> None:
    """Five seconds pass between two: long enough for a log."""
    process = started(near, "send", *PACED, lab.directory / "content", "node2:inbox/lines")
    assert process.stdout is not None
    line = process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE)
    pattern = r"[\d.]+ \wiB of 19.1 MiB, 0/1 files, [\d.]+ \wbit/s, ratio [\d.]+, \d+ streams, \S+ left\n"
    assert re.fullmatch(pattern, line)
    assert process.returncode == 130


def test_standard_input_becomes_a_file_and_a_file_standard_output(near: LabNode, inbox: Path) -> None:
    content = os.urandom(3_000_001)
    done = dwcp(near, "send", "-", "node2:inbox/stream", input=content, text=False)
    assert done.returncode == 0, done.stderr
    assert b"- -> node2:inbox/stream: 1 files" in done.stdout
    assert (inbox / "stream").read_bytes() == content
    for options in ([], ["--json"]):
        back = dwcp(near, "get", *options, "node2:inbox/stream", "-", text=False)
        assert back.stdout == content
        # what is told goes where it cannot mix with the content
        assert b"3000001" in back.stderr if options else b"node2:inbox/stream -> -: 1 files" in back.stderr


def test_ls(near: LabNode, inbox: Path) -> None:
    assert dwcp(near, "ls", "node2:").stdout == "inbox/\n"
    directory = inbox / "listed"
    directory.mkdir()
    (directory / "file").write_text("four")
    (directory / "file").chmod(0o640)
    (directory / "link").symlink_to("file")
    (directory / "sub").mkdir()
    Path(os.fsdecode(os.fsencode(directory) + b"/not-utf8-\xff")).touch()
    lines = dwcp(near, "ls", "node2:inbox/listed").stdout.splitlines()
    assert len(lines) == 4
    assert re.fullmatch(r"-rw-r----- +4 \d{4}-\d\d-\d\d \d\d:\d\d file", lines[0])
    assert lines[1].startswith("lrwxrwxrwx")
    assert lines[1].endswith("link -> file")
    assert "not-utf8-\\xff" in lines[2] or "not-utf8-\\udcff" in lines[2]
    assert lines[3].startswith("drwx")
    entries = json_lines(dwcp(near, "ls", "--json", "node2:inbox/listed"))
    assert {(entry["name"], entry["kind"]) for entry in entries} >= {("file", "file"), ("sub", "dir")}
    assert next(entry for entry in entries if entry["name"] == "link")["target"] == "file"


def test_ping_and_id(near: LabNode, lab: Lab) -> None:
    line = dwcp(near, "ping", "-c", "2", "node2").stdout
    assert re.fullmatch(rf"node2 \({lab.nodes[1].transport}\): [\d.]+, [\d.]+ ms, median [\d.]+ ms\n", line)
    name, fingerprint = dwcp(near, "id").stdout.split()
    assert name == "node1"
    assert fingerprint in lab.nodes[1].config_file.read_text()


def test_status(near: LabNode, lab: Lab) -> None:
    text = dwcp(near, "status").stdout
    assert text.startswith("node node1: healthy, up ")
    for words in (
        f"http {near.http_url.removeprefix('http://')}",
        f"transport {near.transport}",
        f"export inbox: {near.inbox}\n",
        f"peer node2: {lab.nodes[1].transport}, ",
        "sockets: congestion_algorithm ",
    ):
        assert words in text
    assert re.search(r"^  transport +healthy$", text, re.MULTILINE)
    parts = json.loads(dwcp(near, "status", "--json").stdout)
    assert parts.keys() == {"status", "health", "circuit-breakers", "transfers"}
    assert parts["health"]["status"] == "healthy"


def test_status_without_a_manager(tmp_path: Path) -> None:
    done = run_dwcp("status", "--set", f"storage.state_dir={tmp_path}")
    assert done.returncode == 3
    assert f"no manager runs with state directory {tmp_path}; start one with `dwcp-manager`" in done.stderr
    (tmp_path / "run.json").write_text('{"addresses": {"http": "127.0.0.1:1"}}')
    done = run_dwcp("status", "--set", f"storage.state_dir={tmp_path}")
    assert done.returncode == 5
    assert "the manager at 127.0.0.1:1 does not answer" in done.stderr
    assert is_clear(done)


# -- a lab -------------------------------------------------------------------------------------------------------------


def test_a_lab_comes_up_works_as_it_says_and_goes_down(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    up = run_dwcp("lab", "up", "--dir", directory, "--nodes", "2")
    assert up.returncode == 0, up.stderr
    try:
        assert re.search(r"^node1: http://127.0.0.1:\d+/health +transport 127.0.0.1:\d+ +config \S+$", up.stdout, re.M)
        suggested = [line.split() for line in up.stdout.splitlines() if line.startswith("  dwcp ")]
        for _, *arguments in suggested[:-1]:
            arguments = ["/etc/passwd" if word == "/etc/services" else word for word in arguments]
            assert run_dwcp(*arguments).returncode == 0
        assert (directory / "node2" / "inbox" / "passwd").read_bytes() == Path("/etc/passwd").read_bytes()
        assert run_dwcp("lab", "status", directory).stdout == "node1: running\nnode2: running\n"
        twice = run_dwcp("lab", "up", "--dir", directory)
        assert (twice.returncode, "a lab runs in" in twice.stderr) == (7, True)
        assert suggested[-1] == ["dwcp", "lab", "down", str(directory)]
    finally:
        down = run_dwcp("lab", "down", directory)
    assert down.stdout == "stopped 2 nodes\n"
    assert run_dwcp("lab", "status", directory).stdout == "node1: stopped\nnode2: stopped\n"
    assert run_dwcp("lab", "down", directory).stdout == "nothing was running\n"


def test_a_lab_where_none_can_be(tmp_path: Path) -> None:
    done = run_dwcp("lab", "status", tmp_path)
    assert done.returncode == 3
    assert f"start one with `dwcp lab up --dir {tmp_path}`" in done.stderr
    (tmp_path / "file").touch()
    done = run_dwcp("lab", "up", "--dir", tmp_path / "file")
    assert done.returncode == 7
    assert "Not a directory" in done.stderr
    assert is_clear(done)


# -- terminals ---------------------------------------------------------------------------------------------------------


def on_a_terminal(columns: int, command: list[str]) -> tuple[int, str]:
    """(exit code, all that was written) under a pseudo-terminal of this width."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = clean_environment(TERM="xterm-256color")
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "dwcp.cli", *command], stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    output = bytearray()
    deadline = time.monotonic() + DEADLINE
    try:
        while select.select([master], [], [], max(0.0, deadline - time.monotonic()))[0]:
            # the kernel says EIO once the other side is closed
            data = os.read(master, 65536)
            output += data
    except OSError:
        return process.wait(DEADLINE), output.decode()
    finally:
        os.close(master)
        process.kill()
        process.wait()
    raise AssertionError(f"no end within {DEADLINE} s: {output!r}")


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize("direction", ["send", "get"])
def test_a_terminal_shows_a_bar_with_rate_ratio_and_time_left(
    near: LabNode, inbox: Path, lab: Lab, tmp_path: Path, columns: int, direction: str
) -> None:
    paced = ["--set", "transport.enable_pacing=true", "--set", "transport.pacing_rate=160Mbit/s"]
    name = f"{direction}{columns}"
    if direction == "send":
        command = ["send", *paced, str(lab.directory / "content"), f"node2:inbox/{name}"]
        word = "sending"
    else:
        random_file(inbox / name, SIZE)
        command = ["get", f"node2:inbox/{name}", str(tmp_path / "back")]
        word = "receiving"
    code, output = on_a_terminal(columns, configured(near, *command))
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output)
    if direction == "send":
        shown = [line for line in re.split("[\r\n]+", plain) if re.match(rf"{word} [━╸╺]{{8,}} .* left *$", line)]
        assert shown, plain[-2000:]
        assert re.search(r"MiB of 19.1 MiB, .*[\d.]+ Mbit/s, ratio [\d.]+, .*\d+s left", shown[-1])
        assert all(len(line.rstrip()) <= columns for line in shown)
    # the cursor comes back, the bar goes, the summary stays
    assert output.rindex("\x1b[?25h") < output.rindex("verified")
    assert plain.rstrip().endswith("verified")


# -- signals and broken pipes ------------------------------------------------------------------------------------------


def test_a_signal_ends_it_soon_and_the_next_run_goes_on(near: LabNode, inbox: Path, lab: Lab) -> None:
    source, name = lab.directory / "content", "signal"
    others = parts(inbox)
    process = started(near, "send", *PACED, source, f"node2:inbox/{name}")
    wait_until(lambda: arrived(parts(inbox) - others) > 2_000_000, "some of it is there")
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    _, err = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert time.monotonic() - began < 5
    assert err == "dwcp: interrupted; run the same command again and it goes on where it was\n"
    assert not (inbox / name).exists()
    kept = arrived(parts(inbox) - others)
    assert kept > 2_000_000
    done = json_lines(dwcp(near, "send", "--json", source, f"node2:inbox/{name}"))[-1]
    assert done["verified"]
    assert done["wire_bytes"] < SIZE - kept / 2
    assert (inbox / name).read_bytes() == source.read_bytes()


def parts(inbox: Path) -> set[Path]:
    return set((inbox / ".dwcp").glob("*.part"))


def arrived(files: set[Path]) -> int:
    """Bytes that are on disk; an unfinished file is sparse."""
    return sum(file.stat().st_blocks * 512 for file in files)


def test_a_signal_ends_a_command_that_waits_for_input(near: LabNode, inbox: Path) -> None:
    """The thread that reads standard input cannot be woken."""
    process = started(near, "send", "--json", "-", "node2:inbox/never", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("x" * 5_000_000)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["event"] == "start"
    process.send_signal(signal.SIGINT)
    assert process.wait(DEADLINE) == 130
    out, err = process.communicate()
    assert json.loads(out.splitlines()[-1])["code"] == "interrupted"
    assert is_clear(err)
    assert not (inbox / "never").exists()


def test_a_failure_ends_a_command_that_waits_for_input(near: LabNode, inbox: Path) -> None:
    (inbox / "no-directory").touch()
    process = started(near, "send", "-", "node2:inbox/no-directory/x", stdin=subprocess.PIPE)
    assert process.wait(DEADLINE) in (7, 23)
    _, err = process.communicate()
    assert "no-directory" in err
    assert is_clear(err)


@pytest.mark.parametrize("arguments", [["ls", "node2:"], ["ping", "node2"], ["send", "/etc/passwd", "node2:inbox/"]])
def test_a_signal_ends_a_command_that_waits_for_a_silent_peer(near: LabNode, arguments: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(DEADLINE)
        address = f"peers.node2.address=127.0.0.1:{listener.getsockname()[1]}"
        process = started(near, *arguments, "--set", address)
        silent, _ = listener.accept()
        with silent:
            assert silent.recv(10)
            process.send_signal(signal.SIGINT)
            # long before the sixty seconds for which a peer may be silent
            assert process.wait(10) == 130
    out, err = process.communicate()
    assert (out, err.startswith("dwcp: interrupted")) == ("", True)
    assert is_clear(err)


def read_some_and_close(process: subprocess.Popen[Any], size: int) -> tuple[int, str]:
    """(exit code, standard error) of a command whose reader has seen enough."""
    assert process.stdout is not None
    assert process.stderr is not None
    os.read(process.stdout.fileno(), size)
    process.stdout.close()
    errors: list[str] = []
    reader = threading.Thread(target=lambda: errors.append(process.stderr.read()))
    reader.start()
    code = process.wait(DEADLINE)
    reader.join()
    process.stderr.close()
    return code, errors[0]


def test_a_reader_that_has_seen_enough_is_no_error_of_a_listing(near: LabNode, inbox: Path) -> None:
    (inbox / "many").mkdir()
    for number in range(3000):
        (inbox / "many" / f"a-rather-long-name-{number}").touch()
    assert read_some_and_close(started(near, "ls", "node2:inbox/many"), 10) == (0, "")


def test_content_that_nobody_reads_was_not_delivered(near: LabNode, lab: Lab, inbox: Path) -> None:
    (inbox / "unread").write_bytes((lab.directory / "content").read_bytes())
    code, err = read_some_and_close(started(near, "get", "--quiet", "node2:inbox/unread", "-"), 10)
    assert code == 7
    assert err.endswith("dwcp: standard output was closed before all of the content was written\n")


def test_reports_that_nobody_reads_do_not_stop_a_transfer(near: LabNode, inbox: Path, lab: Lab) -> None:
    process = started(near, "send", "--json", lab.directory / "content", "node2:inbox/unreported")
    code, err = read_some_and_close(process, 10)
    assert (code, err) == (0, "")
    assert (inbox / "unreported").read_bytes() == (lab.directory / "content").read_bytes()


def test_output_that_cannot_be_written(near: LabNode, inbox: Path) -> None:
    (inbox / "a").write_text("a")
    with open("/dev/full", "w") as full:
        for arguments in (["ls", "node2:inbox"], ["status"], ["id"]):
            done = dwcp(near, *arguments, stdout=full, stderr=subprocess.PIPE, capture_output=False)
            assert (done.returncode, done.stderr) == (7, "dwcp: cannot write the output: No space left on device\n")
        done = dwcp(near, "get", "-q", "node2:inbox/a", "-", stdout=full, stderr=subprocess.PIPE, capture_output=False)
        assert (done.returncode, "No space left" in done.stderr) == (7, True)
        for options in ([], ["--json"]):
            command = ["send", *options, "/etc/passwd", "node2:inbox/"]
            done = dwcp(near, *command, stdout=full, stderr=subprocess.PIPE, capture_output=False)
            assert done.returncode == 0
            assert done.stderr.endswith("dwcp: reports cannot be written: No space left on device\n")


@pytest.mark.parametrize(("command", "closed"), [("send - node2:inbox/x", "<&-"), ("get node2:inbox/a -", ">&-")])
def test_streams_that_are_closed(near: LabNode, inbox: Path, command: str, closed: str) -> None:
    (inbox / "a").write_text("a")
    line = f"{sys.executable} -m dwcp.cli {command} --config {near.config_file} {closed}"
    done = subprocess.run(["sh", "-c", line], stderr=subprocess.PIPE, text=True, env=clean_environment(), check=False)
    assert done.returncode == 2
    assert re.fullmatch(r"dwcp: standard (input|output) is closed; name a file to (send|write)\n", done.stderr)
