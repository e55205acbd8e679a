"""A user's predicate over clocks decides when pulls are answered (OSDI 2014, section 3.4)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest

from mpips import ConfigError, MpipsError, Reading, Table
from mpips.core.machine import Send
from mpips.core.predicate import find_predicate
from mpips.core.server import ServerMachine
from mpips.errors import ProtocolError
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.testing.cluster import Simulation
from mpips.testing.delays import Ran
from mpips.testing.faults import Faults
from mpips.wire.messages import Values
from mpips.wire.types import NOBODY, View, make_epoch
from tests.paper.cast import Cast
from tests.sim.jobs import job
from tests.sim.test_bounded import LOGICAL_WORKERS, NAP_S, TASKS, Counting

NAME = "tests.sim.test_predicate"


def is_bounded(max_delay: int, reading: Reading) -> bool:
    """Return whether nobody is further behind the reader than so many clocks."""
    return bool(reading.clocks.min() >= reading.task - max_delay)


def has_half(reading: Reading) -> bool:
    """Return whether half of the workers, or more, have come as far as the reader."""
    return bool(2 * np.count_nonzero(reading.clocks >= reading.clock) >= len(reading.clocks))


def never(reading: Reading) -> bool:
    """Return that nobody may read."""
    return False


def has_no_answer(reading: Reading) -> Any:
    """Return what is neither True nor False."""
    return reading.clocks > 0


def divides(reading: Reading) -> bool:
    """Fail as soon as somebody has pushed."""
    return 1 // (1 - int(reading.clocks.max())) > 0


class Awaiting(Counting):
    """Counts, each task's push being finished before the next task begins."""

    async def work(self, worker: Worker) -> dict[str, Any]:
        """Return how stale the reads were at worst, in tasks."""
        key, one, staleness = np.array([worker.id], np.uint64), np.ones(1), 0
        for task in range(1, TASKS + 1):
            seen = await worker.pull("n")
            staleness = max(staleness, task - 1 - int(seen.min()))
            start = worker.now()
            await worker.sleep(NAP_S * worker.random.exponential())
            self.log.append(Ran(worker.id, task, start, worker.now()))
            await worker.push("n", key, one)
        return {"staleness": staleness}


def run(
    parts: dict[str, Any], seed: int, base: type[Counting] = Counting, **more: Any
) -> tuple[dict[str, Any], list[Ran]]:
    """Return the result of a simulated run of an app, and what ran when."""
    log: list[Ran] = []
    kind = type("Counted", (base,), {**parts, "log": log})
    config = job(servers=2, workers=LOGICAL_WORKERS, logical=LOGICAL_WORKERS)
    return Simulation(kind, config, seed, **more).run(), log


def ruled(predicate: str | Callable[[Reading], bool]) -> dict[str, Any]:
    """Return what makes of an app one whose only table has a predicate."""

    def tables(self: App) -> list[Table]:
        size = self.job.logical_workers
        return [Table(name="n", size=size, segments=size, mode="predicate", predicate=predicate)]

    return {"tables": tables}


@pytest.mark.parametrize("max_delay", [0, 1, 3])
def test_predicate_that_says_what_bounded_says_gives_the_same_runs(max_delay: int) -> None:
    predicate = partial(is_bounded, max_delay)
    for seed in range(3):
        result, log = run(ruled(predicate), seed, Awaiting)
        expected, bounded_log = run({"max_delay": max_delay}, seed, Awaiting)
        assert result["staleness"] == expected["staleness"] <= max_delay
        assert log == bounded_log


def test_predicate_that_is_off_by_one_gives_other_runs() -> None:
    _, log = run(ruled(partial(is_bounded, 2)), 0, Awaiting)
    assert log != run({"max_delay": 1}, 0, Awaiting)[1]


@pytest.mark.parametrize("seed", range(4))
def test_half_of_the_workers_are_waited_for_and_no_more(seed: int) -> None:
    seen: list[Reading] = []

    def noted(reading: Reading) -> bool:
        if has_half(reading):
            seen.append(reading)
        return has_half(reading)

    # The last worker is far behind all others, and nobody but itself waits for it.
    result, log = run(ruled(noted), seed, faults=Faults(heal_s=1e9, stragglers={6: 0.02}))
    assert all(np.sort(r.clocks)[-2] >= r.clock for r in seen)
    assert len(log) == LOGICAL_WORKERS * TASKS
    last = {worker: max(r.finish for r in log if r.worker == worker) for worker in range(4)}
    assert last[3] > 1.5 * max(last[0], last[1], last[2])
    assert result["staleness"] > 2


def test_predicate_knows_who_reads_and_the_clocks_of_the_range_and_of_the_table() -> None:
    seen: list[Reading] = []

    def noted(reading: Reading) -> bool:
        seen.append(reading)
        return True

    table = Table(name="w", size=8, segments=2, mode="predicate", predicate=noted)
    cast = Cast(table, workers=3)
    cast.push((0, 8), 1.0, worker=2)
    cast.push((4, 8), 1.0, worker=2)
    cast.push((4, 8), 1.0, worker=1, clock=7)
    cast.pull((0, 8), worker=2)
    cast.deliver_all()
    found = [(r.clocks.tolist(), r.workers.tolist(), r.reader, r.clock, r.task) for r in seen]
    assert found == [([0, 0, 1], [0, 1, 2], 2, 1, 2), ([0, 7, 2], [0, 1, 2], 2, 2, 2)]


def test_push_pull_is_answered_when_the_predicate_holds_after_its_own_push() -> None:
    table = Table(name="w", size=4, segments=1, mode="predicate", predicate=f"{NAME}:has_half")
    cast = Cast(table, workers=3)
    first = cast.push_pull((0, 4), 1.0, worker=0)
    cast.deliver_all()
    assert first not in cast.finished
    second = cast.push_pull((0, 4), 1.0, worker=1)
    cast.deliver_all()
    assert [cast.finished[task].tolist() for task in (first, second)] == [[[2.0]] * 4] * 2


def test_predicate_is_asked_again_when_a_worker_is_dropped() -> None:
    predicate = partial(is_bounded, 0)
    table = Table(name="w", size=4, segments=1, mode="predicate", predicate=predicate)
    cast = Cast(table, workers=2)
    cast.push((0, 4), 1.0)
    task = cast.pull((0, 4))
    cast.deliver_all()
    assert task not in cast.finished
    server = cast.machines[1]
    assert isinstance(server, ServerMachine)
    (answer,) = server.install(View(make_epoch(2, 0), (), (cast.owners,), (0, NOBODY)))
    assert isinstance(answer, Send)
    assert isinstance(answer.message, Values)


def test_predicate_that_never_holds_ends_in_a_message_with_worker_and_keys() -> None:
    with pytest.raises(ProtocolError) as caught:
        run(ruled(f"{NAME}:never"), 1)
    assert "waiting for worker 0" in caught.value.what
    # Which of all that wait are told of depends on where segments lie.
    lines = [
        f"logical worker {worker} waits until {NAME}:never allows its pull at clock 0 on keys"
        f" [{key}, {key + 1}) of n; the slowest there is logical worker 0, at clock 0"
        for worker in range(LOGICAL_WORKERS)
        for key in range(LOGICAL_WORKERS)
    ]
    assert any(line in caught.value.where for line in lines), caught.value.where
    # In one process, too.
    kind = type("Counting", (Counting,), {**ruled(never), "log": []})
    with pytest.raises(ProtocolError, match=f"{NAME}:never allows"):
        run_local(kind, job(workers=1, logical=2))


@pytest.mark.parametrize(("predicate", "what", "where"), [
    (divides, f"your predicate {NAME}:divides raised ZeroDivisionError", "1 // (1 - "),
    (has_no_answer, f"your predicate {NAME}:has_no_answer returned array", "It got the clocks"),
])  # fmt: skip
def test_predicate_that_fails_is_the_users_error(predicate: Any, what: str, where: str) -> None:
    with pytest.raises(MpipsError) as caught:
        run(ruled(predicate), 1)
    assert caught.value.exit_code == 1
    assert caught.value.what.startswith(what)
    assert where in caught.value.where
    assert "internal error" not in str(caught.value)


@pytest.mark.parametrize(("predicate", "what"), [
    ("nowhere", "There is no predicate nowhere"),
    (f"{NAME}:nothing", "cannot be imported"),
    (f"{NAME}:NAME", "is no function"),
    (is_bounded, "does not take one argument"),
])  # fmt: skip
def test_what_is_no_predicate_is_refused_before_anything_runs(predicate: Any, what: str) -> None:
    table = Table(name="n", size=8, mode="predicate", predicate=predicate)
    with pytest.raises(ConfigError, match=what):
        find_predicate(table)
    with pytest.raises(ConfigError, match=what) as caught:
        run(ruled(predicate), 1)
    assert caught.value.exit_code == 2


def test_table_has_a_predicate_if_and_only_if_its_mode_says_so() -> None:
    table = Table(name="w", size=8, mode="predicate", predicate=never)
    for change in ({"predicate": None}, {"mode": "bounded"}):
        with pytest.raises(AssertionError):
            msgspec.structs.replace(table, **change).__post_init__()
