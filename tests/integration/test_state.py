"""The state directory: snapshots, what restores them, versions, and what `dwcp state verify` tells."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dwcp.errors import NotFoundError, StateError
from dwcp.store import layout, restore, snapshots
from dwcp.store.claim import Claim
from dwcp.store.identity import load_or_create
from dwcp.store.path_memory import PathMemory, remember
from dwcp.store.recorder import Recorder, untold
from dwcp.store.records import seal
from dwcp.store.shared_rate import write_limit
from dwcp.store.snapshots import Snapshot
from dwcp.store.verify import verify
from tests.crash import KILLED, killed_at_each_step
from tests.processes import Daemon, run_dwcp, run_manager

FINGERPRINT = "sha256:" + "0" * 64
PEERS = f"# Written by `dwcp peer add` and `dwcp peer remove`.\npeers:\n  b:\n    fingerprint: {FINGERPRINT}\n"
Tree = dict[str, tuple[int, bytes]]


def old_directory(state: Path) -> None:
    """As the program before the transaction log left it: all of it, under the usual umask, after a kill."""
    state.mkdir(mode=0o755)
    for name in ("logs", "snapshots", "baselines", "identity"):
        (state / name).mkdir(mode=0o700)
    load_or_create(state / "identity", "n")
    (state / "identity" / "api-token").write_text("secret\n")
    (state / "identity" / "api-token").chmod(0o600)
    (state / "paths").mkdir(mode=0o755)
    for path, text in (
        (state / "paths" / "b.bbr.json", '{"streams":8,"rate":1e8,"congestion":"bbr"}'),
        (state / "peers.yaml", PEERS),
        (state / "limit", "200000000\n"),
        (state / "run.json", "{}"),
        (state / "lock", "4711\n"),
        (state / "limit.4194304", "half"),
    ):
        path.write_text(text)
        path.chmod(0o644)
    (state / "senders").mkdir(mode=0o700)


def new_directory(state: Path) -> None:
    """Of this version, with something of everything in it."""
    layout.enter(state, 5, untold)
    load_or_create(state / "identity", "n")
    (state / "peers.yaml").write_text(PEERS)
    write_limit(state, 5_000_000)
    remember(state, "b", PathMemory(8, 1e8, "bbr"))


def tree(state: Path) -> Tree:
    """Mode and content of each file of the state."""
    return {entry.path: (entry.mode, content) for entry, content in snapshots.read_state(state)}


def take(state: Path, reason: str = "manual", keep: int = 5) -> Snapshot:
    return snapshots.take(state, reason, keep, layout=2, program="2.0.0")


def put_back(state: Path, snapshot: Snapshot, *, identity: bool = True) -> Snapshot:
    return restore.restore(state, snapshot, 5, layout=2, program="2.0.0", identity=identity)


def change(state: Path) -> None:
    """Something changed, added, removed."""
    (state / "peers.yaml").write_text("peers: {}\n")
    remember(state, "c", PathMemory(4, 1e7, "cubic"))
    (state / "limit").unlink()
    (state / "identity" / "node.key").unlink()
    (state / "identity" / "node.crt").unlink()
    load_or_create(state / "identity", "n")


# -- snapshots ---------------------------------------------------------------------------------------------------------


def test_a_snapshot_has_all_of_the_state_and_is_its_owners_alone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    taken = take(state)
    assert {entry.path for entry in taken.manifest.files} == {
        "identity/node.crt",
        "identity/node.key",
        "limit",
        "paths/b.bbr.json",
        "peers.yaml",
        "version",
    }
    for parent, directories, names in os.walk(state / "snapshots"):
        for name in directories + names:
            wanted = 0o700 if name in directories else 0o600
            assert stat.S_IMODE((Path(parent) / name).stat().st_mode) == wanted
    assert snapshots.check(taken.path) == []
    assert [entry.name for entry in snapshots.find(state)] == [taken.name]


def test_the_newest_of_each_reason_are_kept(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    first = take(state, "before-upgrade", 2)
    taken = [take(state, "interval", 2).name for _ in range(5)]
    assert {snapshot.name for snapshot in snapshots.find(state)} == {first.name, *taken[-2:]}
    assert [path.name for path in (state / "snapshots").iterdir() if path.name.startswith(".")] == []


def test_only_a_change_is_worth_a_snapshot(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    assert snapshots.is_changed(state)
    take(state)
    assert not snapshots.is_changed(state)
    (state / "limit").chmod(0o640)
    assert snapshots.is_changed(state)


def test_what_does_not_belong_there_is_not_taken_but_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    with (state / "image").open("wb") as file:
        file.truncate(snapshots.MAX_FILE + 1)
    with pytest.raises(StateError, match=r"more than belongs there \(at .*image\)"):
        take(state)
    assert snapshots.paths(state) == []


def test_a_restore_brings_back_everything_and_can_be_undone(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    before, taken = tree(state), take(state)
    change(state)
    changed = tree(state)
    kept = put_back(state, taken)
    assert tree(state) == before
    assert put_back(state, kept).manifest.reason == "before-restore"
    assert tree(state) == changed
    assert not restore.is_pending(state)


def test_a_restore_can_leave_the_identity_as_it_is(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    before, taken = tree(state), take(state)
    change(state)
    changed = tree(state)
    put_back(state, taken, identity=False)
    after = tree(state)
    for path, entry in after.items():
        assert entry == (changed if path.startswith("identity/") else before)[path]
    assert after.keys() == before.keys()


def test_a_damaged_snapshot_changes_nothing(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    taken = take(state)
    (taken.path / "files" / "limit").write_text("6000000\n")
    change(state)
    before = tree(state)
    with pytest.raises(StateError, match="limit: is not what its manifest says"):
        put_back(state, taken)
    assert tree(state) == before
    assert [snapshot.name for snapshot in snapshots.find(state)] == [taken.name]


@pytest.mark.parametrize("path", ["../outside", "/etc/passwd", "logs/x", "", "identity/../../x"])
def test_a_manifest_leads_nowhere_else(tmp_path: Path, path: str) -> None:
    state = tmp_path / "state"
    new_directory(state)
    taken = take(state)
    manifest = json.loads((taken.path / "manifest").read_bytes()[17:])
    manifest["files"][0]["path"] = path
    (taken.path / "manifest").write_bytes(seal(json.dumps(manifest).encode()))
    with pytest.raises(StateError, match="where no state belongs"):
        snapshots.get(state, taken.name)


def test_an_unknown_snapshot_names_those_that_there_are(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    taken = take(state)
    with pytest.raises(NotFoundError, match=taken.name):
        snapshots.get(state, "../identity")


# -- kill -9 at each step ----------------------------------------------------------------------------------------------


def test_a_snapshot_killed_at_any_step_is_whole_or_not_there(tmp_path: Path) -> None:
    def check(state: Path, code: int) -> None:
        found = snapshots.paths(state)
        assert len(found) in (2, 3)
        assert all(snapshots.check(path) == [] for path in found)
        take(state, keep=2)
        assert len(list((state / "snapshots").iterdir())) == 2

    state = tmp_path / "state"
    new_directory(state)
    take(state)
    take(state)
    # with as many as are kept: one is removed as well
    assert killed_at_each_step(tmp_path / "runs", state, lambda place: _ignored(take(place, keep=2)), check) > 20


def _ignored(result: object) -> None:
    """For a lambda."""


def test_a_restore_killed_at_any_step_has_happened_or_has_not(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    before = tree(state)
    take(state)
    change(state)
    changed = tree(state)

    def check(state: Path, code: int) -> None:
        was_pending = restore.is_pending(state)
        # what every start and every command does first
        layout.enter(state, 5, untold)
        assert not restore.is_pending(state)
        now = tree(state)
        assert now in (changed, before)
        if was_pending or code != KILLED:
            assert now == before
        assert verify(state).problems == []

    def act(state: Path) -> None:
        put_back(state, snapshots.find(state)[-1])

    assert killed_at_each_step(tmp_path / "runs", state, act, check) > 40


def test_an_upgrade_killed_at_any_step_goes_on_at_the_next_start(tmp_path: Path) -> None:
    state = tmp_path / "state"
    old_directory(state)
    before = {path: content for path, (_, content) in tree(state).items()}

    def check(state: Path, code: int) -> None:
        layout.enter(state, 5, untold)
        after = {path: content for path, (_, content) in tree(state).items() if path != "version"}
        assert after == before
        assert layout.read_version(state) == layout.Version(layout.LAYOUT, layout.program())
        first = snapshots.find(state)[-1].manifest
        assert (first.layout, first.reason) == (1, "before-upgrade")

    assert killed_at_each_step(tmp_path / "runs", state, lambda place: layout.enter(place, 5, untold), check) > 20


def test_a_log_whose_writer_is_killed_at_any_step_goes_on(tmp_path: Path) -> None:
    def act(state: Path) -> None:
        recorder = Recorder(state, 2**20)
        for _ in range(3):
            recorder.write("node", "start", text="x" * 1000)

    def check(state: Path, code: int) -> None:
        Recorder(state, 2**20).write("node", "stop")
        assert verify(state).problems == []

    new_directory(tmp_path / "state")
    assert killed_at_each_step(tmp_path / "runs", tmp_path / "state", act, check) > 5


# -- versions ----------------------------------------------------------------------------------------------------------


def manager(tmp_path: Path) -> Daemon:
    return Daemon(tmp_path, {"health": {"interval": "100ms"}})


def dwcp(daemon: Daemon, *arguments: str, code: int = 0) -> str:
    done = run_dwcp(*arguments, "--config", daemon.config_file)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return str(done.stdout if code == 0 else done.stderr)


def test_an_older_directory_is_upgraded_and_its_snapshot_is_the_way_back(tmp_path: Path) -> None:
    daemon = manager(tmp_path)
    state = daemon.state_dir
    old_directory(state)
    before = tree(state)
    fingerprint = load_or_create(state / "identity", "n").fingerprint
    with daemon:
        assert daemon.get("/status")[1]["fingerprint"] == fingerprint
        assert list(daemon.get("/status")[1]["peers"]) == ["b"]
        assert layout.read_version(state) == layout.Version(2, layout.program())
        assert {mode & 0o077 for mode, _ in tree(state).values()} == {0}
        assert not (state / "limit.4194304").exists()
        (name,) = [line.split()[0] for line in dwcp(daemon, "state", "list").splitlines() if "before-upgrade" in line]
        assert "needs the manager to be stopped" in dwcp(daemon, "state", "restore", name, code=7)
        assert daemon.stop() == 0
    upgrades = [json.loads(line) for line in dwcp(daemon, "log", "--json", "--kind", "upgrade").splitlines()]
    assert [(record["event"], record["detail"]["was"]) for record in upgrades] == [("begin", 1), ("end", 1)]
    remember(state, "c", PathMemory(4, 1e7, "cubic"))
    assert "is restored; what was there is kept as" in dwcp(daemon, "state", "restore", name)
    # to the bit and the mode as the older program left it, and it is the older version's again
    assert tree(state) == before
    assert layout.read_version(state) == layout.Version(1, "")
    with daemon:
        assert layout.read_version(state) == layout.Version(2, layout.program())
        assert daemon.get("/status")[1]["fingerprint"] == fingerprint
        assert daemon.stop() == 0


def test_a_newer_directory_is_refused_untouched_until_an_own_snapshot_is_restored(tmp_path: Path) -> None:
    daemon = manager(tmp_path)
    state = daemon.state_dir
    with daemon:
        assert daemon.stop() == 0
    name = dwcp(daemon, "state", "snapshot").strip()
    before = tree(state)
    # what a newer version may do to it
    (state / "version").write_bytes(seal(b'{"layout":3,"program":"3.1.0","more":true}'))
    (state / "leases.db").write_bytes(b"of the newer one")
    (state / "limit").write_text("in another form")
    newer, files = tree(state), sorted(state.rglob("*"))
    done = run_manager("--config", daemon.config_file)
    assert done.returncode == 7
    assert "is of version 3, made by dwcp 3.1.0" in done.stderr
    assert "`dwcp state restore`" in done.stderr
    for command in (("id",), ("limit", "5Mbit/s"), ("send", "/etc/hostname", "b:x"), ("peer", "remove", "b")):
        assert "is of version 3, made by dwcp 3.1.0" in dwcp(daemon, *command, code=7)
    assert (tree(state), sorted(state.rglob("*"))) == (newer, files)
    dwcp(daemon, "state", "restore", name)
    assert tree(state) == before
    with daemon:
        assert daemon.get("/health")[0] == 200
        assert daemon.stop() == 0
    kept = [snapshot for snapshot in snapshots.find(state) if snapshot.manifest.reason == "before-restore"]
    assert [(entry.manifest.layout, entry.manifest.program) for entry in kept] == [(3, "3.1.0")]
    assert {entry.path: snapshots.contents(kept[0], entry) for entry in kept[0].manifest.files} == {
        path: content for path, (_, content) in newer.items()
    }
    assert "restore it with the newer one" in dwcp(daemon, "state", "restore", kept[0].name, code=7)


def test_another_program_version_takes_over_with_a_snapshot(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    (state / "version").write_bytes(seal(b'{"layout":2,"program":"1.9.9"}'))
    layout.bring_up(state, 5, untold)
    (taken,) = snapshots.find(state)
    assert (taken.manifest.reason, taken.manifest.program) == ("before-upgrade", "1.9.9")
    layout.bring_up(state, 5, untold)
    assert len(snapshots.find(state)) == 1


def test_a_damaged_version_is_neither_older_nor_newer(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    whole = (state / "version").read_bytes()
    taken = take(state)
    for at in range(len(whole) - 1):
        damaged = bytearray(whole)
        damaged[at] ^= 1
        (state / "version").write_bytes(damaged)
        with pytest.raises(StateError, match="version is damaged"):
            layout.enter(state, 5, untold)
    put_back(state, taken)
    assert (state / "version").read_bytes() == whole


def test_commands_that_come_at_once_to_an_old_directory_upgrade_it_once(tmp_path: Path) -> None:
    daemon = manager(tmp_path)
    old_directory(daemon.state_dir)
    with ThreadPoolExecutor(4) as pool:
        shown = list(pool.map(lambda _: dwcp(daemon, "id"), range(4)))
    assert len(set(shown)) == 1
    assert len(snapshots.find(daemon.state_dir)) == 1


def test_a_command_does_not_upgrade_under_an_older_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    old_directory(state)
    before = tree(state)
    monkeypatch.setattr(layout, "PATIENCE", 0.1)
    claim = Claim(state)
    try:
        with pytest.raises(StateError, match="another manager"):
            layout.enter(state, 5, untold)
    finally:
        claim.release()
    assert tree(state) == before


# -- verify ------------------------------------------------------------------------------------------------------------


def test_a_whole_directory_has_no_problems_while_a_manager_runs_and_after(tmp_path: Path) -> None:
    with manager(tmp_path) as daemon:
        dwcp(daemon, "state", "snapshot")
        report = json.loads(dwcp(daemon, "state", "verify", "--json"))
        assert report["findings"] == []
        assert report["checked"]["snapshots"] >= 1
        assert daemon.stop() == 0
    assert dwcp(daemon, "state", "verify").startswith("whole: version 1, identity 1")


@pytest.mark.parametrize(
    ("path", "content", "told"),
    [
        ("version", b"2\n", "version is damaged"),
        ("identity/node.key", b"-----BEGIN nothing", "cannot be read"),
        ("identity/node.crt", b"", "cannot be read"),
        ("peers.yaml", b"peers: {b: {fingerprint: short}}", "peers.b.fingerprint"),
        ("peers.yaml", b"\xff\xfe\0", "is binary"),
        ("limit", b"lots", "is no rate"),
        ("paths/b.bbr.json", b"{", "does not count"),
        ("run.json", b"[]", "has no addresses"),
    ],
)
def test_each_damaged_file_is_named(tmp_path: Path, path: str, content: bytes, told: str) -> None:
    state = tmp_path / "state"
    new_directory(state)
    assert verify(state).problems == []
    (state / path).write_bytes(content)
    problems = verify(state).problems
    assert len(problems) == 1
    assert told in problems[0].text
    assert path.split("/")[0] in problems[0].text


def test_a_key_that_others_may_read_or_that_is_gone_is_a_problem(tmp_path: Path) -> None:
    state = tmp_path / "state"
    new_directory(state)
    (state / "identity" / "node.key").chmod(0o644)
    assert ["chmod 600" in finding.text for finding in verify(state).findings] == [True]
    (state / "identity" / "node.key").unlink()
    assert ["restore it from a snapshot" in finding.text for finding in verify(state).findings] == [True]


def test_the_command_ends_with_seven_and_nothing_is_three(tmp_path: Path) -> None:
    daemon = manager(tmp_path)
    assert "there is no state directory" in dwcp(daemon, "state", "verify", code=3)
    assert "there is no state directory" in dwcp(daemon, "state", "snapshot", code=3)
    new_directory(daemon.state_dir)
    assert "there is no transaction log" in dwcp(daemon, "log", code=3)
    assert "no snapshot 'x'" in dwcp(daemon, "state", "restore", "x", code=3)
    (daemon.state_dir / "limit").write_text("lots")
    assert "1 problems in" in dwcp(daemon, "state", "verify", code=7)
