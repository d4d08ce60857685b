"""What `dwcp top` writes, from documents: names that peers chose cannot move the cursor, and tables stay short."""

from __future__ import annotations

from typing import Any

import pytest

from dwcp.cli.top_rows import SHOWN, overall, quoted, rows

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
}
ENDED = {**TRANSFER, "state": "failed", "seconds": 3.0, "rate_bits_per_second": 10, "error": "no space"}


def told(table: str, document: dict[str, Any]) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in rows(table, document).values()]


def test_a_transfer_under_way_and_one_that_failed() -> None:
    ended = {key: value for key, value in ENDED.items() if key not in ("streams", "eta_seconds")}
    running, failed = told("transfers", {"transfers": {"old": ended, "new": TRANSFER}})
    assert running[0] == "running"
    assert running[1].endswith(" 50%")
    assert running[2:] == ["2.0 KiB", "8.0 kbit/s", "4", "2 min", "← b", "inbox/x"]
    assert failed[0] == "failed"
    assert failed[-1] == "inbox/x  no space"


def test_many_transfers_are_cut_and_the_running_ones_are_kept() -> None:
    ended = {key: value for key, value in ENDED.items() if key not in ("streams", "eta_seconds")}
    many = {str(number): {**ended, "started_at": 100.0 + number} for number in range(SHOWN + 50)}
    shown = rows("transfers", {"transfers": {**many, "mine": TRANSFER}})
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
