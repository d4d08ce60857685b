"""What `dwcp top` writes, from documents: names that peers chose cannot move the cursor, and tables stay short."""

from __future__ import annotations

from typing import Any

import pytest

from dwcp.cli.top_rows import SHOWN, overall, placed, quoted, rows, versions

TRANSFER: dict[str, Any] = {
    "role": "receive",
    "peer": "b",
    "target": "inbox/x",
    "state": "running",
    "started_at": 1.0,
    "files_total": 1,
    "files_done": 0,
    "bytes_total": 2048,
    "bytes_done": 1024,
    "wire_bytes": 1024,
    "wire_bits_per_second": 8000,
    "streams": 4,
    "eta_seconds": 150,
    "eta_range_seconds": [130, 400],
}
NOW = 100_000.0
ENDED = {**TRANSFER, "state": "failed", "seconds": 3.0, "rate_bits_per_second": 10, "error": "no space"}


def told(table: str, document: dict[str, Any]) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in rows(table, document, NOW).values()]


def test_a_transfer_under_way_and_one_that_failed() -> None:
    ended = {key: value for key, value in ENDED.items() if key not in ("streams", "eta_seconds")}
    running, failed = told("transfers", {"transfers": {"old": ended, "new": TRANSFER}})
    assert running[0] == "running"
    assert running[1].endswith(" 50%")
    assert running[2:] == ["2.0 KiB", "8.0 kbit/s", "4", "2 min to 7 min", "← b", "inbox/x"]
    assert failed[0] == "failed"
    assert failed[-1] == "inbox/x  no space"


def test_a_paused_transfer_has_no_end_in_sight() -> None:
    paused = {key: value for key, value in TRANSFER.items() if not key.startswith("eta")} | {"paused": True}
    (row,) = told("transfers", {"transfers": {"t": paused}})
    assert (row[0], row[5]) == ("paused", "")
    (even,) = told("transfers", {"transfers": {"t": {**TRANSFER, "eta_range_seconds": [160, 170]}}})
    assert even[5] == "3 min"


def test_a_workload_is_told_for_each_target() -> None:
    common = {"source": "/srv/db", "enabled": True, "paused": False, "on_change": False}
    document = {
        "workloads": {
            "db": {
                **common,
                "max_age": 7200,
                "since": 1,
                "next_run_at": NOW + 600,
                "targets": {
                    "b:inbox/db": {"sent_at": NOW - 60, "version": "v1"},
                    "c:inbox/db": {"sent_at": NOW - 10_000, "damaged": 2},
                    "d:inbox/db": {},
                },
            },
            "off": {**common, "paused": True, "targets": {"b:x": {}}},
            "plain": {**common, "targets": {"b:y": {"sent_at": NOW - 5}, "b:z": {}}},
        }
    }
    assert told("workloads", document) == [
        ["db", "fresh", "60 s", "2 h", "v1", "in 10 min", "b:inbox/db", ""],
        ["db", "stale", "3 h", "2 h", "", "in 10 min", "c:inbox/db", "2"],
        ["db", "stale", "", "2 h", "", "in 10 min", "d:inbox/db", ""],
        ["off", "paused", "", "", "", "", "b:x", ""],
        ["plain", "", "5 s", "", "", "", "b:y", ""],
        ["plain", "not there yet", "", "", "", "", "b:z", ""],
    ]
    assert [placed(key) for key in rows("workloads", document, NOW)][1] == ("db", "c:inbox/db")
    assert told("workloads", {}) == []


def test_jobs_are_told_in_the_order_in_which_people_look() -> None:
    job = {"kind": "send", "source": "/srv/x", "target": "b:inbox/x", "priority": 5}
    jobs = {
        "10": {**job, "state": "waiting"},
        "9": {**job, "state": "waiting", "not_before": NOW + 20, "attempts": 2, "reason": "no"},
        "8": {**job, "state": "parked", "workload": "db", "reason": "\x1b[2J"},
        "11": {**job, "state": "waiting", "priority": 9},
        "12": {**job, "state": "running"},
    }
    shown = told("jobs", {"jobs": {"first": jobs}})
    assert [row[0] for row in shown] == ["12", "8", "11", "9", "10"]
    assert shown[1][:5] == ["8", "parked", "send", "db", "b:inbox/x"]
    assert shown[1][7].isprintable()
    assert shown[3][5:] == ["2", "20 s", "no"]


def test_versions_are_told_with_their_commands() -> None:
    version = {"id": "v1", "files": 2, "bytes": 2048, "new_bytes": 1024, "damaged": 0, "restore": "dwcp restore v1"}
    newer = {**version, "id": "v2", "damaged": 1, "restore": "dwcp restore v2"}
    text = versions("db", "b:inbox/db", [version, newer])
    assert text.index("v2  2 files, 2.0 KiB, 1.0 KiB new, 1 damaged\n  dwcp restore v2") < text.index("v1  2 files")
    assert versions("db", "b:inbox/db", []).endswith("none yet")


def test_many_transfers_are_cut_and_the_running_ones_are_kept() -> None:
    ended = {key: value for key, value in ENDED.items() if key not in ("streams", "eta_seconds")}
    many = {str(number): {**ended, "started_at": 100.0 + number} for number in range(SHOWN + 50)}
    shown = rows("transfers", {"transfers": {**many, "mine": TRANSFER}}, NOW)
    assert len(shown) == SHOWN
    assert next(iter(shown)) == "mine"


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "\udcff", "\u202e"])
def test_names_cannot_move_the_cursor(name: str) -> None:
    document = {
        "transfers": {"t": {**TRANSFER, "peer": name, "target": name}},
        "peers": {name: {"address": name, "breaker": {"state": "open", "failures": 1, "trips": 1, "reason": name}}},
        "components": {},
    }
    for table in ("transfers", "peers"):
        for cell in (cell for row in told(table, document) for cell in row):
            assert cell.isprintable()
            cell.encode()


def test_traffic_with_a_peer_is_that_of_its_transfers() -> None:
    document = {"transfers": {"t": TRANSFER, "u": TRANSFER}, "peers": {"b": {}, "c": {"round_trip_milliseconds": 1.5}}}
    assert [row[:4] for row in told("peers", document)] == [
        ["b", "none", "not reached", "16.0 kbit/s"],
        ["c", "none", "1.5 ms", "0.0 bit/s"],
    ]


def test_the_head_says_what_is_wrong() -> None:
    document = {
        "node": {"name": "n", "started_at": 0},
        "health": {"status": "degraded", "reason": "a circuit breaker is open"},
        "transport": {
            "sent_bits_per_second": 0,
            "received_bits_per_second": 0,
            "limit_bits_per_second": 10**6,
            "limited_by_operator": True,
        },
    }
    assert str(overall(document, "", 7200.0)).splitlines() == [
        "n  degraded  up 2 h  a circuit breaker is open",
        "sent 0.0 bit/s  received 0.0 bit/s  limit 1.0 Mbit/s (set by hand)",
    ]
    assert "not connected" in str(overall(document, "not connected", 0.0))
    assert str(overall({}, "connecting", 0.0)).strip() == "connecting"


def test_ids_are_safe_in_addresses() -> None:
    assert quoted("a/b?c#ä") == "a%2Fb%3Fc%23%C3%A4"
