"""The runner with components that fail as they are told; blocking work apart; descriptors; breakers told to others."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dwcp.api.app import _handled
from dwcp.config import Config
from dwcp.errors import UnreachableError
from dwcp.manager import runner as runners
from dwcp.manager.apart import Apart
from dwcp.manager.descriptors import DescriptorsComponent
from dwcp.manager.runner import Runner
from dwcp.profiling.descriptors import Descriptors, descriptors, uses
from dwcp.store.open_breakers import FILE, OpenBreaker, OpenBreakers, open_breaker
from dwcp.supervise.breaker import rejection
from dwcp.supervise.health import HEALTHY, Health, Status
from tests.support import DEADLINE

QUICK = {"interval": "100ms", "recovery_backoff": "50ms", "recovery_jitter": 0.0, "slow_retry_interval": "1s"}


class Told:
    """A component that does as it is told, and writes into `story` what was asked of it."""

    def __init__(self, name: str, story: list[str]) -> None:
        self.name = name
        self.story = story
        self.health = HEALTHY
        self.check_with: Callable[[], Awaitable[None]] | None = None
        self.start_with: Callable[[], Awaitable[None]] | None = None
        self.heals = True

    async def start(self) -> None:
        self.story.append(f"start {self.name}")
        if self.start_with is not None:
            await self.start_with()
        if self.heals:
            self.health = HEALTHY

    async def stop(self) -> None:
        self.story.append(f"stop {self.name}")

    async def check(self) -> Health:
        if self.check_with is not None:
            await self.check_with()
        return self.health


ILL = Health(Status.UNHEALTHY, "told to")


async def happens(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def supervise(
    act: Callable[[Runner, dict[str, Told], list[str]], Awaitable[None]],
    *names: tuple[str, tuple[str, ...]],
    restart_with: dict[str, tuple[str, ...]] | None = None,
    **health: object,
) -> None:
    """Runs `act` beside a runner of components with these names, each after others."""
    story: list[str] = []
    config = Config.model_validate({"health": {**QUICK, **health}})

    async def run() -> None:
        components = {name: Told(name, story) for name, _ in names}
        runner = Runner({components[name]: needed for name, needed in names}, lambda: config, restart_with=restart_with)
        await runner.start()
        await runner.check_all()
        story.clear()
        try:
            await act(runner, components, story)
        finally:
            await runner.stop()

    asyncio.run(run())


def well(runner: Runner) -> bool:
    return all(health.status is Status.HEALTHY and not health.recovering for health in runner.statuses())


def test_recoveries_go_by_order_and_leave_the_others_alone() -> None:
    async def act(runner: Runner, components: dict[str, Told], story: list[str]) -> None:
        components["top"].health = components["base"].health = ILL
        await happens(lambda: runner.recoveries()["top"].successes == 1 and well(runner))
        assert story == ["stop base", "start base", "stop top", "start top"]

    supervise(act, ("base", ()), ("other", ()), ("top", ("base",)))


def test_who_is_restarted_along_is_stopped_first_and_started_last() -> None:
    async def act(runner: Runner, components: dict[str, Told], story: list[str]) -> None:
        components["base"].health = ILL
        await happens(lambda: runner.recoveries()["base"].successes == 1 and well(runner))
        assert story == ["stop top", "stop middle", "stop base", "start base", "start middle", "start top"]
        assert runner.recoveries()["top"].attempts == 0

    along = {"middle": ("base",), "top": ("middle",)}
    supervise(act, ("base", ()), ("middle", ("base",)), ("top", ("middle",)), ("apart", ("base",)), restart_with=along)


def test_who_does_not_start_is_named_and_those_that_stand_on_it_say_so() -> None:
    async def act(runner: Runner, components: dict[str, Told], story: list[str]) -> None:
        async def fail() -> None:
            raise UnreachableError("the address is taken")

        components["middle"].start_with = fail
        components["base"].health = ILL
        await happens(lambda: runner.statuses()[2].status is Status.UNHEALTHY)
        base, middle, top = runner.statuses()
        assert (middle.reason, top.reason) == (
            "the address is taken",
            "middle could not be restarted, which it stands on",
        )
        assert base.status is Status.HEALTHY
        components["middle"].start_with = None
        await happens(lambda: well(runner))

    along = {"middle": ("base",), "top": ("middle",)}
    supervise(act, ("base", ()), ("middle", ("base",)), ("top", ("middle",)), restart_with=along)


def test_one_that_hangs_keeps_no_other_from_being_recovered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(runner: Runner, components: dict[str, Told], story: list[str]) -> None:
        async def hang() -> None:
            await asyncio.Event().wait()

        components["hangs"].start_with = components["slow"].check_with = hang
        components["hangs"].health = components["other"].health = ILL
        await happens(lambda: runner.recoveries()["other"].successes == 1)
        await happens(lambda: "it did not start within" in runner.statuses()[0].reason)
        await happens(lambda: "longer than 0.3 s" in runner.statuses()[2].reason)
        assert story.count("start other") == 1
        components["hangs"].start_with = components["slow"].check_with = None
        await happens(lambda: well(runner))

    monkeypatch.setattr(runners, "START_TIMEOUT", 0.3)
    supervise(act, ("hangs", ()), ("other", ()), ("slow", ()), timeout="300ms")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_check_for_which_there_is_no_descriptor_says_nothing_against_the_component(wrapped: bool) -> None:
    async def act(runner: Runner, components: dict[str, Told], story: list[str]) -> None:
        async def starve() -> None:
            error = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            if wrapped:
                raise UnreachableError("cannot connect") from error
            raise error

        components["c"].check_with = starve
        await happens(lambda: runner.statuses()[0].status is Status.DEGRADED)
        assert runner.statuses()[0].reason.startswith("it could not be checked: ")
        components["c"].check_with = None
        await happens(lambda: well(runner))
        assert story == []

    supervise(act, ("c", ()))


def test_supervision_that_stands_still_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act(runner: Runner, components: dict[str, Told], story: list[str]) -> None:
        assert runner.stalled == 0.0
        assert runner._task is not None
        runner._task.cancel()
        await happens(lambda: runner.stalled > 0.2)

    monkeypatch.setattr(runners, "STUCK", 0.2)
    supervise(act, ("c", ()))


# -- apart -------------------------------------------------------------------------------------------------------------


def test_work_that_hangs_costs_one_thread_and_what_comes_after_waits() -> None:
    async def run() -> None:
        release, apart = threading.Event(), Apart("dwcp-test-apart")
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await apart.run(release.wait)
        assert [thread.name for thread in threading.enumerate()].count("dwcp-test-apart") == 1
        after = asyncio.create_task(apart.run(lambda: 7))
        release.set()
        assert await after == 7
        with pytest.raises(ZeroDivisionError):
            await apart.run(lambda: 1 // 0)
        assert await apart.run(lambda: 8) == 8

    asyncio.run(run())


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_what_descriptors_are_for(tmp_path: Path) -> None:
    before = descriptors().used
    with socket.create_server(("127.0.0.1", 0)) as server, (tmp_path / "file").open("wb"):
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)), server.accept()[0]:
            assert descriptors().used == before + 4
            found = uses({port: "transport"}, {str(tmp_path): "state"})
    assert (found["transport"], found["state"]) == (2, 1)
    assert found["other connections"] >= 1
    assert sum(found.values()) >= before


@pytest.mark.parametrize(
    ("used", "status", "words"),
    [
        (799, Status.HEALTHY, ""),
        (800, Status.DEGRADED, "800 of 1000 descriptors are open"),
        (993, Status.UNHEALTHY, "no descriptor is left: 993 of 1000 descriptors are open"),
    ],
)
def test_the_budget_of_descriptors(used: int, status: Status, words: str) -> None:
    component = DescriptorsComponent(dict, dict, lambda: Descriptors(used, 1000))
    health = asyncio.run(component.check())
    assert (health.status, health.reason.startswith(words)) == (status, True)


# -- breakers told to others -------------------------------------------------------------------------------------------


def test_what_is_told_of_breakers_counts_while_it_is_new_and_its_manager_lives(tmp_path: Path) -> None:
    now = time.monotonic()
    assert open_breaker(tmp_path, "c", now) is None
    told = OpenBreakers(tmp_path)
    told.publish({"c": OpenBreaker(now + 30, "away"), "d": OpenBreaker(now + 30, "x" * 5000)})
    found = open_breaker(tmp_path, "c", now)
    assert found == OpenBreaker(now + 30, "away")
    assert open_breaker(tmp_path, "other", now) is None
    assert open_breaker(tmp_path, "c", now + 31) is None
    told.publish({"c": OpenBreaker(now + 60, "still")})
    assert open_breaker(tmp_path, "d", now) is None
    assert open_breaker(tmp_path, "c", now) == OpenBreaker(now + 60, "still")
    for damage in (b"", b'{"c": {"until": 1e300, "re', b"\xff\xfe", b"[]", b'{"c": 5}'):
        (tmp_path / FILE).write_bytes(damage)
        assert open_breaker(tmp_path, "c", now) is None
    told.publish({"c": OpenBreaker(now + 60, "still")})
    told.leave()
    assert open_breaker(tmp_path, "c", now) is None


def test_http_says_when_to_come_again() -> None:
    async def reject() -> None:
        raise rejection("node2", 22.3, "no answer", time.time())

    answer = asyncio.run(_handled(reject))  # type: ignore[arg-type]
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "23")
    assert b'"code":"circuit-open"' in answer.body
