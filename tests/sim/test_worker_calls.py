"""Workers call functions on all servers; the call is a task with subtasks (OSDI 2014, 3.2)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpips import MpipsError, Table, Task
from mpips.core.asking import Asking
from mpips.core.task import Plan
from mpips.errors import ProtocolError, RanksLostError
from mpips.node.app import App, Stores
from mpips.node.kv import Worker
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM, Faults, draw_faults
from tests.sim.jobs import job

KEYS, STEPS = 40, 6


class Totals(App):
    """Pushes ones, and has the servers add up what they have."""

    def tables(self) -> list[Table]:
        """Return a table with a column for each logical worker."""
        return [Table(name="n", size=KEYS, segments=8, width=self.job.logical_workers)]

    def plan(self) -> Plan:
        """Return what all workers have found."""
        return {"found": (yield Task(group="workers", function="count"))}

    async def count(self, worker: Worker) -> list[float]:
        """Return this worker's total after each push, as the servers have it, and how many."""
        ones, found = np.zeros((KEYS, self.job.logical_workers)), []
        ones[:, worker.id] = 1.0
        for _ in range(STEPS):
            await worker.push("n", None, ones)
            found.append(sum(await worker.call("servers", "total", column=worker.id)))
        return found

    def total(self, stores: Stores, column: int) -> float:
        """Return the sum of a column over what this server owns."""
        part = stores["n"]
        ranges = [part.table.segment_range(segment) for segment in part.held]
        return float(sum(part.read_range(*one)[1][:, column].sum() for one in ranges))


def run(kind: type[App], seed: int, faults: Faults = CALM) -> Simulation:
    """Return the simulation of a run that is over."""
    config = job("run.spares=1", servers=3, workers=3, logical=3)
    simulation = Simulation(kind, config, seed, faults)
    simulation.run()
    return simulation


def test_all_servers_answer_each_for_what_it_owns() -> None:
    found = run(Totals, 1).scheduler.result["found"]
    assert found == [[KEYS * step for step in range(1, STEPS + 1)]] * 3


def test_results_are_whole_under_faults_and_when_servers_and_workers_die() -> None:
    """Nothing that was pushed is missing, and no segment is counted by two servers."""
    assert sum(check_deaths(seed) for seed in range(30)) > 15


def check_deaths(seed: int) -> int:
    """Require of a run with a death that its totals are whole; return how many have died."""
    random = np.random.default_rng(seed)
    kill = float(random.uniform(0.02, 0.15)), int(random.integers(1, 7))
    try:
        simulation = run(Totals, seed, replace(draw_faults(random, 8), kills=(kill,)))
    except RanksLostError:
        return 0
    for totals in simulation.scheduler.result["found"]:
        # Whoever does a dead worker's call again finds what that one has pushed.
        assert totals == sorted(totals), (seed, totals)
        assert totals[-1] == KEYS * STEPS, (seed, totals)
        assert all(total % KEYS == 0 for total in totals), (seed, totals)
    return len(simulation.dead)


def test_servers_that_are_not_asked_again_after_a_death_are_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Asking, "install", lambda self, view: [])
    with pytest.raises((AssertionError, ProtocolError)):
        sum(check_deaths(seed) for seed in range(30))


def test_call_of_a_worker_is_finished_when_its_own_calls_are() -> None:
    class Hasty(Totals):
        """Does not wait for what it has called."""

        async def count(self, worker: Worker) -> list[float]:
            """Call, and return."""
            worker.call("servers", "total", column=0)
            return []

    trace = run(Hasty, 3).network.trace
    for node in (4, 5, 6):
        told = [a.seconds for a in trace if a.message == "Told" and a.dest == node]
        (returned,) = [a.seconds for a in trace if a.message == "Return" and a.source == node]
        assert len(told) == 3
        assert max(told) < returned


@pytest.mark.parametrize(("group", "function", "what"), [
    ("servers", "breaks", "your app Broken.breaks raised ZeroDivisionError"),
    ("servers", "nothing", "cannot be called as its plan asks"),
    ("workers", "total", "can call the servers, and not workers"),
])  # fmt: skip
def test_wrong_call_is_the_apps_error(group: str, function: str, what: str) -> None:
    class Broken(Totals):
        """Calls what it should not."""

        async def count(self, worker: Worker) -> Any:
            """Call."""
            return await worker.call(group, function)

        def breaks(self, stores: Stores) -> float:
            """Fail."""
            return 1 / 0

    with pytest.raises(MpipsError) as caught:
        run(Broken, 1)
    assert caught.value.exit_code == 1
    assert what.removeprefix("your app ") in caught.value.what
