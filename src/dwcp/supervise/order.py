"""In which order components start, and who stands on whom."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter


def start_order(depends_on: Mapping[str, Iterable[str]]) -> list[str]:
    """Each after all that it depends on; stop in reverse. Raises ValueError for a circle or an unknown name."""
    for name, needed in depends_on.items():
        for other in needed:
            if other not in depends_on:
                raise ValueError(f"{name} depends on {other}, which does not exist")
    try:
        return list(TopologicalSorter(depends_on).static_order())
    except CycleError as error:
        raise ValueError(f"components depend on each other in a circle: {' -> '.join(error.args[1])}") from error


def dependants(name: str, depends_on: Mapping[str, Iterable[str]]) -> list[str]:
    """Everybody who stands on `name`, directly or not, in start order."""
    affected = {name}
    order = start_order(depends_on)
    for other in order:
        if affected.intersection(depends_on[other]):
            affected.add(other)
    affected.discard(name)
    return [other for other in order if other in affected]
