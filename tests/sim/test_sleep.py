"""Workers that sleep: in virtual time to the very moment, in real time about to a millisecond."""

from typing import Any, ClassVar

import pytest

from mpips.config import parse
from mpips.core.task import Plan, Task
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.node.local import run_local
from mpips.testing.cluster import STEP_S, Simulation
from mpips.testing.faults import Faults
from mpips.wire.types import Table


class Sleepers(App):
    """Each logical worker sleeps some times, and notes when it woke."""

    naps: ClassVar[dict[int, list[float]]] = {0: [0.0301, 0.0007, 0.0], 1: [0.011] * 3}

    def tables(self) -> list[Table]:
        """Return no tables."""
        return []

    def plan(self) -> Plan:
        """Return when each one slept and woke."""
        found = yield Task(group="workers", function="work")
        return {"naps": found}

    async def work(self, worker: Worker) -> list[Any]:
        """Return begin and end of each sleep, and how long it should have been."""
        naps = []
        for seconds in self.naps[worker.id]:
            begin = worker.now()
            await worker.sleep(seconds)
            naps.append((begin, worker.now(), seconds))
        return naps


def with_naps(**more: Any) -> type[Sleepers]:
    """Return the app with something else about it."""
    return type("Others", (Sleepers,), more)


def simulate(kind: type[App], workers: int, faults: Faults | None = None) -> Simulation:
    """Return a finished simulation of two logical workers."""
    config = parse("", "", ["run.logical_workers=2", f"run.workers={workers}"])
    simulation = Simulation(kind, config, 1, *([faults] if faults else []))
    simulation.run()
    return simulation


@pytest.mark.parametrize("workers", [1, 2])
def test_virtual_sleep_ends_to_the_very_moment(workers: int) -> None:
    naps = simulate(Sleepers, workers).scheduler.result["naps"]
    assert len(naps) == 2
    for begin, end, seconds in naps[0] + naps[1]:
        assert end == begin + seconds
    # They sleep at the same time, also on one node.
    assert naps[1][0][0] < naps[0][0][1]


def test_long_virtual_sleep_takes_few_turns() -> None:
    """An hour of rounds each `STEP_S` would be slow; nor does the silence end the job."""

    class Counting(Simulation):
        """Counts rounds."""

        rounds = 0

        def _begin_round(self) -> None:
            self.rounds += 1
            super()._begin_round()

    kind = with_naps(naps={0: [3600.0], 1: [3599.0, 2.0]})
    simulation = Counting(kind, parse("", "", ["run.logical_workers=2", "run.workers=2"]), 1)
    simulation.run()
    assert simulation.network.now >= 3601
    assert simulation.rounds < 0.1 * 3600 / STEP_S


def test_sleeper_of_a_paused_node_wakes_after_the_pause() -> None:
    faults = Faults(pauses=0.1, pause_s=0.1, heal_s=60.0)
    naps = simulate(with_naps(naps={0: [0.3] * 5, 1: [0.2] * 9}), 2, faults).scheduler.result
    late = [end - begin - seconds for one in naps["naps"] for begin, end, seconds in one]
    assert min(late) == pytest.approx(0)
    assert max(late) > 0.01


@pytest.mark.parametrize("workers", [1, 2])
def test_real_sleep_is_long_enough_and_hardly_longer(workers: int) -> None:
    config = parse("", "", ["run.logical_workers=2", f"run.workers={workers}"])
    naps = run_local(Sleepers, config)["naps"]
    late = sorted(end - begin - seconds for begin, end, seconds in naps[0] + naps[1])
    assert late[0] >= 0
    # Most may be late on a busy machine.
    assert late[0] < 2e-3
    # One after the other, they would take as long as both, however busy the machine is.
    both = [nap for one in naps for nap in one]
    whole = max(end for _, end, _ in both) - min(begin for begin, _, _ in both)
    assert whole < sum(end - begin for begin, end, _ in both)


@pytest.mark.parametrize("seconds", [-1e-9, float("inf"), float("nan")])
def test_sleep_that_cannot_be_is_refused(seconds: float) -> None:
    class Wrong(Sleepers):
        """Sleeps what cannot be."""

        async def work(self, worker: Worker) -> list[Any]:
            """Return no naps."""
            with pytest.raises(ValueError, match="cannot be"):
                await worker.sleep(seconds)
            return []

    simulate(Wrong, 1)


def test_job_is_not_given_up_while_somebody_sleeps_but_is_thereafter() -> None:
    class Stuck(Sleepers):
        """Sleeps, then waits for a push that never comes."""

        def tables(self) -> list[Table]:
            """Return a table whose sums are never complete."""
            return [Table(name="w", size=1, aggregate=True)]

        async def work(self, worker: Worker) -> list[Any]:
            """Return never."""
            if worker.id == 0:
                await worker.sleep(0.02)
                slept.append(worker.now())
                await worker.push("w", None, [1.0])
            return []

    slept: list[float] = []
    config = parse("", "", ["run.logical_workers=2", "run.workers=2"])
    with pytest.raises(Exception, match="worker"):
        run_local(Stuck, config)
    assert len(slept) == 1
