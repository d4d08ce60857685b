"""`dwcp peer`: what is added is known from then on, also to the manager that runs; the configuration goes before."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from dwcp.config import Config
from dwcp.config.model import PeerSection
from dwcp.errors import ConfigError, NotFoundError, StateError, UsageError
from dwcp.manager.statedir import tell_to_reload
from dwcp.store.claim import Claim
from dwcp.store.identity import load_or_create
from dwcp.store.peers import add_peer, added_peers, origins, remove_peer, with_added
from tests.processes import Daemon, run_dwcp, run_manager
from tests.support import Pair, wait_until

ONE, TWO = ("sha256:" + digit * 64 for digit in "12")


def config(state_dir: Path, **peers: dict[str, str]) -> Config:
    return Config.model_validate({"storage": {"state_dir": str(state_dir)}, "peers": peers})


def section(fingerprint: str = ONE, address: str = "host:9000") -> PeerSection:
    return PeerSection(address=address, fingerprint=fingerprint)


def test_what_is_added_is_below_the_configuration(tmp_path: Path) -> None:
    plain = config(tmp_path)
    assert with_added(plain) == plain
    assert add_peer(plain, "b", section())
    assert not add_peer(plain, "b", section()), "the same once more is no mistake"
    assert with_added(plain).peers == {"b": section()}
    above = config(tmp_path, b={"fingerprint": TWO}, c={"fingerprint": "sha256:" + "3" * 64})
    assert with_added(above).peers["b"] == PeerSection(fingerprint=TWO), "not mixed with the address that was added"
    assert origins(above) == {"b": "configuration", "c": "configuration"}
    assert origins(plain) == {"b": str(tmp_path / "peers.yaml")}
    assert (tmp_path / "peers.yaml").stat().st_mode & 0o777 == 0o600
    remove_peer(above, "b")
    assert with_added(plain) == plain


def test_the_library_knows_what_was_added_whatever_its_configuration(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    bare = pair.config.model_copy(update={"peers": {}})
    with pytest.raises(NotFoundError, match="no peer 'b'"):
        pair.do(lambda peer: peer.ping(), bare)
    add_peer(bare, "b", pair.config.peers["b"])
    assert pair.do(lambda peer: peer.ping(), bare) > 0
    pair.close()


def test_a_peer_known_by_its_certificate_can_be_added(tmp_path: Path) -> None:
    """It needs no authority to be read, or removing the authority would make every command fail."""
    plain = config(tmp_path)
    with pytest.raises(UsageError, match=r"needs security\.ca_file"):
        add_peer(plain, "b", section("ca"))
    signed = Config.model_validate({"storage": {"state_dir": str(tmp_path)}, "security": {"ca_file": "/ca.pem"}})
    assert add_peer(signed, "b", section("ca"))
    assert add_peer(signed, "c", section("ca")), "several may be"
    assert with_added(signed).peers == with_added(plain).peers == {"b": section("ca"), "c": section("ca")}
    remove_peer(plain, "b")
    assert list(with_added(plain).peers) == ["c"]


def test_what_cannot_be_added_or_removed_says_why(tmp_path: Path) -> None:
    known = config(tmp_path, b={"fingerprint": TWO})
    with pytest.raises(UsageError, match="'b' is in the configuration, which goes before"):
        add_peer(known, "b", section())
    with pytest.raises(UsageError, match="known already, as peer 'b'"):
        add_peer(known, "c", section(TWO))
    add_peer(known, "c", section())
    with pytest.raises(UsageError, match=r"'c' is known already \(host:9000, sha256:1+\); .*`dwcp peer remove c`"):
        add_peer(known, "c", section("sha256:" + "4" * 64))
    with pytest.raises(UsageError, match="remove it there"):
        remove_peer(known, "b")
    with pytest.raises(NotFoundError, match="no peer 'x' was added; there are: c"):
        remove_peer(known, "x")
    with pytest.raises(StateError, match="cannot use the state directory"):
        add_peer(config(tmp_path / "none"), "c", section())


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("peers: {b: {address: here}}", ":1:13: peers.b.address: found 'here'"),
        ("peers: {b: {fingerprint: x}}\n", ":1:13: peers.b.fingerprint: found 'x'"),
        ("transport: {}\n", ":1:1: transport: only peers belong into this file"),
        ("peers: [", ":2:1: is no YAML"),
    ],
)
def test_a_damaged_file_is_named_with_its_place(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "peers.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        with_added(config(tmp_path))
    assert any(f"{tmp_path}/peers.yaml{problem}" in line for line in caught.value.problems), caught.value.problems


def test_commands_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    def add(number: int) -> None:
        add_peer(config(tmp_path), f"n{number}", section(f"sha256:{number:064x}"))

    threads = [threading.Thread(target=add, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(added_peers(tmp_path / "peers.yaml")) == 16


def test_a_running_manager_takes_peers_over(tmp_path: Path) -> None:
    stranger = load_or_create(tmp_path / "other", "other")
    with Daemon(tmp_path) as daemon:
        files = ("--config", daemon.config_file)
        done = run_dwcp("peer", "add", "other", "127.0.0.1:1", stranger.fingerprint, *files)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"the running manager (pid {daemon.running.pid}) takes it over" in done.stdout
        assert f"dwcp peer add n HOST:PORT {daemon.get('/status')[1]['fingerprint']}" in done.stdout
        wait_until(lambda: "other" in daemon.get("/status")[1]["peers"], "the manager knows it")
        (listed,) = run_dwcp("peer", "list", "--json", *files).stdout.splitlines()
        assert json.loads(listed) == {
            "name": "other",
            "address": "127.0.0.1:1",
            "fingerprint": stranger.fingerprint,
            "source": str(daemon.state_dir / "peers.yaml"),
        }
        printed = run_manager("--print-config", *files).stdout
        assert f"# peers.other: from {daemon.state_dir}/peers.yaml" in printed.splitlines()
        assert yaml.safe_load(printed)["peers"]["other"]["fingerprint"] == stranger.fingerprint
        assert run_dwcp("peer", "remove", "other", *files).returncode == 0
        wait_until(lambda: not daemon.get("/status")[1]["peers"], "the manager has forgotten it")
        assert daemon.stop() == 0
    assert "no manager runs here" in tell_to_reload(daemon.state_dir)


def test_a_process_that_would_not_survive_the_signal_gets_none(tmp_path: Path) -> None:
    """A library user's own process, without a handler; and one that merely has the number of a manager of old."""
    code = f"""
import pathlib, signal, sys
from dwcp.store.claim import Claim
signal.signal(signal.SIGHUP, signal.SIG_DFL)
claim = Claim(pathlib.Path({str(tmp_path)!r}))
print("claimed", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"claimed\n"
        assert f"(pid {other.pid}) does not listen to signals" in tell_to_reload(tmp_path)
        assert other.poll() is None
        assert other.stdin is not None
        other.stdin.close()
        assert other.wait(20) == 0
    (tmp_path / "lock").write_text(f"{os.getpid()}\n")
    assert "no manager runs here" in tell_to_reload(tmp_path)
    claim = Claim(tmp_path)
    assert "does not listen" in tell_to_reload(tmp_path)
    claim.release()


def cli_config(tmp_path: Path, **more: Any) -> Path:
    file = tmp_path / "cli.yaml"
    file.write_text(yaml.safe_dump({"node": {"name": "c"}, "storage": {"state_dir": str(tmp_path / "c")}, **more}))
    return file


@pytest.mark.parametrize("security", ["auto", "always"])
def test_trust_on_first_use_only_when_asked(tmp_path: Path, security: str) -> None:
    pair = Pair(tmp_path, security={"tls": security})
    file = cli_config(tmp_path, security={"tls": security})
    address = f"127.0.0.1:{pair.port}"
    refused = run_dwcp("peer", "add", "b", address, "--config", file)
    assert (refused.returncode, "--trust-first-use" in refused.stderr) == (2, True)
    done = run_dwcp("peer", "add", "b", address, "--trust-first-use", "--config", file)
    assert done.returncode == 0, done.stderr
    assert f"found at {address}: node b, fingerprint {pair.identities['b'].fingerprint}" in done.stdout
    assert "no manager runs here" in done.stdout
    assert added_peers(tmp_path / "c" / "peers.yaml")["b"].fingerprint == pair.identities["b"].fingerprint
    stranger = run_dwcp("ping", "b", "--config", file)
    assert stranger.returncode == 7, "that we trust it does not make it trust us"
    assert "does not know your fingerprint" in stranger.stderr
    pair.close()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["b", "host", ONE], "address: found 'host'; allowed: HOST:PORT"),
        (
            ["b", "host:1", "sha256:12"],
            "fingerprint: found 'sha256:12'; allowed: sha256: and 64 hexadecimal",
        ),
        (["b/c", "host:1", ONE], "'b/c' cannot be a name"),
        (["b", "host:1", ONE, "--trust-first-use"], "one of the two"),
    ],
)
def test_bad_arguments(tmp_path: Path, arguments: list[str], problem: str) -> None:
    done = run_dwcp("peer", "add", *arguments, "--config", cli_config(tmp_path))
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "c" / "peers.yaml").exists()


def test_a_node_is_no_peer_of_its_own(tmp_path: Path) -> None:
    own = load_or_create(tmp_path / "c" / "identity", "c").fingerprint
    done = run_dwcp("peer", "add", "b", "host:1", own, "--config", cli_config(tmp_path))
    assert (done.returncode, "of this node itself" in done.stderr) == (2, True)


def test_a_peer_that_only_connects_needs_no_address(tmp_path: Path) -> None:
    stranger = load_or_create(tmp_path / "other", "other")
    state = ("--set", f"storage.state_dir={tmp_path / 'state'}")
    done = run_dwcp("peer", "add", "other", "-", "--trust-first-use", *state)
    assert done.returncode == 2 and "cannot be asked for a fingerprint" in done.stderr
    assert run_dwcp("peer", "add", "other", "-", stranger.fingerprint, *state).returncode == 0
    assert f"other  no address  {stranger.fingerprint}" in run_dwcp("peer", "list", *state).stdout
    assert "has no address" in run_dwcp("ping", "other", *state).stderr
