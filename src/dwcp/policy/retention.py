"""Which versions stay.

The rule is that of borg and restic: `daily 7` keeps the newest version of each of the last seven days that have one,
and so on for the other periods; a version stays when one of the rules wants it. Periods are those of UTC, so that two
sites agree. The newest version always stays.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping, Sequence

PERIODS: Mapping[str, Callable[[datetime.datetime], tuple[int, ...]]] = {
    "hourly": lambda when: (when.year, when.month, when.day, when.hour),
    "daily": lambda when: (when.year, when.month, when.day),
    "weekly": lambda when: when.isocalendar()[:2],
    "monthly": lambda when: (when.year, when.month),
    "yearly": lambda when: (when.year,),
}


def kept(times: Sequence[datetime.datetime], keep: Mapping[str, int]) -> set[int]:
    """Indexes of the versions that stay. `times`: when each was made (aware); `keep`: as `units.parse_keep` gives it,
    empty for all."""
    newest_first = sorted(range(len(times)), key=lambda index: (times[index], index), reverse=True)
    if not keep:
        return set(newest_first)
    stay = set(newest_first[: max(1, keep.get("last", 0))])
    for rule, period in PERIODS.items():
        wanted = keep.get(rule, 0)
        seen: set[tuple[int, ...]] = set()
        for index in newest_first:
            if len(seen) == wanted:
                break
            slot = period(times[index].astimezone(datetime.UTC))
            if slot not in seen:
                seen.add(slot)
                stay.add(index)
    return stay
