"""The soft budget: when buffers shrink, when they come back, and what a pool does about it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from dwcp.config import Config
from dwcp.manager.memory import MemoryComponent
from dwcp.supervise.health import Status
from dwcp.supervise.memory import CALM, CALM_SECONDS, MAX_LEVEL, MemoryBudget
from dwcp.transfer.pool import BufferPool

LIMIT = 1000


def test_each_look_that_finds_too_much_halves_the_buffers_up_to_an_eighth() -> None:
    budget = MemoryBudget()
    assert [budget.observe(LIMIT, LIMIT, 0.0), budget.status.level, budget.status.over] == [False, 0, False]
    for level in range(1, MAX_LEVEL + 1):
        assert budget.observe(LIMIT + 1, LIMIT, level)
        assert (budget.status.level, budget.status.over) == (level, True)
    assert not budget.observe(LIMIT + 1, LIMIT, 9.0)
    assert (budget.status.level, budget.status.shrinks) == (MAX_LEVEL, MAX_LEVEL)


def test_they_come_back_a_step_a_minute_while_it_is_calm() -> None:
    budget = MemoryBudget()
    for now in (0.0, 1.0):
        budget.observe(2 * LIMIT, LIMIT, now)
    assert not budget.observe(10, LIMIT, 10.0)
    assert not budget.observe(10, LIMIT, 10.0 + CALM_SECONDS - 1)
    # neither calm nor over: the minute begins anew
    assert not budget.observe(int(LIMIT * CALM), LIMIT, 10.0 + CALM_SECONDS)
    assert not budget.observe(10, LIMIT, 100.0)
    assert not budget.observe(10, LIMIT, 100.0 + CALM_SECONDS - 1)
    assert budget.observe(10, LIMIT, 100.0 + CALM_SECONDS)
    assert budget.status.level == 1
    assert not budget.observe(10, LIMIT, 101.0 + CALM_SECONDS)
    assert budget.observe(10, LIMIT, 100.0 + 2 * CALM_SECONDS)
    assert (budget.status.level, budget.status.shrinks) == (0, 2)


@given(st.lists(st.tuples(st.integers(0, 2 * LIMIT), st.floats(0, 100))))
def test_levels_move_by_one_and_stay_in_bounds(looks: list[tuple[int, float]]) -> None:
    budget, now = MemoryBudget(), 0.0
    for resident, passed in looks:
        now += passed
        before = budget.status.level
        changed = budget.observe(resident, LIMIT, now)
        after = budget.status.level
        assert changed is (after != before)
        assert abs(after - before) <= 1
        assert 0 <= after <= MAX_LEVEL
        assert not (after > before and resident <= LIMIT)
        assert not (after < before and resident >= LIMIT * CALM)


def test_a_pool_that_shrinks_frees_what_is_idle_now_and_the_rest_as_it_comes_back() -> None:
    pool = BufferPool(8)
    with pool.buffer(4):
        with pool.buffer(4):
            pass
        assert (pool.status().allocated, pool.status().idle) == (8, 4)
        pool.resize(4)
        assert (pool.status().allocated, pool.status().idle) == (4, 0)
        pool.resize(2)
    # one may always be had, so the last one is kept
    assert (pool.status().allocated, pool.status().idle) == (4, 4)


def test_buffers_in_use_beyond_the_limit_are_not_kept() -> None:
    pool = BufferPool(8)
    first, second = pool.buffer(4), pool.buffer(4)
    first.__enter__()
    second.__enter__()
    pool.resize(4)
    first.__exit__(None, None, None)
    assert (pool.status().allocated, pool.status().idle) == (4, 0)
    second.__exit__(None, None, None)
    assert (pool.status().allocated, pool.status().idle) == (4, 4)


def test_a_pool_that_grows_lets_in_who_waits() -> None:
    pool = BufferPool(4)
    entered = threading.Event()

    def wait() -> None:
        with pool.buffer(4):
            entered.set()

    with pool.buffer(4):
        thread = threading.Thread(target=wait)
        thread.start()
        pool.resize(8)
        assert entered.wait(10)
    thread.join()


class Process:
    """Resident memory that buffers are a part of."""

    def __init__(self, other: int) -> None:
        self.other = other
        self.halved: list[int] = []

    def shrink(self, times: int) -> int:
        self.halved.append(times)
        return self.buffers

    @property
    def buffers(self) -> int:
        return 400 >> (self.halved[-1] if self.halved else 0)

    def resident(self) -> int:
        return self.other + self.buffers


def test_the_component_shrinks_buffers_and_is_degraded_only_where_that_does_not_suffice() -> None:
    async def run() -> None:
        process = Process(650)
        component = MemoryComponent(lambda: LIMIT, process.shrink, process.resident)
        await component.start()
        assert process.halved == [1]
        assert (await component.check()).status is Status.DEGRADED
        await component.look()
        assert (await component.check()).status is Status.HEALTHY
        process.other = 2 * LIMIT
        for _ in range(3):
            await component.look()
        assert process.halved == [1, 2, 3]
        health = await component.check()
        assert health.status is Status.DEGRADED
        assert "2.0 KiB of memory are resident, memory.limit is 1000 B" in health.reason
        await component.stop()
        assert (await component.check()).status is Status.UNHEALTHY

    asyncio.run(run())


def test_a_reload_keeps_buffers_as_small_as_they_were(tmp_path: Path) -> None:
    from dwcp.store.identity import load_or_create
    from dwcp.transfer.node import POOL_SHARE, Node

    def config(mib: int) -> Config:
        return Config.model_validate({"storage": {"state_dir": str(tmp_path)}, "memory": {"limit": mib * 2**20}})

    node = Node(config(256), load_or_create(tmp_path / "identity", "n"))
    assert node.halve_buffers(2) == 256 * 2**20 // POOL_SHARE // 4
    node.apply(config(512))
    assert node.pool.status().limit == 512 * 2**20 // POOL_SHARE // 4
