"""Machines on one switch: network namespaces on a bridge in another one, each with a link that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

HUB_ADDRESS = "10.99.0.100"


def no_bridge() -> str:
    """Why there can be no such network here; empty where there can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if shutil.which("ip") is None:
        return "needs ip (iproute2)"
    try:
        with Bridged(1):
            return ""
    except subprocess.CalledProcessError as error:
        return f"needs network namespaces, veth and a bridge: {error.stderr.strip()}"


class Bridged:
    """`with Bridged(3) as network:`; machines are numbered from 0. The hub reaches all of them."""

    def __init__(self, machines: int, maker: int | None = None) -> None:
        """`maker`: the process that has made it, for another one that uses it."""
        maker = maker or os.getpid()
        self.hub = f"dwcp-{maker}-hub"
        self.machines = [f"dwcp-{maker}-{number}" for number in range(machines)]
        self.addresses = [f"10.99.0.{number + 1}" for number in range(machines)]

    def __enter__(self) -> Bridged:
        try:
            _ip("netns", "add", self.hub)
            _ip("-n", self.hub, "link", "set", "lo", "up")
            _ip("-n", self.hub, "link", "add", "switch", "type", "bridge")
            _ip("-n", self.hub, "addr", "add", f"{HUB_ADDRESS}/24", "dev", "switch")
            _ip("-n", self.hub, "link", "set", "switch", "up")
            for number, machine in enumerate(self.machines):
                _ip("netns", "add", machine)
                _ip("-n", machine, "link", "set", "lo", "up")
                port = self._port(number)
                _ip("link", "add", "eth0", "netns", machine, "type", "veth", "peer", "name", port, "netns", self.hub)
                _ip("-n", self.hub, "link", "set", port, "master", "switch", "up")
                _ip("-n", machine, "addr", "add", f"{self.addresses[number]}/24", "dev", "eth0")
                _ip("-n", machine, "link", "set", "eth0", "up")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for name in (*self.machines, self.hub):
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)

    def cut(self, number: int) -> None:
        _ip("-n", self.hub, "link", "set", self._port(number), "down")

    def mend(self, number: int) -> None:
        _ip("-n", self.hub, "link", "set", self._port(number), "up")

    def inside(self, number: int, *command: str | Path) -> list[str]:
        """The command that runs `command` on a machine; it keeps its process id."""
        return ["ip", "netns", "exec", self.machines[number], *map(str, command)]

    def at_hub(self, *command: str | Path) -> list[str]:
        return ["ip", "netns", "exec", self.hub, *map(str, command)]

    @staticmethod
    def _port(number: int) -> str:
        return f"port{number}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
