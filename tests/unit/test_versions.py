"""Versions of a path: each stays what it was, whatever happens to the live files."""

from __future__ import annotations

import datetime
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dwcp.errors import NotFoundError, RefusedError, StorageError, TemporaryError
from dwcp.files.root import Root
from dwcp.files.staging import prune
from dwcp.versions.checking import Found, Pace, check_versions
from dwcp.versions.making import Made, make_version
from dwcp.versions.store import Version, VersionStore

NOON = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.UTC)


class Export:
    """An export with a tree at `data/db`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tree = path / "data" / "db"
        self.tree.mkdir(parents=True, exist_ok=True)
        self.root = Root(path)
        self.store = VersionStore(self.root, (b"data", b"db"), create=True)
        self.now = NOON

    def make(self, owner: str = "a", **keep: int) -> Made:
        self.now += datetime.timedelta(seconds=1)
        return make_version(self.store, owner, keep, self.now)

    def check(self) -> Found:
        return check_versions(self.store, "a", Pace(None, lambda: None))

    def ids(self) -> list[str]:
        return [version.id for version in self.store.find()]


@pytest.fixture
def export(tmp_path: Path) -> Iterator[Export]:
    export = Export(tmp_path)
    yield export
    export.store.close()
    export.root.close()


def picture(top: Path) -> dict[str, Any]:
    """Everything of a tree that a version has to give back."""
    found: dict[str, Any] = {}
    for path in [top, *sorted(top.rglob("*"))]:
        status = path.lstat()
        what: Any = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
        mode = stat.S_IMODE(status.st_mode)
        found[str(path.relative_to(top))] = (stat.S_IFMT(status.st_mode), mode, status.st_mtime_ns, what)
    return found


def stored(version: Version) -> Path:
    return version.path / "tree"


def replace(path: Path, content: bytes) -> None:
    """As a transfer does it: another file gets the name."""
    new = path.with_name(f".{path.name}.new")
    new.write_bytes(content)
    new.replace(path)


def fill(tree: Path) -> None:
    (tree / "sub" / "deep").mkdir(parents=True)
    (tree / "a").write_bytes(b"first")
    (tree / "sub" / "b").write_bytes(os.urandom(3 * 2**20))
    (tree / "sub" / "deep" / "c").write_bytes(b"")
    (tree / "link").symlink_to("sub/b")
    os.link(tree / "a", tree / "sub" / "a-again")
    os.symlink(b"a", os.fsencode(tree) + b"/no-utf8-\xff%41")
    with (tree / "sparse").open("wb") as file:
        file.seek(5 * 2**20)
        file.write(b"end")
        file.truncate(9 * 2**20)
    (tree / "sub" / "deep").chmod(0o555)
    os.utime(tree / "sub", ns=(1, 123456789))


def test_each_version_is_what_the_tree_was(export: Export) -> None:
    fill(export.tree)
    pictures = [picture(export.tree)]
    first = export.make().version
    replace(export.tree / "a", b"second")
    (export.tree / "link").unlink()
    pictures.append(picture(export.tree))
    second = export.make().version
    with (export.tree / "sub" / "b").open("r+b") as file:
        # in place, which no transfer does, but a person may
        file.write(b"changed")
    (export.tree / "sub" / "b").chmod(0o600)
    pictures.append(picture(export.tree))
    third = export.make().version
    assert [picture(stored(version)) for version in (first, second, third)] == pictures


def test_what_did_not_change_is_there_once(export: Export) -> None:
    fill(export.tree)
    first = export.make().version
    replace(export.tree / "a", b"second")
    second = export.make().version
    # and its other name is a file of its own now
    assert second.summary.new_bytes == len(b"second") + len(b"first")
    assert second.summary.bytes > 3 * 2**20
    one, other = ((stored(version) / "sub" / "b").stat() for version in (first, second))
    assert one.st_ino == other.st_ino
    # written anew with what it had
    replace(export.tree / "sub" / "b", (export.tree / "sub" / "b").read_bytes())
    os.utime(export.tree / "sub" / "b", ns=(one.st_atime_ns, one.st_mtime_ns))
    third = export.make().version
    assert (stored(third) / "sub" / "b").stat().st_ino == one.st_ino


def test_links_holes_and_names_are_kept(export: Export) -> None:
    fill(export.tree)
    version = export.make().version
    tree = stored(version)
    assert (tree / "a").stat().st_ino == (tree / "sub" / "a-again").stat().st_ino
    assert (tree / "a").stat().st_ino != (export.tree / "a").stat().st_ino
    assert (tree / "sparse").stat().st_blocks * 512 < 2**20


def test_a_single_file_has_versions_too(export: Export) -> None:
    image = export.path / "disk.img"
    image.write_bytes(b"one")
    with VersionStore(export.root, (b"disk.img",), create=True) as store:
        first = make_version(store, "a", {}, NOON).version
        replace(image, b"two")
        second = make_version(store, "a", {}, NOON).version
        assert [stored(version).read_bytes() for version in (first, second)] == [b"one", b"two"]
        # the clock stood still
        assert [first.id, second.id] == ["20260301T120000Z", "20260301T120000Z-2"]


def test_nothing_changed_makes_nothing(export: Export) -> None:
    fill(export.tree)
    first = export.make()
    again = export.make()
    assert (first.fresh, again.fresh) == (True, False)
    assert again.version.id == first.version.id
    assert export.ids() == [first.version.id]
    (export.tree / "a").chmod(0o600)
    assert export.make().fresh
    (export.tree / "sub" / "deep" / "c").unlink() if os.geteuid() == 0 else (export.tree / "a").unlink()
    assert export.make().fresh


def test_old_versions_go_by_the_rules(export: Export) -> None:
    made = []
    for number in range(6):
        replace(export.tree / "a", str(number).encode())
        made.append(export.make(last=3).version.id)
    assert export.ids() == made[-3:]
    assert [(stored(version) / "a").read_bytes() for version in export.store.find()] == [b"3", b"4", b"5"]
    assert export.make(last=1).pruned == 2


def test_a_clock_that_was_set_back_takes_nothing_away(export: Export) -> None:
    first = export.make().version
    export.now -= datetime.timedelta(days=3)
    (export.tree / "a").write_bytes(b"newer")
    second = export.make(last=1).version
    assert export.ids() == [second.id]
    assert second.id > first.id
    assert (stored(second) / "a").read_bytes() == b"newer"


def test_what_was_not_finished_is_not_listed_and_goes(export: Export) -> None:
    fill(export.tree)
    version = export.make().version
    hidden = export.store.directory / f".{version.id}"
    version.path.rename(hidden)
    assert export.ids() == []
    assert export.make().fresh
    assert not hidden.exists()


def test_a_version_that_fails_leaves_nothing(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(export.tree)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dwcp.versions.copying.copy", full)
    monkeypatch.setattr("dwcp.versions.copying.clone", lambda *_: False)
    with pytest.raises(StorageError, match="disk is full"):
        export.make()
    assert [path.name for path in export.store.directory.iterdir()] == ["about"]


def test_versions_are_of_the_peer_that_made_the_first(export: Export) -> None:
    fill(export.tree)
    export.make("a")
    with pytest.raises(RefusedError, match="kept for a, not for b"):
        export.make("b", last=1)


def test_one_at_a_time(export: Export) -> None:
    with export.store.locked("a"), pytest.raises(TemporaryError, match="worked on"):
        export.make()


def test_nothing_there_is_said(export: Export) -> None:
    with pytest.raises(NotFoundError):
        VersionStore(export.root, (b"nowhere",))
    with VersionStore(export.root, (b"nowhere",), create=True) as store, pytest.raises(NotFoundError):
        make_version(store, "a", {}, NOON)
    with pytest.raises(NotFoundError, match="newest are: none"):
        export.store.get("20260101T000000Z")


def test_a_symlink_in_the_way_is_not_followed(export: Export, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (export.path / "other").symlink_to(elsewhere)
    with VersionStore(export.root, (b"other",), create=True) as store:
        version = make_version(store, "a", {}, NOON).version
        assert stored(version).is_symlink()
    with VersionStore(export.root, (b"other", b"below"), create=True) as store, pytest.raises(RefusedError):
        make_version(store, "a", {}, NOON)


def test_unfinished_files_are_pruned_beside_versions(export: Export) -> None:
    fill(export.tree)
    export.make()
    stale = export.path / ".dwcp" / "t-123"
    stale.write_bytes(b"")
    os.utime(stale, (0, 0))
    os.utime(export.path / ".dwcp" / "versions", (0, 0))
    assert prune(export.root, 60) == 1
    assert len(export.ids()) == 1


def _rot(path: Path) -> None:
    """Other content, and nothing that says so."""
    status, parent = path.stat(), path.parent.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"ROTTEN")
    path.chmod(stat.S_IMODE(status.st_mode))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(path.parent, ns=(parent.st_atime_ns, parent.st_mtime_ns))


def test_a_check_finds_all_well(export: Export) -> None:
    fill(export.tree)
    export.make()
    found = export.check()
    assert (found.damaged, found.healed) == (0, 0)
    assert found.files == 4
    checked = export.store.find()[0].checked
    assert checked is not None
    assert checked.damaged == 0


def test_a_damaged_version_is_mended_from_the_live_file(export: Export) -> None:
    fill(export.tree)
    expected = picture(export.tree)
    first = export.make().version
    replace(export.tree / "link2", b"x")
    second = export.make().version
    _rot(stored(second) / "sub" / "b")
    _rot(stored(second) / "a")
    found = export.check()
    # each is shared by both versions, and mended in both
    assert (found.damaged, found.healed) == (0, 4)
    assert picture(stored(first)) == expected
    assert (stored(second) / "a").stat().st_ino == (stored(second) / "sub" / "a-again").stat().st_ino
    assert export.check().healed == 0


def test_what_cannot_be_mended_is_named(export: Export) -> None:
    fill(export.tree)
    version = export.make().version
    replace(export.tree / "sub" / "b", b"newer")
    _rot(stored(version) / "sub" / "b")
    found = export.check()
    assert (found.damaged, found.live_removed) == (1, 0)
    assert found.lines == [f"version {version.id}: 'sub/b' is damaged, and the live file is another by now"]
    assert export.store.find()[0].checked.damaged == 1  # type: ignore[union-attr]
    assert (export.tree / "sub" / "b").read_bytes() == b"newer"


def test_a_manifest_that_was_changed_is_damage(export: Export) -> None:
    fill(export.tree)
    version = export.make().version
    text = version.manifest.read_text()
    version.manifest.write_text(text.replace('"mode":', '"mood":', 1))
    assert export.check().damaged == 1
    # and does not stand in the way of the next version
    replace(export.tree / "a", b"second")
    assert export.make().fresh


def test_a_live_file_that_rots_is_mended_from_the_version(export: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(export.tree)
    export.make()
    live = export.tree / "sub" / "b"
    before, content = live.stat(), live.read_bytes()
    _rot(live)
    seen = (before.st_ino, before.st_ctime_ns)
    real = Root.stat

    def as_if_untouched(root: Root, parts: tuple[bytes, ...]) -> Any:
        # the disk changes content without a new ctime; a test cannot
        return before if parts[-1] == b"b" else real(root, parts)

    monkeypatch.setattr(Root, "stat", as_if_untouched)
    assert seen == (before.st_ino, before.st_ctime_ns)
    assert export.check().healed == 1
    assert live.read_bytes() == content


def test_where_both_rot_the_live_one_goes_so_that_it_comes_anew(
    export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(export.tree)
    version = export.make().version
    live = export.tree / "sub" / "b"
    before, content = live.stat(), live.read_bytes()
    _rot(live)
    _rot(stored(version) / "sub" / "b")
    real = Root.stat
    monkeypatch.setattr(Root, "stat", lambda root, parts: before if parts[-1] == b"b" else real(root, parts))
    found = export.check()
    assert (found.damaged, found.live_removed) == (1, 1)
    monkeypatch.undo()
    assert not live.exists()
    live.write_bytes(content)
    os.utime(live, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert export.check().healed == 1
    assert (stored(version) / "sub" / "b").read_bytes() == content


@pytest.fixture
def shared_blocks(tmp_path: Path) -> Iterator[Path]:
    """A directory on a file system whose files can share blocks."""
    image, top = tmp_path / "image", tmp_path / "mounted"
    with image.open("wb") as file:
        file.truncate(400 * 2**20)
    top.mkdir()
    subprocess.run(["mkfs.xfs", "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, top], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"cannot mount an image here: {mounted.stderr.strip()}")
    try:
        yield top
    finally:
        subprocess.run(["umount", top], check=True)


def _used(top: Path) -> int:
    """Bytes on the disk, once all is there that has to be."""
    os.sync()
    status = os.statvfs(top)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounts an image, which needs root")
@pytest.mark.skipif(shutil.which("mkfs.xfs") is None, reason="needs mkfs.xfs (apt xfsprogs)")
def test_where_files_can_share_blocks_versions_take_only_what_changed(shared_blocks: Path) -> None:
    export = Export(shared_blocks / "export")
    try:
        _check_sharing(export, shared_blocks)
    finally:
        export.store.close()
        export.root.close()


def _check_sharing(export: Export, shared_blocks: Path) -> None:
    fill(export.tree)
    image = export.tree / "image"
    content = bytearray(os.urandom(60 * 2**20))
    image.write_bytes(content)
    pictures, before = [picture(export.tree)], _used(shared_blocks)
    first = export.make().version
    assert _used(shared_blocks) - before < 4 * 2**20
    # in place: the clone keeps what was there
    content[1000:2000] = os.urandom(1000)
    with image.open("r+b") as file:
        file.seek(1000)
        file.write(content[1000:2000])
    pictures.append(picture(export.tree))
    second = export.make().version
    # received anew: all of it has blocks of its own, until the version shares them
    content[30 * 2**20 : 30 * 2**20 + 5] = b"other"
    replace(image, bytes(content))
    pictures.append(picture(export.tree))
    with_live = _used(shared_blocks)
    third = export.make().version
    assert [picture(stored(version)) for version in (first, second, third)] == pictures
    # not unlinked, after which XFS takes its time to give blocks back
    os.truncate(image, 0)
    assert with_live - _used(shared_blocks) > 40 * 2**20
    _rot(stored(third) / "sub" / "b")
    assert export.check().healed == 1
    assert picture(stored(second)) == pictures[1]
