"""The faults, each a function that does its harm to a running transfer, undoes what has to be undone, and tells it."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.soak.ends import TIMEOUT, Ends
from tests.soak.jobs import Job
from tests.soak.network import Network, some


@dataclass(frozen=True, slots=True)
class Scene:
    """What a fault works on."""

    chance: Random
    network: Network
    ends: Ends
    job: Job
    command: subprocess.Popen[bytes]

    def last(self, shortest: float, longest: float) -> float:
        """Lets a state last for a random time; how long it was, in seconds."""
        seconds = self.chance.uniform(shortest, longest)
        threading.Event().wait(seconds)
        return seconds

    def short_or_long(self) -> float:
        """Mostly shorter than the timeouts, sometimes longer than them and the retries."""
        return self.last(0.05, 0.8) if self.chance.random() < 0.8 else self.last(TIMEOUT, 2.5 * TIMEOUT)


Fault = Callable[[Scene], str]


def kill_the_near_end(scene: Scene) -> str:
    scene.command.kill()
    scene.command.wait()
    return "kill -9 of the near end"


def kill_the_far_end(scene: Scene) -> str:
    scene.ends.manager.running.kill()
    scene.ends.manager.running.wait()
    seconds = scene.last(0.0, 1.0)
    scene.ends.restart()
    return f"kill -9 of the far end, started again after {seconds:.1f} s"


def kill_both_ends(scene: Scene) -> str:
    """As when the power fails, but for the disks."""
    scene.command.kill()
    scene.ends.manager.running.kill()
    scene.command.wait()
    scene.ends.manager.running.wait()
    scene.ends.restart()
    return "kill -9 of both ends"


def _stop(scene: Scene, process: subprocess.Popen[bytes]) -> float:
    if process.poll() is not None:
        return 0.0
    os.kill(process.pid, signal.SIGSTOP)
    try:
        return scene.short_or_long()
    finally:
        os.kill(process.pid, signal.SIGCONT)


def stop_the_near_end(scene: Scene) -> str:
    return f"SIGSTOP of the near end for {_stop(scene, scene.command):.1f} s"


def stop_the_far_end(scene: Scene) -> str:
    return f"SIGSTOP of the far end for {_stop(scene, scene.ends.manager.running):.1f} s"


def link_down(scene: Scene) -> str:
    scene.network.set_link(False)
    try:
        seconds = scene.short_or_long()
    finally:
        scene.network.set_link(True)
    return f"link down for {seconds:.1f} s"


def reset(scene: Scene) -> str:
    if not scene.network.can_reset:
        scene.ends.proxy("cut")
        return "all connections through the proxy cut (this kernel resets none)"
    ports = scene.network.connections()
    chosen = some(scene.chance, ports)
    scene.network.reset(chosen)
    return f"{len(chosen)} of {len(ports)} connections reset"


def corrupt(scene: Scene) -> str:
    """In a transfer through the proxy; another one gets a reset."""
    if not scene.job.route.proxied:
        return reset(scene)
    direction = scene.chance.choice(["in", "in", "out"])
    return f"one byte changed on the way {direction}: {scene.ends.proxy(f'corrupt {direction}')}"


def move_the_far_end(scene: Scene) -> str:
    return f"the far end moves to {scene.network.move(scene.network.far)}"


def move_the_near_end(scene: Scene) -> str:
    return f"the near end moves to {scene.network.move(scene.network.near)}"


def half_open(scene: Scene) -> str:
    """The far end dies while nobody can be told."""
    scene.network.set_link(False)
    try:
        scene.ends.manager.running.kill()
        scene.ends.restart()
    finally:
        scene.network.set_link(True)
    return "the far end killed and started again behind a link that was down"


FAULTS: dict[Fault, int] = {
    kill_the_near_end: 4,
    kill_the_far_end: 3,
    kill_both_ends: 1,
    stop_the_near_end: 3,
    stop_the_far_end: 3,
    link_down: 4,
    reset: 4,
    corrupt: 8,
    move_the_far_end: 1,
    move_the_near_end: 1,
    half_open: 1,
}
"""With the weight of each in the draw; `corrupt` finds a proxy half of the time."""


def draw(chance: Random) -> Fault:
    return chance.choices(list(FAULTS), list(FAULTS.values()))[0]
