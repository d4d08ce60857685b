"""How many descriptors this process has open, and what for.

Neither may need one of its own, because they are asked when there is none left: counting reads the size of
/proc/self/fd (Linux 6.2: the number of open files; fs/proc/fd.c), looking reads links by number.
"""

from __future__ import annotations

import contextlib
import errno
import resource
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_FD = "/proc/self/fd"
_TCP = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
MOST = 65536
"""Numbers that are looked at, some 50 ms: as many as a manager asks for."""


@dataclass(frozen=True, slots=True)
class Descriptors:
    used: int
    limit: int
    """What the process may have now (RLIMIT_NOFILE, soft)."""


def descriptors() -> Descriptors:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    used = Path(_FD).stat().st_size
    if not used:
        # an older kernel, where a directory of proc has no size
        try:
            used = sum(1 for _ in Path(_FD).iterdir()) - 1
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
            used = limit
    return Descriptors(used, limit)


def uses(ports: Mapping[int, str], directories: Mapping[str, str]) -> Counter[str]:
    """What they are for: `ports` are those that this process listens at and `directories` those that it works in, each
    with its name. Blocks for some 50 ms."""
    connections = _connections(ports)
    found: Counter[str] = Counter()
    for number in range(min(MOST, descriptors().limit)):
        try:
            target = str(Path(f"{_FD}/{number}").readlink())
        except OSError:
            # not open
            continue
        found[connections.get(target) or _use(target, directories)] += 1
    return found


def _use(target: str, directories: Mapping[str, str]) -> str:
    if target.startswith("socket:"):
        return "other connections"
    for directory, name in directories.items():
        if target == directory or target.startswith(f"{directory}/"):
            return name
    return "other"


def _connections(ports: Mapping[int, str]) -> dict[str, str]:
    """`socket:[INODE]` to the name of its local port; proc_pid_net(5) has the columns. Empty where nothing can be
    opened any more."""
    found = {}
    for path in _TCP:
        with contextlib.suppress(OSError):
            for line in path.read_text().splitlines()[1:]:
                columns = line.split()
                name = ports.get(int(columns[1].rpartition(":")[2], 16))
                if name is not None:
                    found[f"socket:[{columns[9]}]"] = name
    return found
