"""The one shape that every component has; the manager knows nothing else about them."""

from __future__ import annotations

from typing import Protocol

from dwcp.supervise.health import Health


class Component(Protocol):
    """A part of the node that is started, checked and stopped by the manager.

    `start` returns when the component does its job and raises a `DwcpError` when it can't. `stop` finishes or
    journals what is in flight and never raises for something that is already gone. `check` tests what a user
    would miss; it may take long or raise: the manager bounds it and takes an exception for unhealthy.
    A component can be started again after it was stopped.
    """

    @property
    def name(self) -> str: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def check(self) -> Health: ...
