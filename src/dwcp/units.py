"""Durations, sizes, rates and hours of the week, as people write them and as the program counts them.

Durations are seconds (float), sizes are bytes (int), rates are bits per second (int), times of day are minutes (int),
days are numbers from Monday, 0.
"""

from __future__ import annotations

import re

_DURATION_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_NUMBER = r"(\d{1,18}(?:\.\d+)?)"
"""18 digits: what a 64-bit integer holds; a float of more becomes infinite one day."""
# ASCII, for there are further letters that ignore case like K and s (the Kelvin sign, the long s)
_DURATION_PART = re.compile(_NUMBER + r"(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(_NUMBER + r"\s*([KMGTP]i?)?B?", re.IGNORECASE | re.ASCII)
_RATE = re.compile(_NUMBER + r"\s*([KMGT]i?)?(bit/s|bps|B/s)", re.IGNORECASE | re.ASCII)
_KEEP_RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_DAY_MINUTES = 24 * 60
_DECIMAL = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40, "PI": 2**50}


def parse_duration(text: str) -> float:
    """Seconds in `150ms`, `30s`, `5m`, `1h30m`. Raises ValueError for anything else."""
    parts = _DURATION_PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        raise ValueError(f"{text!r} is no duration; write for example 150ms, 30s, 5m or 24h")
    return sum(float(number) * _DURATION_UNITS[unit] for number, unit in parts)


def parse_size(text: str) -> int:
    """Bytes in `16MiB`, `64 KB`, `4096`. Raises ValueError for anything else."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size; write for example 16MiB, 64KB or a number of bytes")
    return int(float(match[1]) * _prefix(match[2]))


def parse_rate(text: str) -> int:
    """Bits per second in `200Mbit/s`, `1Gbps`, `125MB/s`. Raises ValueError for anything else."""
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no rate; write for example 200Mbit/s, 125MB/s or a number of bits per second")
    # 'bit' and 'byte' differ in the case of one letter (IEC 80000-13): only B/s counts bytes.
    in_bytes = match[3].endswith("B/s")
    return int(float(match[1]) * _prefix(match[2]) * (8 if in_bytes else 1))


def parse_days(text: str) -> frozenset[int]:
    """`mon-fri`, `sat,sun`, `fri-mon`. Raises ValueError."""
    days: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = part.strip().partition("-")
        if first not in _DAYS or (last or first) not in _DAYS:
            raise ValueError(f"{part.strip()!r} is no day of the week; write for example mon-fri or sat,sun")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        days.update((begin + step) % 7 for step in range((end - begin) % 7 + 1))
    return frozenset(days)


def parse_minute(text: str) -> int:
    """Minutes of the day in `08:30`; `24:00` is its end. Raises ValueError."""
    hours, colon, minutes = text.partition(":")
    if not (colon and hours.isdecimal() and minutes.isdecimal() and len(minutes) == 2):
        raise ValueError(f"{text!r} is no time of day; write for example 08:30")
    minute = int(hours) * 60 + int(minutes)
    if minute > _DAY_MINUTES or int(minutes) > 59:
        raise ValueError(f"{text!r} is no time of day; write for example 08:30")
    return minute


def parse_keep(text: str) -> dict[str, int]:
    """Versions to keep by rule, in `last 5, daily 7, weekly 4`; `all` is no rule. Raises ValueError."""
    if text.strip() == "all":
        return {}
    rules: dict[str, int] = {}
    for part in text.split(","):
        rule, _, count = part.strip().partition(" ")
        count = count.strip()
        if rule not in _KEEP_RULES or rule in rules or not (count.isascii() and count.isdecimal()) or len(count) > 5:
            raise ValueError(
                f"{part.strip()!r} is no rule of what to keep; write all, or some of "
                f"{', '.join(f'{name} N' for name in _KEEP_RULES)}"
            )
        rules[rule] = int(count)
    if not any(rules.values()):
        raise ValueError(f"{text!r} keeps nothing; keep at least one version")
    return rules


def parse_percent(text: str) -> float | None:
    """The share, 0 to 1, in `25%`; None for what has no percent sign. Raises ValueError."""
    if not text.strip().endswith("%"):
        return None
    number = text.strip()[:-1].strip()
    if not re.fullmatch(r"\d{1,3}(?:\.\d+)?", number, re.ASCII) or not 0 < float(number) <= 100:
        raise ValueError(f"{text!r} is no share; write a percentage from 1% to 100%")
    return float(number) / 100


def _prefix(text: str | None) -> int:
    key = (text or "").upper()
    return _BINARY[key] if key in _BINARY else _DECIMAL[key]


def format_size(size: float) -> str:
    """`1.5 MiB`: binary prefixes, at most four digits."""
    for prefix in ("", "Ki", "Mi", "Gi", "Ti"):
        if abs(size) < 1024:
            return f"{size:.0f} B" if not prefix else f"{size:.1f} {prefix}B"
        size /= 1024
    return f"{size:.1f} PiB"


def format_rate(bits_per_second: float) -> str:
    """`940.2 Mbit/s`: decimal prefixes, as links are sold."""
    for prefix in ("", "k", "M", "G"):
        if abs(bits_per_second) < 1000:
            return f"{bits_per_second:.1f} {prefix}bit/s"
        bits_per_second /= 1000
    return f"{bits_per_second:.1f} Tbit/s"


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads back: `150ms`, `30s`, `5m`, `24h`."""
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count = seconds / _DURATION_UNITS[unit]
        # a day is written as 24h: operators read hours up to two days
        if unit == "d" and count < 2:
            continue
        if count >= 1 and abs(count - round(count)) < 1e-9:
            return f"{round(count)}{unit}"
    return f"{seconds:g}s"
