"""Bounded delay: nobody reads what is staler than tau, and some read exactly that (section 3.4)."""

from typing import Any, ClassVar

import numpy as np
import pytest

from mpips.config import parse
from mpips.core.client import ClientMachine
from mpips.core.consistency import History
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.testing.cluster import Simulation
from mpips.testing.delays import Ran, check_delay
from mpips.wire.types import Table

LOGICAL_WORKERS, TASKS, NAP_S = 4, 12, 1e-3


class Counting(App):
    """Each logical worker counts its tasks under its own key, and reads those of the others.

    Attributes:
        log: what ran when, of all workers.
    """

    mode: ClassVar[str] = "bounded"
    max_delay: ClassVar[int] = 0
    log: ClassVar[list[Ran]] = []

    def tables(self) -> list[Table]:
        """Return a table with a key for each logical worker, on several servers."""
        size = self.job.logical_workers
        mode = {"mode": "bounded", "max_delay": self.max_delay} if self.mode == "bounded" else {}
        return [Table(name="n", size=size, segments=size, **mode)]

    async def work(self, worker: Worker) -> dict[str, Any]:
        """Return how stale the reads were at worst, in tasks, and whether pushes were lost."""
        key, one = np.array([worker.id], np.uint64), np.ones(1)
        staleness, pushes = 0, []
        for task in range(1, TASKS + 1):
            seen = await worker.pull("n")
            staleness = max(staleness, task - 1 - int(seen.min()))
            start = worker.now()
            await worker.sleep(NAP_S * worker.random.exponential())
            self.log.append(Ran(worker.id, task, start, worker.now()))
            pushes.append(worker.push("n", key, one))
        await worker.wait(*pushes)
        return {"staleness": staleness}

    def plan(self) -> Any:
        """Return the worst staleness of all."""
        from mpips.core.task import Task

        found = yield Task(group="workers", function="work")
        return {"staleness": max(part["staleness"] for part in found)}


def staleness_of(kind: type[App], seed: int) -> int:
    """Return the worst staleness of a simulated run, in what was read."""
    text = f"run.logical_workers={LOGICAL_WORKERS}"
    config = parse("", "", [text, "run.workers=4", "run.servers=2"])
    return int(Simulation(kind, config, seed).run()["staleness"])


def check_logs(max_delay: int, seeds: range) -> tuple[list[str], int]:
    """Return violations and the worst staleness in the logs of runs, by the clock alone."""
    violations, worst = [], 0
    for seed in seeds:
        log: list[Ran] = []
        staleness_of(type("Logged", (Counting,), {"max_delay": max_delay, "log": log}), seed)
        assert len(log) == LOGICAL_WORKERS * TASKS
        found, staleness = check_delay(log, max_delay)
        violations += found
        worst = max(worst, staleness)
    return violations, worst


def with_delay(max_delay: int) -> type[App]:
    """Return the app with another tau."""
    return type("Delayed", (Counting,), {"max_delay": max_delay})


@pytest.mark.parametrize("max_delay", [0, 1, 2, 4])
def test_staleness_is_at_most_max_delay_and_attains_it(max_delay: int) -> None:
    found = [staleness_of(with_delay(max_delay), seed) for seed in range(4)]
    assert max(found) == max_delay


@pytest.mark.parametrize("max_delay", [0, 1, 4])
def test_no_task_starts_before_all_have_finished_what_it_needs(max_delay: int) -> None:
    assert check_logs(max_delay, range(3)) == ([], max_delay)


def test_eventual_knows_no_bound() -> None:
    kind = type("Eventual", (Counting,), {"mode": "eventual"})
    assert max(staleness_of(kind, seed) for seed in range(4)) > 4


def test_wait_that_is_one_task_too_short_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A build with an off-by-one in what a read needs is staler than it may be."""
    settle = History._settle
    monkeypatch.setattr(History, "_settle", lambda self, tau: settle(self, tau + 1))
    assert max(staleness_of(with_delay(1), seed) for seed in range(3)) > 1
    violations, staleness = check_logs(1, range(3))
    assert violations
    assert staleness == 2


def test_delay_can_change_between_tasks_and_holds_from_the_next_on() -> None:
    class Loosening(Counting):
        """Begins with tau = 0, then allows 3, then 1."""

        async def work(self, worker: Worker) -> dict[str, Any]:
            """Return the worst staleness under each tau."""
            key, one, worst = np.array([worker.id], np.uint64), np.ones(1), {0: 0, 3: 0, 1: 0}
            task = 0
            for max_delay in worst:
                worker.set_delay("n", max_delay)
                for _ in range(TASKS):
                    task += 1
                    seen = await worker.pull("n")
                    worst[max_delay] = max(worst[max_delay], task - 1 - int(seen.min()))
                    worker.push("n", key, one)
            return {str(max_delay): staleness for max_delay, staleness in worst.items()}

        def plan(self) -> Any:
            """Return the worst of all workers."""
            from mpips.core.task import Task

            found = yield Task(group="workers", function="work")
            return {name: max(part[name] for part in found) for name in found[0]}

    config = parse("", "", [f"run.logical_workers={LOGICAL_WORKERS}", "run.workers=4"])
    found = [Simulation(Loosening, config, seed).run() for seed in range(8)]
    assert [max(result[name] for result in found) for name in ("0", "3", "1")] == [0, 3, 1]


def test_callback_is_called_with_the_result_once_and_also_when_it_comes_late() -> None:
    class Calling(Counting):
        """Notes what callbacks are given."""

        async def work(self, worker: Worker) -> dict[str, Any]:
            """Return what came, before and after the wait."""
            seen: list[float] = []
            pull = worker.pull("n", (0, 1))
            pull.then(lambda values: seen.append(float(values[0])))
            assert seen == []
            await pull
            pull.then(lambda values: seen.append(float(values[0])))
            return {"staleness": len(seen)}

    assert staleness_of(Calling, 1) == 2


def test_at_most_max_delay_plus_one_tasks_are_under_way() -> None:
    """Pushes are not awaited here, yet the one of task t waits for that of t - tau - 1."""
    seen = []

    class Watching(ClientMachine):
        """Counts the pushes under way after each start."""

        def start(self, *arguments: Any, **more: Any) -> Any:
            """Start, and count."""
            result = super().start(*arguments, **more)
            sent = [t for t in self._tasks.values() if t.values is not None and t.requests]
            seen.extend(sum(task.stream == n for task in sent) for n in range(LOGICAL_WORKERS))
            return result

    class Eager(Counting):
        """Pushes without a wait."""

        max_delay = 2

        async def work(self, worker: Worker) -> dict[str, Any]:
            """Push all at once."""
            key, one = np.array([worker.id], np.uint64), np.ones(1)
            await worker.wait(*[worker.push("n", key, one) for _ in range(TASKS)])
            return {"staleness": 0}

    config = parse("", "", [f"run.logical_workers={LOGICAL_WORKERS}", "run.workers=2"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpips.node.worker.ClientMachine", Watching)
        Simulation(Eager, config, 1).run()
    assert max(seen) == 3
