"""Peers as a file system of fsspec: what is promised of it, what programs do with it, and what is not offered."""

from __future__ import annotations

import asyncio
import datetime
import gc
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwcp.errors import IntegrityError, PartialError, ProtocolError, TemporaryError, UnreachableError
from dwcp.transfer.channel import Channel
from dwcp.wire import messages as m
from tests.hostile import EvilServer
from tests.processes import clean_environment
from tests.support import Pair, Proxy, random_file, wait_until

fsspec = pytest.importorskip("fsspec", reason="fsspec is not installed (extra fsspec)")

from fsspec.callbacks import Callback  # noqa: E402

from dwcp.integrations import filesystem  # noqa: E402
from dwcp.integrations.filesystem import DwcpFileSystem  # noqa: E402


@pytest.fixture
def fs(pair: Pair) -> Iterator[DwcpFileSystem]:
    made = DwcpFileSystem(pair.config, skip_instance_cache=True)
    yield made
    made.close()


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[m.Message]:
    """What this side says from now on, in order."""
    found: list[m.Message] = []
    send = Channel.send

    def noting(self: Channel, message: m.Message, *rest: Any, **options: Any) -> None:
        found.append(message)
        send(self, message, *rest, **options)

    monkeypatch.setattr(Channel, "send", noting)
    return found


def config_file(pair: Pair) -> Path:
    path = pair.directory / "config.yaml"
    path.write_text(yaml.safe_dump(pair.config.model_dump(mode="json", exclude_unset=True)))
    return path


# -- looking -----------------------------------------------------------------------------------------------------------


def test_peers_exports_and_what_is_in_them(pair: Pair, fs: DwcpFileSystem) -> None:
    (pair.inbox / "run" / "1").mkdir(parents=True)
    (pair.inbox / "run" / "1" / "a.csv").write_text("a")
    (pair.inbox / "run" / "b.csv").write_text("bb")
    (pair.inbox / "run" / "link").symlink_to("b.csv")
    assert fs.ls("dwcp://", detail=False) == ["b"]
    assert fs.ls("dwcp://b", detail=False) == ["b/fixed", "b/inbox"]
    assert fs.ls("b/inbox/run/", detail=False) == ["b/inbox/run/1", "b/inbox/run/b.csv", "b/inbox/run/link"]
    assert fs.find("b/inbox") == ["b/inbox/run/1/a.csv", "b/inbox/run/b.csv", "b/inbox/run/link"]
    assert fs.glob("b/inbox/run/**/*.csv") == ["b/inbox/run/1/a.csv", "b/inbox/run/b.csv"]
    assert [fs.info(path)["type"] for path in ("", "b", "b/inbox", "b/inbox/run")] == ["directory"] * 4
    status = (pair.inbox / "run" / "b.csv").stat()
    info = fs.info("dwcp://b/inbox/run/b.csv")
    assert (info["name"], info["size"], info["type"]) == ("b/inbox/run/b.csv", 2, "file")
    assert info["mtime_ns"] == status.st_mtime_ns
    assert abs(fs.modified("b/inbox/run/b.csv").timestamp() - status.st_mtime) < 1e-3
    assert fs.modified("b/inbox/run/b.csv").tzinfo is datetime.UTC
    link = fs.info("b/inbox/run/link")
    assert (link["type"], link["destination"]) == ("link", "b.csv")
    assert fs.du("b/inbox/run") == 3
    assert fs.unstrip_protocol("b/inbox") == "dwcp://b/inbox"


def test_a_directory_with_one_file_of_its_own_name(pair: Pair, fs: DwcpFileSystem) -> None:
    """A listing of either looks alike."""
    (pair.inbox / "x").mkdir()
    (pair.inbox / "x" / "x").write_text("1")
    assert fs.ls("b/inbox/x", detail=False) == ["b/inbox/x/x"]
    assert fs.ls("b/inbox/x/x", detail=False) == ["b/inbox/x/x"]


@pytest.mark.parametrize("path", ["c", "c/inbox/x", "b/outbox", "b/inbox/none", "b/inbox/none/x"])
def test_what_is_not_there(fs: DwcpFileSystem, path: str) -> None:
    assert not fs.exists(path)
    for act in (fs.info, fs.ls):
        with pytest.raises(FileNotFoundError):
            act(path)
    with pytest.raises((FileNotFoundError, IsADirectoryError)):
        fs.open(path)


def test_a_peer_that_is_away_is_not_one_without_the_file(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.close()
    fs = DwcpFileSystem(pair.config, skip_instance_cache=True)
    with pytest.raises(UnreachableError):
        fs.exists("b/inbox/x")


# -- reading -----------------------------------------------------------------------------------------------------------


def test_parts_of_a_file_are_read_and_no_more(
    pair: Pair, fs: DwcpFileSystem, sent: list[m.Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = random_file(pair.inbox / "big", 30_000_000)
    read: list[int] = []
    receive_body = Channel.receive_body
    monkeypatch.setattr(
        Channel, "receive_body", lambda self, prefix, view: (read.append(len(view)), receive_body(self, prefix, view))
    )
    with fs.open("b/inbox/big", "rb", block_size=65536) as file:
        file.seek(20_000_000)
        assert file.read(1000) == content[20_000_000:20_001_000]
        file.seek(-10, os.SEEK_END)
        assert file.read() == content[-10:]
    assert fs.cat_file("b/inbox/big", 5, 15) == content[5:15]
    assert fs.cat_file("b/inbox/big", -15, -5) == content[-15:-5]
    assert fs.cat_file("b/inbox/big", 29_999_990) == content[-10:]
    assert fs.cat_ranges(["b/inbox/big"] * 2, [0, 100], [10, 110]) == [content[:10], content[100:110]]
    assert sum(read) < 300_000
    assert not any(isinstance(message, m.Open) for message in sent)


def test_much_of_a_file_comes_by_a_transfer(
    pair: Pair, fs: DwcpFileSystem, sent: list[m.Message], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filesystem, "BY_TRANSFER", 1_000_000)
    content = random_file(pair.inbox / "big", 3_000_000)
    assert fs.cat_file("b/inbox/big") == content
    assert fs.cat_file("b/inbox/big", 100) == content[100:]
    with fs.open("b/inbox/big") as file:
        assert file.read() == content
    assert sum(isinstance(message, m.Open) for message in sent) == 3
    assert not any(isinstance(message, m.Read) for message in sent)


def test_an_open_file_is_of_one_state(pair: Pair, fs: DwcpFileSystem) -> None:
    random_file(pair.inbox / "file", 3_000_000)
    with fs.open("b/inbox/file", block_size=1000) as file:
        file.read(10)
        random_file(pair.inbox / "new", 3_000_000, seed=2)
        (pair.inbox / "new").rename(pair.inbox / "file")
        file.seek(2_000_000)
        with pytest.raises(TemporaryError, match="changed while it was read"):
            file.read(10)


def test_links_and_directories_are_not_read(pair: Pair, fs: DwcpFileSystem, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (pair.inbox / "link").symlink_to(tmp_path / "secret")
    (pair.inbox / "dir").mkdir()
    for act in (fs.cat_file, lambda path: fs.get_file(path, tmp_path / "got"), lambda path: fs.cat_file(path, 0, 5)):
        with pytest.raises(PermissionError):
            act("b/inbox/link")
        with pytest.raises(PermissionError):
            fs.open("b/inbox/link")
    for act in (fs.cat_file, fs.open):
        with pytest.raises(IsADirectoryError):
            act("b/inbox/dir")
    assert not os.path.lexists(tmp_path / "got")


def test_a_peer_that_sends_a_link_for_a_file(pair: Pair, fs: DwcpFileSystem, tmp_path: Path) -> None:
    """What was a file when it was looked at need not be one when it is got: no link is left for somebody to follow."""
    (pair.inbox / "file").write_text("content")
    ask = DwcpFileSystem._info

    class Deceived(DwcpFileSystem):
        async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
            info = await ask(self, path, **kwargs)
            (pair.inbox / "file").unlink()
            (pair.inbox / "file").symlink_to("/etc/passwd")
            return info

    deceived = Deceived(pair.config, skip_instance_cache=True)
    with pytest.raises(IntegrityError, match="something else than a file"):
        deceived.get_file("b/inbox/file", str(tmp_path / "got"))
    assert not os.path.lexists(tmp_path / "got")
    deceived.close()


# -- writing -----------------------------------------------------------------------------------------------------------


def test_a_file_appears_when_it_is_closed_and_whole(pair: Pair, fs: DwcpFileSystem) -> None:
    (pair.inbox / "new").write_bytes(b"old")
    with fs.open("b/inbox/new", "wb", block_size=1000) as file:
        for _ in range(5):
            file.write(b"x" * 700)
        assert (pair.inbox / "new").read_bytes() == b"old"
    assert (pair.inbox / "new").read_bytes() == b"x" * 3500
    with fs.open("b/inbox/deep/er/text", "w") as file:
        file.write("größe\n")
    assert (pair.inbox / "deep" / "er" / "text").read_text() == "größe\n"
    with fs.open("b/inbox/empty", "wb"):
        pass
    assert (pair.inbox / "empty").read_bytes() == b""
    umask = os.umask(0)
    os.umask(umask)
    assert (pair.inbox / "new").stat().st_mode & 0o777 == 0o666 & ~umask
    assert pair.leftovers() == []


def test_a_write_that_fails_leaves_the_old_file(
    pair: Pair, fs: DwcpFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    (pair.inbox / "file").write_bytes(b"old")
    # the program's own fault
    with pytest.raises(ZeroDivisionError), fs.open("b/inbox/file", "wb", block_size=10) as file:
        file.write(b"half of the new one")
        raise ZeroDivisionError
    # nobody closes it
    file = fs.open("b/inbox/file", "wb", block_size=10)
    file.write(b"half of the new one")
    with pytest.warns(ResourceWarning, match="never closed"):
        del file
        gc.collect()
    # the peer does not take it
    with pytest.raises(PermissionError, match="read-only"), fs.open("b/fixed/file", "wb") as file:
        file.write(b"new")
    # the peer is away
    pair.close()
    with pytest.raises(UnreachableError), fs.open("b/inbox/file", "wb") as file:
        file.write(b"new")
    assert (pair.inbox / "file").read_bytes() == b"old"
    assert os.listdir(tmp_path / "temporary") == []


def test_a_full_disk_here_is_told_and_nothing_is_sent(pair: Pair, fs: DwcpFileSystem) -> None:
    (pair.inbox / "file").write_bytes(b"old")
    file = fs.open("b/inbox/file", "wb", block_size=1)
    file.write(b"first")

    class Full:
        def write(self, data: Any) -> None:
            raise OSError(28, "No space left on device")

        def close(self) -> None:
            pass

    file._outgoing._file.close()
    file._outgoing._file = Full()
    with pytest.raises(OSError, match="No space left"):
        file.write(b"second")
    file.close()
    assert (pair.inbox / "file").read_bytes() == b"old"


def test_files_of_the_same_size_and_time_are_told_apart(pair: Pair, fs: DwcpFileSystem, tmp_path: Path) -> None:
    """A transfer of a tree takes them for unchanged."""
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
        os.utime(tmp_path / name, ns=(10**18, 10**18))
        fs.put_file(str(tmp_path / name), "b/inbox/file")
        assert (pair.inbox / "file").read_text() == name
    (tmp_path / "back").write_text("tri")
    os.utime(tmp_path / "back", ns=(10**18, 10**18))
    fs.get_file("b/inbox/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_text() == "two"


def test_a_local_link_counts_for_what_it_leads_to(pair: Pair, fs: DwcpFileSystem, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "link").symlink_to("file")
    fs.put_file(str(tmp_path / "link"), "b/inbox/file")
    assert not (pair.inbox / "file").is_symlink()
    (pair.inbox / "file").write_text("changed")
    fs.get_file("b/inbox/file", str(tmp_path / "link"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_text() == "changed"
    with pytest.raises(FileNotFoundError):
        fs.put_file(str(tmp_path / "none"), "b/inbox/none")


def test_a_directory_is_not_replaced_by_a_file(pair: Pair, fs: DwcpFileSystem) -> None:
    (pair.inbox / "dir").mkdir()
    (pair.inbox / "dir" / "file").write_text("old")
    with pytest.raises(PartialError, match="director"):
        fs.pipe_file("b/inbox/dir", b"new")
    assert (pair.inbox / "dir" / "file").read_text() == "old"
    for path in ("b/inbox", "b", ""):
        with pytest.raises(IsADirectoryError):
            fs.pipe_file(path, b"new")


def test_a_transaction_sends_all_or_nothing_of_what_was_written(pair: Pair, fs: DwcpFileSystem) -> None:
    with fs.transaction:
        with fs.open("b/inbox/one", "wb") as file:
            file.write(b"1")
        assert not (pair.inbox / "one").exists()
    assert (pair.inbox / "one").read_bytes() == b"1"
    with pytest.raises(ZeroDivisionError), fs.transaction:
        with fs.open("b/inbox/two", "wb") as file:
            file.write(b"2")
        raise ZeroDivisionError
    assert not (pair.inbox / "two").exists()


def test_directories_are_made(pair: Pair, fs: DwcpFileSystem) -> None:
    fs.makedirs("b/inbox/a/b")
    assert (pair.inbox / "a" / "b").is_dir()
    fs.makedirs("b/inbox/a/b", exist_ok=True)
    fs.mkdir("b/inbox/c")
    assert (pair.inbox / "c").is_dir()
    for path in ("b/inbox/c", "b/inbox", "b"):
        with pytest.raises(FileExistsError):
            fs.mkdir(path)
    with pytest.raises(FileNotFoundError):
        fs.mkdir("b/inbox/d/e", create_parents=False)
    with pytest.raises(PermissionError, match="read-only"):
        fs.mkdir("b/fixed/d")
    for export in ("b/outbox", "b/outbox/x"):
        with pytest.raises((FileNotFoundError, IsADirectoryError)):
            fs.makedirs(export)


@pytest.mark.parametrize(
    "act",
    [
        lambda fs: fs.rm("b/inbox/file"),
        lambda fs: fs.rm_file("b/inbox/file"),
        lambda fs: fs.rm("b/inbox/dir", recursive=True),
        lambda fs: fs.rmdir("b/inbox/dir"),
        lambda fs: fs.mv("b/inbox/file", "b/inbox/other"),
        lambda fs: fs.cp("b/inbox/file", "b/inbox/other"),
        lambda fs: fs.open("b/inbox/file", "ab"),
    ],
)
def test_what_peers_do_not_offer_is_said(pair: Pair, fs: DwcpFileSystem, act: Any) -> None:
    (pair.inbox / "file").write_text("content")
    (pair.inbox / "dir").mkdir()
    with pytest.raises(NotImplementedError, match="cannot "):
        act(fs)
    assert sorted(path.name for path in pair.inbox.iterdir()) == ["dir", "file"]


# -- transfers ---------------------------------------------------------------------------------------------------------


class Noted(Callback):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, int]] = []

    def call(self, *args: Any, **kwargs: Any) -> None:
        self.told.append((self.size or 0, self.value))


def test_transfers_tell_how_far_they_are(pair: Pair, fs: DwcpFileSystem, tmp_path: Path) -> None:
    content = random_file(tmp_path / "file", 8_000_000)
    pace: float = 0.01

    def slowly(data: bytes, offset: int, inbound: bool) -> bytes:
        time.sleep(pace)
        return data

    proxy = Proxy(pair.port, slowly)
    slow = DwcpFileSystem(pair.client_config(proxy.port), skip_instance_cache=True)
    try:
        for act in (
            lambda noted: slow.put_file(str(tmp_path / "file"), "b/inbox/file", callback=noted),
            lambda noted: slow.get_file("b/inbox/file", str(tmp_path / "back"), callback=noted),
        ):
            noted = Noted()
            act(noted)
            assert noted.told[-1] == (len(content), len(content))
            assert any(0 < done < size for size, done in noted.told)
    finally:
        slow.close()
        proxy.close()
    assert (tmp_path / "back").read_bytes() == content


def test_many_at_once(pair: Pair, fs: DwcpFileSystem, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(40):
        (source / f"{number}").write_text(f"content of {number}")
    fs.put(str(source), "b/inbox/copy", recursive=True)
    assert {path.name: path.read_text() for path in (pair.inbox / "copy").iterdir()} == {
        str(number): f"content of {number}" for number in range(40)
    }
    fs.get("b/inbox/copy", str(tmp_path / "back"), recursive=True)
    assert sorted(os.listdir(tmp_path / "back")) == sorted(os.listdir(source))
    assert len(fs.cat("b/inbox/copy", recursive=True, on_error="omit")) == 40


def test_a_restart_of_the_peer_is_survived(pair: Pair, fs: DwcpFileSystem) -> None:
    random_file(pair.inbox / "file", 1000)
    proxy = Proxy(pair.port, lambda data, offset, inbound: data)
    through = DwcpFileSystem(pair.client_config(proxy.port), skip_instance_cache=True)
    try:
        with through.open("b/inbox/file", block_size=10) as file:
            first = file.read(10)
            proxy.cut()
            assert first + file.read() == (pair.inbox / "file").read_bytes()
        proxy.cut()
        assert through.exists("b/inbox/file")
    finally:
        through.close()
        proxy.close()


def test_from_many_threads(pair: Pair, fs: DwcpFileSystem) -> None:
    content = random_file(pair.inbox / "file", 1_000_000)
    wrong: list[int] = []

    def read(number: int) -> None:
        for step in range(20):
            start = (number * 20 + step) * 1000
            if fs.cat_file("b/inbox/file", start, start + 1000) != content[start : start + 1000]:
                wrong.append(start)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_peer_with_a_hostile_listing(pair: Pair, fs: DwcpFileSystem, tmp_path: Path) -> None:
    """Names that would lead out of where they are copied to."""

    def behave(server: EvilServer, channel: Channel, request: m.Message) -> None:
        while isinstance(request, m.List):
            name = b"dir" if request.itself else b"../../escaped"
            kind = "dir" if request.itself else "file"
            channel.send(m.Listing(entries=[m.ListEntry(name, kind, 5, 1, 0o644, b"")]))
            request, _ = channel.receive()

    with EvilServer(pair, behave) as server:
        deceived = DwcpFileSystem(server.config, skip_instance_cache=True)
        with pytest.raises(ProtocolError, match="which is no name"):
            deceived.get("b/inbox/dir", str(tmp_path / "deep" / "er" / "back"), recursive=True)
        deceived.close()
    assert not list(tmp_path.rglob("escaped"))


# -- how it is found and kept ------------------------------------------------------------------------------------------


def test_programs_find_it_by_its_entry_point(pair: Pair) -> None:
    (pair.inbox / "file").write_text("content")
    code = (
        "import fsspec, sys\n"
        "with fsspec.open('dwcp://b/inbox/file', 'r', config=sys.argv[1]) as file: print(file.read())\n"
        "with fsspec.open('dwcp://b/inbox/out', 'w', config=[sys.argv[1]]) as file: file.write('new')\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, config_file(pair)],
        capture_output=True,
        text=True,
        env=clean_environment(),
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.splitlines()[-1], done.stderr) == (0, "content", "")
    assert (pair.inbox / "out").read_text() == "new"


def test_it_and_its_open_files_can_be_pickled(pair: Pair, tmp_path: Path) -> None:
    content = random_file(pair.inbox / "file", 10_000)
    fs = DwcpFileSystem(str(config_file(pair)))
    file = fs.open("b/inbox/file", block_size=100)
    file.read(500)
    again = pickle.loads(pickle.dumps(file))
    assert again.read(100) == content[500:600]
    assert pickle.loads(pickle.dumps(fs)) is fs
    fs.close()


def test_in_an_event_loop(pair: Pair) -> None:
    async def act() -> bytes:
        fs = DwcpFileSystem(pair.config, asynchronous=True, skip_instance_cache=True)
        await fs._pipe_file("b/inbox/file", b"content")
        assert await fs._exists("b/inbox/file")
        content: bytes = await fs._cat_file("b/inbox/file")
        await asyncio.to_thread(fs.close)
        return content

    assert asyncio.run(act()) == b"content"


def test_sessions_end_with_it(pair: Pair) -> None:
    fs = DwcpFileSystem(pair.config, skip_instance_cache=True)
    assert fs.exists("b/inbox")
    assert pair.server.counters().sessions == 1
    fs.close()
    wait_until(lambda: pair.server.counters().sessions == 0, "its session ends")
    assert fs.exists("b/inbox")
    del fs
    gc.collect()
    wait_until(lambda: pair.server.counters().sessions == 0, "its session ends")
