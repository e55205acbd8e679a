"""The plan changes tau while the job runs, from a stated task on, for all logical workers."""

from typing import Any

import numpy as np
import pytest

from mpips import Report, SetDelay, Table, Task
from mpips.errors import MpipsError
from mpips.node.kv import Worker
from mpips.testing.cluster import Simulation
from mpips.testing.faults import Faults
from tests.sim.jobs import job
from tests.sim.test_bounded import LOGICAL_WORKERS, TASKS, Counting

DELAYS = (0, 3, 1)


class Changing(Counting):
    """Runs a call under each tau, and then one more."""

    def plan(self) -> Any:
        """Return the worst staleness of each call, and the taus that workers were told."""
        worst, told = [], []
        for number, max_delay in enumerate((*DELAYS, None)):
            if max_delay is not None:
                yield SetDelay("n", max_delay)
            arguments = {"done": number * TASKS}
            found = yield Task(group="workers", function="count", arguments=arguments)
            worst.append(max(part[0] for part in found))
            told.append([part[1] for part in found])
        yield Report("progress", {})
        return {"worst": worst, "told": told}

    async def count(self, worker: Worker, done: int) -> tuple[int, int]:
        """Count tasks, and return how stale the values were, in tasks, and tau."""
        key, one, worst = np.array([worker.id], np.uint64), np.ones(1), 0
        for task in range(done + 1, done + TASKS + 1):
            seen = await worker.pull("n")
            worst = max(worst, task - 1 - int(seen.min()))
            await worker.sleep(1e-3 * worker.random.exponential())
            worker.push("n", key, one)
        return worst, worker.max_delay("n")


def run(seed: int, faults: Faults | None = None, **more: int) -> Simulation:
    """Return the simulation of a run that is over."""
    config = job(servers=2, workers=LOGICAL_WORKERS, logical=LOGICAL_WORKERS, **more)
    simulation = Simulation(Changing, config, seed, faults or Faults())
    simulation.run()
    return simulation


def test_delay_holds_from_the_next_task_on_and_is_attained() -> None:
    found = [run(seed).scheduler.result for seed in range(6)]
    assert [max(r["worst"][n] for r in found) for n in range(4)] == [0, 3, 1, 1]
    assert all(r["told"] == [[tau] * LOGICAL_WORKERS for tau in (0, 3, 1, 1)] for r in found)


def test_story_says_from_which_task_on() -> None:
    lines = run(1).scheduler.machine.story("delay")
    assert [line.split(" ", 1)[1] for line in lines] == [
        "delay: n 0 from task 1 on",
        "delay: n 3 from task 2 on",
        "delay: n 1 from task 3 on",
    ]


@pytest.mark.parametrize("seed", range(4))
def test_who_takes_over_for_a_dead_worker_has_the_delay_of_its_task(seed: int) -> None:
    # Node 3 is the first worker; it dies somewhere in the run.
    simulation = run(seed, Faults(heal_s=1e-3, kills=((0.02 + 0.015 * seed, 3),)))
    assert simulation.dead == {3}
    result = simulation.scheduler.result
    assert result["told"] == [[tau] * LOGICAL_WORKERS for tau in (0, 3, 1, 1)]


@pytest.mark.parametrize("asked", [SetDelay("v", 1), SetDelay("n", -1), SetDelay("free", 1)])
def test_delay_that_cannot_be_is_an_error_of_the_plan(asked: SetDelay) -> None:
    class Wrong(Counting):
        """Asks for what cannot be."""

        def tables(self) -> list[Table]:
            """Return a bounded table and an eventual one."""
            return [*super().tables(), Table(name="free", size=4)]

        def plan(self) -> Any:
            """Ask."""
            yield asked
            return {}

    with pytest.raises(MpipsError, match=f"sets the delay of table {asked.table}") as caught:
        Simulation(Wrong, job(), 1).run()
    assert caught.value.exit_code == 1
