"""The runbook's configuration loads; everything wrong is named, all at once, with its place."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from dwcp.config import Config, changed_keys, dump_config, load_config, model, needs_restart, parse_overrides, summary
from dwcp.config.reference import reference
from dwcp.errors import ConfigError

DATA = Path(__file__).parent.parent / "data"
PROFILES = ("throughput", "latency", "constrained")


def problems(tmp_path: Path, text: str | bytes) -> list[str]:
    path = tmp_path / "c.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as caught:
        load_config([path])
    return [line.replace(str(path), "c") for line in caught.value.problems]


def test_the_runbooks_yaml_loads_verbatim() -> None:
    config = load_config([DATA / "runbook.yaml"])
    assert config.transport.connect_timeout == 30.0
    assert config.transport.pacing_rate == 1_000_000_000
    assert config.compression.dictionary_update_interval == 86400.0
    assert config.consensus.election_timeout == 0.15
    assert config == load_config([]).model_copy(
        update={section: getattr(config, section) for section in ("node", "storage")}
    ), "the runbook's values are the defaults"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_tuning_profiles_merge_over_it(profile: str) -> None:
    config = load_config([DATA / "runbook.yaml", DATA / f"profile-{profile}.yaml"])
    wanted = {"throughput": (512, "bbr"), "latency": (256, "reno"), "constrained": (64, "bbr")}[profile]
    assert (config.transport.max_streams, config.transport.congestion_algorithm) == wanted


def test_all_problems_are_told_at_once_with_their_places(tmp_path: Path) -> None:
    lines = problems(
        tmp_path,
        'transport:\n  max_strems: 3\n  min_streams: 0\n  connect_timeout: 30\n  enable_ecn: "yes"\n'
        "  pacing_rate: fast\nsync:\n  enabled: 1\npeers:\n  b: {address: here}\n",
    )
    assert [line.split(";")[0] for line in lines] == [
        "c:2:3: transport.max_strems: unknown key",
        "c:3:3: transport.min_streams: found 0",
        "c:4:3: transport.connect_timeout: found 30",
        "c:5:3: transport.enable_ecn: found 'yes', which is text",
        "c:6:3: transport.pacing_rate: found 'fast'",
        "c:8:3: sync.enabled: found 1",
        "c:10:3: peers.b.fingerprint: is missing",
        "c:10:7: peers.b.address: found 'here'",
    ]
    assert "did you mean max_streams?" in lines[0]
    assert "allowed: 1 to 256" in lines[1]
    assert "write a duration with its unit" in lines[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2", "c:2:1: a: given twice, first in line 1"),
        ("\tx: 1", "a tab cannot indent YAML"),
        ("transport:\n\tmin_streams: 1", "a tab cannot indent YAML"),
        ("- a", "a configuration is a mapping"),
        ("text", "a configuration is a mapping"),
        ("a: {b: [", "is no YAML"),
        ("a: *x", "is no YAML|no anchor"),
        ("a: &a [*a]", "too large once its aliases are followed"),
        ("a: 1\n---\nb: 1", "a second document begins"),
        (b"a: \xff\xfe", "is not UTF-8"),
        (b"\x00\x01", "is binary"),
        ("a: " + "[" * 50 + "]" * 50, "nested deeper"),
        ("? [x]\n: y", "a key must be plain text"),
        ("x" * 2_000_000, "is larger than"),
        ("transport: 3", "a section of keys belongs here"),
        ("http: {listen: '127.0.0.1:99999'}", "ports go up to 65535"),
        ("http: {listen: '1.2.3.4:80', tls_listen: '1.2.3.4:80'}", "give them different ports"),
        ("security: {tls: never}", "needs transport.listen on a loopback address"),
        ("storage: {state_dir: /a/b, exports: {x: {path: /a}}}", "contain each other"),
        ("transport: {min_streams: 20, initial_streams: 17}", "min_streams <= initial_streams <= max_streams"),
        ("version: '3.0'", "allowed: 2.0"),
    ],
)
def test_what_is_wrong_is_one_clear_line(tmp_path: Path, text: str | bytes, words: str) -> None:
    lines = problems(tmp_path, text)
    assert any(any(word in line for word in words.split("|")) for line in lines), lines
    assert all("\n" not in line for line in lines)


def test_a_billion_laughs_end_early(tmp_path: Path) -> None:
    text = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
    )
    assert "too large once its aliases are followed" in problems(tmp_path, text)[0]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([tmp_path, tmp_path / "none"])
    assert caught.value.problems == [f"{tmp_path}: is a directory; name a file", f"{tmp_path / 'none'}: no such file"]


def test_environment_overrides_files_and_flags_override_both(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("transport: {max_streams: 100, read_timeout: 5s}")
    environ = {"DWCP_TRANSPORT__MAX_STREAMS": "64", "DWCP_CONFIG": "ignored", "OTHER": "x"}
    assert load_config([path], environ).transport.max_streams == 64
    config = load_config([path], environ, parse_overrides(["transport.max_streams=65"]))
    assert (config.transport.max_streams, config.transport.read_timeout) == (65, 5.0)
    with pytest.raises(ConfigError, match="environment DWCP_TRANSPORT__MAX_STREAMS: transport.max_streams: found 8"):
        load_config([], {"DWCP_TRANSPORT__MAX_STREAMS": "8"})
    with pytest.raises(ConfigError, match="--set transport.x: transport.x: unknown key"):
        load_config([], {}, {"transport.x": "1"})
    with pytest.raises(ConfigError, match="write KEY=VALUE"):
        parse_overrides(["transport"])


def test_an_unset_initial_count_follows_the_limits(tmp_path: Path) -> None:
    assert load_config([], {}, {"transport.max_streams": "16"}).transport.initial_streams == 16
    assert load_config([], {}, {"transport.min_streams": "40"}).transport.initial_streams == 40


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("transport: &t {max_streams: 99, <<: {min_streams: 3}}\nnode: {name: n}\n")
    transport = load_config([path]).transport
    assert (transport.max_streams, transport.min_streams) == (99, 3)


def test_a_dump_loads_to_the_same(tmp_path: Path) -> None:
    for files in ([], [DATA / "runbook.yaml", DATA / "profile-constrained.yaml"]):
        config = load_config(files)
        (tmp_path / "dump.yaml").write_text(dump_config(config))
        assert load_config([tmp_path / "dump.yaml"]) == config


def test_what_applies_live() -> None:
    old = Config()
    new = load_config(
        [], {}, {"transport.pacing_rate": "5Mbit/s", "transport.listen": ":9999", "node.log_level": "debug"}
    )
    assert changed_keys(old, new) == ["node.log_level", "transport.listen", "transport.pacing_rate"]
    assert [needs_restart(key) for key in changed_keys(old, new)] == [False, True, False]
    assert needs_restart("http.listen")
    assert needs_restart("transport.rdma_port")
    assert not needs_restart("peers.x.address")


def test_the_summary_says_what_will_run() -> None:
    lines = "\n".join(summary(load_config([DATA / "runbook.yaml", DATA / "profile-throughput.yaml"])))
    assert "512 streams" in lines
    assert "paced to 10.0 Gbit/s" in lines
    assert "blocks go over RDMA (mlx5_0, port 1), unencrypted; TCP takes over where it cannot" in lines


def test_the_reference_is_up_to_date() -> None:
    page = Path(__file__).parent.parent.parent / "docs" / "configuration.md"
    assert page.read_text() == reference(), "run `make docs`"


def test_the_system_directory_is_for_root_and_for_the_user_who_may_write_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service that runs as its own user, as in the runbook's unit, has no home."""
    monkeypatch.setattr(model, "SYSTEM_STATE_DIR", str(tmp_path / "system"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert model.default_state_dir() == str(tmp_path / "xdg" / "dwcp")
    (tmp_path / "system").mkdir()
    assert model.default_state_dir() == str(tmp_path / "system")
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert model.default_state_dir() == str(tmp_path / "xdg" / "dwcp")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert model.default_state_dir() == str(tmp_path / "system")
