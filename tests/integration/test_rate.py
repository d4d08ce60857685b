"""One sending rate for all processes of a node: what each link gets, `dwcp limit`, the timetable."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dwcp.config import Config, dump_config, load_config
from dwcp.errors import ConfigError
from dwcp.store.shared_rate import OFF, SharedRate, read_limit, write_limit
from dwcp.transfer.node import configured_rate
from dwcp.transfer.pacing import Pacer
from tests.processes import run_dwcp
from tests.support import Pair, random_file, wait_until


class Paced:
    """Stands in for a link: remembers its pace."""

    def __init__(self) -> None:
        self.pace: int | None = 0

    def set_pacing(self, bits_per_second: int | None) -> None:
        self.pace = bits_per_second


@pytest.fixture
def rate() -> list[int | None]:
    """One entry, to be changed by the test."""
    return [90_000_000]


@pytest.fixture
def pacer(rate: list[int | None], tmp_path: Path) -> Pacer:
    return Pacer(lambda: rate[0], SharedRate(tmp_path))


def test_links_share_the_rate_and_may_have_less_of_their_own(pacer: Pacer, rate: list[int | None]) -> None:
    links = [Paced() for _ in range(3)]
    for link in links:
        pacer.add(link)  # type: ignore[arg-type]
    assert [link.pace for link in links] == [30_000_000] * 3
    pacer.limit(links[:2], 20_000_000)  # type: ignore[arg-type]
    assert [link.pace for link in links] == [10_000_000, 10_000_000, 30_000_000]
    rate[0] = None
    pacer.refresh()
    assert [link.pace for link in links] == [10_000_000, 10_000_000, None]
    for link in links:
        pacer.remove(link)  # type: ignore[arg-type]


def test_processes_of_a_node_share_it_and_one_that_was_killed_counts_no_more(pacer: Pacer, tmp_path: Path) -> None:
    other = subprocess.Popen(
        [sys.executable, "-c", _OTHER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "sending\n"
        link = Paced()
        pacer.add(link)  # type: ignore[arg-type]
        assert link.pace == 30_000_000
        other.kill()
        other.wait()
        pacer.refresh()
        assert link.pace == 90_000_000
        pacer.remove(link)  # type: ignore[arg-type]


_OTHER = """
import sys
from pathlib import Path
from dwcp.store.shared_rate import SharedRate
shared = SharedRate(Path(sys.argv[1]))
shared.announce(2)
print("sending", flush=True)
sys.stdin.read()
"""


def test_a_seat_is_given_up_when_nothing_is_sent_any_more(pacer: Pacer, tmp_path: Path) -> None:
    link = Paced()
    pacer.add(link)  # type: ignore[arg-type]
    assert len(list((tmp_path / "senders").iterdir())) == 1
    pacer.remove(link)  # type: ignore[arg-type]
    wait_until(lambda: not list((tmp_path / "senders").iterdir()), "the seat is given up")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a directory that its user cannot write is hard to have")
def test_without_a_state_directory_the_rate_is_still_kept(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    pacer = Pacer(lambda: 10_000_000, SharedRate(tmp_path / "state"))
    link = Paced()
    pacer.add(link)  # type: ignore[arg-type]
    assert link.pace == 10_000_000
    pacer.remove(link)  # type: ignore[arg-type]


def test_a_limit_holds_for_the_node_whatever_is_configured(pair: Pair, tmp_path: Path) -> None:
    node = pair.server.node
    assert node.rate_now() is None
    state_dir = Path(pair.server_config.storage.state_dir)
    write_limit(state_dir, 5_000_000)
    assert node.rate_now() == 5_000_000
    assert pair.server.sockets().settings["pacing_rate"].startswith("5.0 Mbit/s")
    write_limit(state_dir, OFF)
    assert node.rate_now() is None
    write_limit(state_dir, None)
    assert read_limit(state_dir) is None
    for text in (b"", b"-3\n", b"lots", b"\xff", b"0"):
        (state_dir / "limit").write_bytes(text)
        assert read_limit(state_dir) is None


def test_a_limited_transfer_takes_its_time(pair: Pair, tmp_path: Path) -> None:
    random_file(tmp_path / "file", 1_500_000)
    write_limit(Path(pair.config.storage.state_dir), 8_000_000)
    result = pair.send(tmp_path / "file", "inbox/file")
    # 12 Mbit at 8 Mbit/s; what the kernel lets through at once is less than half of it
    assert result.seconds > 0.7


def test_the_command_sets_shows_and_lifts_it(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"storage: {{state_dir: {tmp_path / 'state'}}}\n")
    (tmp_path / "state").mkdir()
    for argument, shown in (
        ([], "as configured"),
        (["200Mbit/s"], "200.0 Mbit/s"),
        ([], "200.0 Mbit/s"),
        (["off"], "no limit"),
        (["auto"], "as configured"),
    ):
        done = run_dwcp("limit", "--config", config, *argument)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(shown)
    for wrong in ("fast", "1kbit/s", "-5"):
        done = run_dwcp("limit", "--config", config, "--", wrong)
        assert done.returncode == 2
        assert "Traceback" not in done.stderr
    gone = tmp_path / "gone.yaml"
    gone.write_text(f"storage: {{state_dir: {tmp_path / 'nowhere'}}}\n")
    assert run_dwcp("limit", "--config", gone, "5Mbit/s").returncode == 7


TIMETABLE = """
transport:
  pacing_rate: 1Gbit/s
  pacing_timetable:
    - {days: "mon-fri", begin: "08:00", end: "18:00", rate: 100Mbit/s}
    - {days: fri-sun, begin: "22:00", end: "06:00", rate: 5Gbit/s}
"""


def timetable(tmp_path: Path, text: str = TIMETABLE) -> Config:
    (tmp_path / "c.yaml").write_text(text)
    return load_config([tmp_path / "c.yaml"])


@pytest.mark.parametrize(
    ("day", "hour", "rate"),
    [
        (0, 7.99, 10**9),
        (0, 8, 10**8),
        (4, 17.99, 10**8),
        (4, 18, 10**9),
        (5, 12, 10**9),
        (4, 22, 5 * 10**9),
        (5, 5.99, 5 * 10**9),
        (0, 5.99, 5 * 10**9),
        (1, 5, 10**9),
    ],
)
def test_hours_have_rates_of_their_own(tmp_path: Path, day: int, hour: float, rate: int) -> None:
    assert configured_rate(timetable(tmp_path), day, int(hour * 60)) == rate


def test_without_pacing_there_is_no_timetable(tmp_path: Path) -> None:
    config = timetable(tmp_path, TIMETABLE + "  enable_pacing: false\n")
    assert configured_rate(config, 0, 9 * 60) is None


def test_a_timetable_is_printed_as_it_is_read(tmp_path: Path) -> None:
    config = timetable(tmp_path)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config([tmp_path / "again.yaml"]).transport == config.transport


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("{days: mo, rate: 5Mbit/s}", "transport.pacing_timetable.0.days: found 'mo'; 'mo' is no day of the week"),
        ('{begin: "25:00", rate: 5Mbit/s}', "transport.pacing_timetable.0.begin: found '25:00'"),
        ('{end: "8", rate: 5Mbit/s}', "transport.pacing_timetable.0.end: found '8'"),
        ("{begin: 08:00}", "transport.pacing_timetable.0.rate: is missing; allowed: 1Mbit/s to 1Tbit/s"),
        ("{rat: 5Mbit/s, rate: 5Mbit/s}", "transport.pacing_timetable.0.rat: unknown key; did you mean rate?"),
    ],
)
def test_what_is_wrong_in_a_timetable_is_named(tmp_path: Path, entry: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        timetable(tmp_path, f"transport:\n  pacing_timetable:\n    - {entry}\n")
    assert words in "\n".join(caught.value.problems)
    assert str(tmp_path / "c.yaml") in caught.value.problems[0]
