"""Plans and workers call any node or group; a call is a task with subtasks (OSDI 2014, 3.2)."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mpips import MpipsError, Table, Task
from mpips.core.asking import Asking
from mpips.core.task import Plan
from mpips.errors import AppError, ProtocolError, RanksLostError
from mpips.node.app import App, Stores
from mpips.node.kv import Worker
from mpips.testing.cluster import Simulation
from mpips.testing.faults import CALM, Faults, draw_faults
from tests.sim.jobs import Neighbours, job

KEYS, SEGMENTS, STEPS = 40, 8, 6


class Totals(App):
    """Pushes ones, and has the servers add up what they have."""

    def tables(self) -> list[Table]:
        """Return a table with a column for each logical worker."""
        return [Table(name="n", size=KEYS, segments=SEGMENTS, width=self.job.logical_workers)]

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
    more = [f"model.iterations={STEPS}"] if kind.Settings is Neighbours.Settings else []
    config = job("run.spares=1", *more, servers=3, workers=3, logical=3)
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
    wanted = [KEYS * step for step in range(1, STEPS + 1)]
    for node, totals in enumerate(simulation.scheduler.result["found"], 4):
        if node not in simulation.dead:
            assert totals == wanted, (seed, totals)
        # Whoever does a dead worker's call again finds what that one has pushed, all or in part.
        assert totals == sorted(totals), (seed, totals)
        assert totals[-1] == KEYS * STEPS, (seed, totals)
        assert (np.array(totals) >= wanted).all(), (seed, totals)
        assert all(total % (KEYS // SEGMENTS) == 0 for total in totals), (seed, totals)
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
    ("workers", "total", "cannot be called as its plan asks"),
    ("workers", "late", "your app's late awaits, and a worker calls it on workers"),
    ("workers", "pushes", "neither pushes nor pulls"),
    ("all", "total", "no group 'all' to be called: there are"),
    ("server 0", "total", "no server 0 to be called: there are servers [1, 2, 3], workers [4, 5"),
    ("server 7", "total", "no server 7 to be called"),
    ("server 8", "total", "no server 8 to be called"),
    ("server 4", "total", "no server 4 to be called"),
    ("worker 1", "total", "no worker 1 to be called"),
    ("worker -1", "total", "no group 'worker -1' to be called"),
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

        async def late(self, worker: Worker) -> int:
            """Wait, though nobody can wait for it."""
            await worker.sleep(0.001)
            return worker.id

        def pushes(self, worker: Worker) -> None:
            """Push, though nobody waits for it."""
            worker.push("n", None, np.zeros((KEYS, self.job.logical_workers)))

    with pytest.raises(MpipsError) as caught:
        run(Broken, 1)
    assert caught.value.exit_code == 1
    assert what.removeprefix("your app ") in caught.value.what


SERVERS = [f"server {node}" for node in (1, 2, 3)]
WORKERS = [f"worker {node}" for node in (4, 5, 6)]


def test_plan_and_workers_call_single_nodes_and_groups() -> None:
    result = run(Neighbours, 5).scheduler.result
    assert (result["servers"], result["workers"]) == (SERVERS, WORKERS)
    alone = [result["alone"][node] for node in SERVERS]
    assert sorted(segment for (owned,) in alone for segment in owned) == list(range(8))
    assert [result["alone"][node] for node in WORKERS] == [[0], [1], [2]]
    for found in result["worked"]:
        # Servers answer in the order of their ids, alone or together.
        assert found["servers"] == [[one for (one,) in alone]] * STEPS
        assert [found[node] for node in SERVERS] == [[one] * STEPS for one in alone]
        for looks in zip(*found["workers"], strict=True):
            assert len({worker for worker, _ in looks}) == 1
            steps = [step for _, step in looks]
            assert steps == sorted(steps)
        assert [worker for worker, _ in found["workers"][0]] == [0, 1, 2]
        # Who asks is at this step, and sees it in its own answer.
        (mine,) = found["id"]
        assert [look[mine] for look in found["workers"]] == [[mine, n] for n in range(1, STEPS + 1)]
        for logical, node in enumerate(WORKERS):
            assert [worker for ((worker, _),) in found[node]] == [logical] * STEPS


def test_calls_of_nodes_that_die_are_answered_by_the_next_ones() -> None:
    deaths = 0
    for seed in range(20):
        random = np.random.default_rng([seed, 9])
        kill = float(random.uniform(0.0, 0.05)), int(random.integers(1, 7))
        faults = replace(draw_faults(random, 8), kills=(kill,), after_begin=True)
        simulation = run(Neighbours, seed, faults)
        deaths += len(simulation.dead)
        result = simulation.scheduler.result
        assert all(len(result["alone"][node]) == 1 for node in result["servers"]), seed
        assert all(result["alone"][node] for node in result["workers"]), seed
        for found in result["worked"]:
            everything = [sorted(s for owned in look for s in owned) for look in found["servers"]]
            assert everything == [list(range(8))] * STEPS, seed
            # A logical worker that has just moved has no object yet; nobody is there twice.
            for look in found["workers"]:
                there = [worker for worker, _ in look]
                assert there == sorted(set(there)), seed
                assert found["id"][0] in there, seed
    assert deaths > 10


@pytest.mark.parametrize("group", ["server 0", "worker 7", "server 99"])
def test_plan_that_calls_a_node_that_never_was_is_told(group: str) -> None:
    class Lost(Neighbours):
        """Calls nobody."""

        def plan(self) -> Plan:
            """Call."""
            yield Task(group=group, function="owned")
            return {}

    with pytest.raises(AppError) as caught:
        run(Lost, 1)
    assert f"task owned: there is no {group} to be called" in caught.value.what
