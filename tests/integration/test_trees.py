"""Which names go, which are deleted, what is told of it: beside rsync(1) where rsync has the same option."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

from dwcp import Change, TreeOptions
from dwcp.cli.itemize import itemize
from dwcp.errors import PartialError, RefusedError, UsageError
from dwcp.files.staging import Staging
from dwcp.transfer import source
from dwcp.transfer.throttle import Throttle
from dwcp.wire.tree import ALL_KEPT
from tests.rsync import differences, needs_root, needs_rsync
from tests.support import Pair, make_tree, random_file

WHEN = 10**18


def write(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    still(root)


def still(root: Path) -> None:
    """All times alike."""
    for path in (root, *root.rglob("*")):
        os.utime(path, ns=(WHEN, WHEN), follow_symlinks=False)


def names(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def changes(pair: Pair, tree: Path, target: str, *, delete: bool = False, **options: object) -> list[str]:
    """Itemised lines of a send."""
    found: list[Change] = []
    pair.send(tree, target, delete=delete, tree=TreeOptions(**options), on_change=found.append)  # type: ignore[arg-type]
    return sorted(itemize(change, sends=True) for change in found)


def rsync_lines(tree: Path, copy: Path, *options: str) -> list[str]:
    """As a client prints them that sends."""
    lines = differences(tree, copy, "-aHn", "-i", *options)
    return sorted(line.replace(">f", "<f", 1) for line in lines)


def make_two(tmp_path: Path, inbox: Path) -> tuple[Path, Path]:
    """A tree, and an older copy of it that differs in every way."""
    tree, copy = tmp_path / "tree", inbox / "copy"
    make_tree(tree)
    shutil.copytree(tree, copy, symlinks=True)
    (copy / "sub" / "same").unlink()
    os.link(copy / "small", copy / "sub" / "same")
    for path in (tree, *tree.rglob("*")):
        status = path.lstat()
        os.utime(copy / path.relative_to(tree), ns=(status.st_mtime_ns, status.st_mtime_ns), follow_symlinks=False)
    (copy / "small").chmod(0o600)
    (copy / "script").unlink()
    (copy / "text").write_text("shorter")
    (copy / "empty-dir").rmdir()
    (copy / "link").unlink()
    (copy / "link").symlink_to("elsewhere")
    os.utime(copy / "empty", ns=(5, 5))
    (copy / "sub").chmod(0o755)
    (copy / "dangling").unlink()
    (copy / "dangling").write_text("a file where a symlink was")
    (copy / "too much").mkdir()
    (copy / "too much" / "a").touch()
    (copy / "too much" / "b").symlink_to("a")
    os.utime(copy, ns=(7, 7))
    return tree, copy


@needs_rsync
@pytest.mark.parametrize("delete", [False, True])
def test_a_dry_run_says_what_rsync_says_and_changes_nothing(pair: Pair, tmp_path: Path, delete: bool) -> None:
    tree, copy = make_two(tmp_path, pair.inbox)
    before = differences(tree, copy)
    about = (pair.inbox.stat().st_mtime_ns, copy.stat().st_mtime_ns)
    wanted = rsync_lines(tree, copy, *(["--delete"] if delete else []))
    told = changes(pair, tree, "inbox/copy", delete=delete, dry_run=True)
    # of a name that is linked already rsync tells what is told of its first one
    assert told == [line for line in wanted if not line.startswith("hf.")]
    assert differences(tree, copy) == before
    assert (pair.inbox.stat().st_mtime_ns, copy.stat().st_mtime_ns) == about
    assert changes(pair, tree, "inbox/copy", delete=delete) == told, "a real run tells the same"
    assert differences(tree, copy, "-aH", "-n", "-i", *(["--delete"] if delete else [])) == []
    assert changes(pair, tree, "inbox/copy", delete=delete) == []


@needs_rsync
def test_comparing_by_content_finds_what_size_and_time_hide(pair: Pair, tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", pair.inbox / "copy"
    make_tree(tree)
    pair.send(tree, "inbox/copy")
    for name in ("small", "sub/medium", "sub/deep/large"):
        status = (copy / name).stat()
        with (copy / name).open("r+b") as file:
            file.write(b"?")
        os.utime(copy / name, ns=(status.st_mtime_ns, status.st_mtime_ns))
    os.utime(copy / "script", ns=(1, 1))
    assert changes(pair, tree, "inbox/copy", dry_run=True) == ["<f..t...... script"]
    wanted = rsync_lines(tree, copy, "--checksum")
    assert changes(pair, tree, "inbox/copy", compare=True, dry_run=True) == wanted
    assert differences(tree, copy) != []
    assert changes(pair, tree, "inbox/copy", compare=True) == wanted
    assert differences(tree, copy) == []


FILTERS = [
    [b"- *.o", b"+ /src/**", b"- /keep/"],
    [b"+ */", b"+ *.c", b"- *"],
    [b"P /old", b"H /src/a.o", b"R *.bak", b"- *.bak"],
    [b"-s *.o", b"-p *.bak", b"- /gone/*.c"],
    [b": .rules"],
    [b":- .rules", b"- *.bak"],
]


@needs_rsync
@pytest.mark.parametrize("excluded_too", [False, True])
@pytest.mark.parametrize("filters", FILTERS)
@pytest.mark.parametrize("before", [False, True])
def test_filters_choose_what_goes_and_what_is_deleted_as_rsync_does(
    pair: Pair, tmp_path: Path, filters: list[bytes], excluded_too: bool, before: bool
) -> None:
    tree, copy, theirs = tmp_path / "tree", pair.inbox / "copy", tmp_path / "theirs"
    write(tree, "src/a.c", "src/a.o", "src/deep/b.c", "src/deep/b.o", "keep/x", "keep/y.o", "README", "z.bak")
    (tree / "src" / ".rules").write_bytes(b"a.o\n" if filters[0].startswith(b":-") else b"- a.o\n+ /deep\n- deep/*\n")
    still(tree)
    for there in (copy, theirs):
        write(there, "old/x", "old/y.o", "src/old.o", "src/old.c", "keep/z", "gone/a.bak", "gone/a.c", "gone/sub/b.o")
        write(there, "stay.bak", "top.o", "src/deep/old.c")
        if filters[0].startswith(b":"):
            shutil.copy2(tree / "src" / ".rules", there / "src" / ".rules")
        still(there)
    options = ["--delete-before" if before else "--delete-after", *(["--delete-excluded"] if excluded_too else [])]
    command = ["rsync", "-a", *options, *(f"--filter={os.fsdecode(rule)}" for rule in filters)]
    done = subprocess.run([*command, f"{tree}/", f"{theirs}/"], capture_output=True, text=True)
    assert done.returncode == 0 or "not empty" in done.stderr + done.stdout, done.stderr
    options_here = TreeOptions(filters=filters, delete_excluded=excluded_too, delete_before=before, ignore_files=False)
    pair.send(tree, "inbox/copy", delete=True, tree=options_here)
    assert names(copy) == names(theirs)


def test_a_get_filters_at_the_peer(pair: Pair, tmp_path: Path) -> None:
    write(pair.inbox / "tree", "a.c", "a.o", "sub/b.o", "sub/b.c")
    write(tmp_path / "got", "old.o", "old.c")
    options = TreeOptions(filters=[b"- *.o"])
    pair.get("inbox/tree", tmp_path / "got", tree=options, delete=True)
    assert names(tmp_path / "got") == {"a.c", "sub", "sub/b.c", "old.o"}
    with pytest.raises(UsageError, match="is no filter rule"):
        pair.get("inbox/tree", tmp_path / "got", tree=TreeOptions(filters=[b"nonsense"]))
    with pytest.raises(UsageError, match="is read where the command runs"):
        pair.get("inbox/tree", tmp_path / "got", tree=TreeOptions(filters=[b". /etc/passwd"]))


def test_ignore_files_leave_out_and_protect(pair: Pair, tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", pair.inbox / "copy"
    write(tree, "a.c", "a.o", "sub/b.o", "sub/c.o", "build/x", "sub/build/y")
    (tree / ".dwcpignore").write_bytes(b"# what is made\n*.o\n/build/\n")
    (tree / "sub" / ".dwcpignore").write_bytes(b"+ b.o\n")
    write(copy, "made.o", "gone")
    pair.send(tree, "inbox/copy", delete=True)
    kept = {".dwcpignore", "sub/.dwcpignore", "a.c", "sub", "sub/b.o", "sub/build", "sub/build/y"}
    assert names(copy) == {*kept, "made.o"}
    pair.send(tree, "inbox/copy", delete=True, tree=TreeOptions(ignore_files=False))
    assert names(copy) == names(tree)
    (tree / ".dwcpignore").unlink()
    (tree / ".dwcpignore").symlink_to("/etc/passwd")
    with pytest.raises(RefusedError, match="cannot read the rules in '.dwcpignore'"):
        pair.send(tree, "inbox/copy", delete=True)


@pytest.mark.parametrize("before", [False, True])
def test_no_more_is_deleted_than_was_allowed(pair: Pair, tmp_path: Path, before: bool) -> None:
    tree, copy = tmp_path / "tree", pair.inbox / "copy"
    write(tree, "a")
    write(copy, "b", "c", "d/e", "d/f")
    with pytest.raises(PartialError, match="2 names are not deleted: no more than 2 were allowed") as caught:
        pair.send(tree, "inbox/copy", delete=True, tree=TreeOptions(max_delete=2, delete_before=before))
    assert caught.value.result.deleted == 2  # type: ignore[attr-defined]
    assert pair.send(tree, "inbox/copy", delete=True, tree=TreeOptions(max_delete=3)).deleted == 3
    assert names(copy) == {"a"}


def test_deleting_first_makes_room_before_anything_is_sent(pair: Pair, tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", pair.inbox / "copy"
    write(tree, *(f"{number:04}" for number in range(700)))
    write(copy, "gone/deep/x", "0000")
    order: list[Change] = []
    pair.send(tree, "inbox/copy", delete=True, tree=TreeOptions(delete_before=True), on_change=order.append)
    assert [os.fsdecode(change.path) for change in order[:3]] == ["gone/deep/x", "gone/deep", "gone"]
    assert len(order) > 700
    assert names(copy) == names(tree)


def test_what_is_replaced_or_deleted_is_kept_when_asked(pair: Pair, tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", pair.inbox / "copy"
    write(tree, "small", "link", "sub/large", "same", "empty")
    random_file(tree / "sub" / "large", 3_000_000)
    pair.send(tree, "inbox/copy")
    old = (tree / "sub" / "large").read_bytes()
    (tree / "small").write_text("new")
    (tree / "link").unlink()
    (tree / "link").symlink_to("new")
    (tree / "empty").write_text("")
    random_file(tree / "sub" / "large", 3_000_000, seed=2)
    write(copy, "gone/x")
    pair.send(tree, "inbox/copy", delete=True, tree=TreeOptions(backup=True))
    assert names(copy) == names(tree) | {"small~", "link~", "empty~", "sub/large~", "gone", "gone/x~"}
    assert (copy / "small~").read_text() == "small"
    assert (copy / "link~").read_text() == "link"
    assert (copy / "gone" / "x~").read_text() == "gone/x"
    assert (copy / "sub" / "large~").read_bytes() == old
    assert pair.leftovers() == []
    (tree / "small").write_text("newer")
    (tree / "sub" / "large").unlink()
    options = TreeOptions(backup=True, backup_dir=b"old/monday", backup_suffix=b"")
    pair.send(tree, "inbox/copy", delete=True, tree=options)
    assert (copy / "old" / "monday" / "small").read_text() == "new"
    assert (copy / "old" / "monday" / "sub" / "large").stat().st_size == 3_000_000
    assert (copy / "old" / "monday" / "gone" / "x~").exists(), "a backup of before is one name among others now"
    with pytest.raises(RefusedError, match=r"\.\."):
        pair.send(tree, "inbox/copy", tree=TreeOptions(backup=True, backup_dir=b"../outside"))
    with pytest.raises(RefusedError, match="backups need"):
        pair.send(tree, "inbox/copy", tree=TreeOptions(backup=True, backup_suffix=b"/x"))


def test_a_list_of_names_is_all_that_goes(pair: Pair, tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", pair.inbox / "copy"
    write(tree, "a/b/c", "a/b/d", "a/e", "f/g", "h", "skip/i")
    listed = [b"a/b/c", b"./f/", b"/h", b"a//b/c", b"missing", b"skip/i"]
    with pytest.raises(PartialError, match="'missing' is named in the list and does not exist"):
        pair.send(tree, "inbox/copy", names=listed, tree=TreeOptions(filters=[b"- skip/"]))
    assert names(copy) == {"a", "a/b", "a/b/c", "f", "h"}
    with pytest.raises(UsageError, match=r"\.\."):
        pair.send(tree, "inbox/copy", names=[b"../outside"])


@needs_root
def test_one_file_system_leaves_out_what_is_mounted(pair: Pair, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    write(tree, "a", "mounted/under")
    try:
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tree / "mounted"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"cannot mount here: {error}")
    try:
        write(tree / "mounted", "x")
        pair.send(tree, "inbox/copy", tree=TreeOptions(one_file_system=True))
        assert names(pair.inbox / "copy") == {"a"}
        pair.send(tree, "inbox/copy")
        assert names(pair.inbox / "copy") == {"a", "mounted", "mounted/x"}
    finally:
        subprocess.run(["umount", tree / "mounted"], check=True)


@needs_root
def test_the_content_of_a_block_device_becomes_a_file(pair: Pair, tmp_path: Path) -> None:
    content = random_file(tmp_path / "image", 3 * 2**20)
    with (tmp_path / "image").open("r+b") as file:
        file.truncate(8 * 2**20)
    try:
        found = subprocess.run(
            ["losetup", "-f", "--show", tmp_path / "image"], check=True, capture_output=True, text=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no loop devices here: {error}")
    device = Path(found.stdout.strip())
    try:
        pair.send(device, "inbox/disk")
        copy = pair.inbox / "disk"
        assert copy.read_bytes() == content + bytes(5 * 2**20)
        assert copy.stat().st_blocks * 512 < 4 * 2**20
        with device.open("r+b") as disk:
            disk.seek(2**20)
            disk.write(b"changed")
        again = pair.send(device, "inbox/disk")
        assert copy.read_bytes() == device.read_bytes()
        assert again.wire_bytes < 500_000
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


def test_what_changes_while_it_is_read_is_read_again(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = tmp_path / "tree"
    write(tree, "a", "b", "large")
    random_file(tree / "large", 3_000_000)
    read, left = source.FileReader.read_into, {"a": 1, "large": 2}

    def change(self: source.FileReader, offset: int, view: memoryview) -> int:
        name = os.fsdecode(self._entry.path)
        if left.get(name):
            left[name] -= 1
            with (tree / name).open("ab") as file:
                file.write(b"more")
        return read(self, offset, view)

    monkeypatch.setattr(source.FileReader, "read_into", change)
    assert pair.send(tree, "inbox/copy").verified
    for name in ("a", "b", "large"):
        assert (pair.inbox / "copy" / name).read_bytes() == (tree / name).read_bytes()
    assert left == {"a": 0, "large": 0}
    left["b"] = 1000
    with pytest.raises(PartialError, match="'b' changed while it was read"):
        pair.send(tree, "inbox/copy", tree=TreeOptions(compare=True))


def test_names_that_differ_in_case_are_told_where_they_are_one(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on vfat, which no test can count on: here the file system is said to be of that kind."""
    write(tmp_path / "tree", "Read.me", "READ.ME", "other", "Straße", "STRASSE")
    assert pair.send(tmp_path / "tree", "inbox/copy").files == 5
    monkeypatch.setattr(Staging, "_ignores_case", lambda self: True)
    with pytest.raises(PartialError) as caught:
        pair.send(tmp_path / "tree", "inbox/other")
    lines = caught.value.result.errors  # type: ignore[attr-defined]
    assert len(lines) == 2
    assert all("differs from another name only in case" in line for line in lines)
    assert len(names(pair.inbox / "other")) == 3


def test_a_staging_directory_here_tells_case_apart(pair: Pair) -> None:
    from dwcp.files.root import Root

    root = Root(pair.inbox)
    staging = Staging(root)
    assert staging.ignores_case is (pair.inbox / ".DWCP").exists()
    staging.discard()
    staging.close()
    root.close()


def test_a_rate_is_kept_by_all_streams_together() -> None:
    throttle = Throttle(8_000_000)
    begins = [throttle.begin_at(1_000_000, 10.0) for _ in range(4)]
    assert begins == [10.0, 11.0, 12.0, 13.0]
    throttle.correct(-3_000_000)
    assert throttle.begin_at(1_000_000, 10.5) == 11.0
    assert throttle.begin_at(1, 1000.0) == 1000.0, "what was not used is not saved up"


def test_a_transfer_takes_the_time_that_its_rate_asks_for(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 3_000_000)
    for act in (pair.send, pair.get):
        began = time.monotonic()
        where = (tmp_path / "file", "inbox/file") if act == pair.send else ("inbox/file", tmp_path / "back")
        act(*where, tree=TreeOptions(rate=16_000_000))
        # the last leaf is paid for by nobody
        assert time.monotonic() - began > 0.9


def test_a_transfer_that_keeps_nothing_leaves_nothing(tmp_path: Path) -> None:
    pair = Pair(tmp_path, transport={"min_streams": 1, "initial_streams": 1})
    random_file(tmp_path / "file", 20_000_000)
    try:
        for partial in (True, False):
            caught = threading.Event()

            async def stop(peer: object, partial: bool = partial, caught: threading.Event = caught) -> None:
                import asyncio

                def progress(status: object) -> None:
                    if status.bytes_done > 2_000_000:  # type: ignore[attr-defined]
                        caught.set()

                options = TreeOptions(rate=40_000_000, partial=partial)
                task = asyncio.ensure_future(
                    peer.send(tmp_path / "file", "inbox/file", tree=options, on_progress=progress)  # type: ignore[attr-defined]
                )
                assert await asyncio.to_thread(caught.wait, 20)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            pair.do(stop)
            from tests.support import wait_until

            wait_until(lambda: not pair.board.live(), "the other end ends")
            assert bool(pair.leftovers()) is partial
    finally:
        pair.close()


def test_everything_at_once_is_still_a_tree(pair: Pair, tmp_path: Path) -> None:
    make_tree(tmp_path / "tree")
    options = TreeOptions(
        keep=list(ALL_KEPT), compare=True, backup=True, max_delete=10, delete_before=True, itemize=True, rate=10**10
    )
    for _ in range(2):
        pair.send(tmp_path / "tree", "inbox/copy", delete=True, tree=options)
        assert names(pair.inbox / "copy") == names(tmp_path / "tree")
