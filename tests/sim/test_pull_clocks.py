"""After deaths, too, pulls have exactly the pushes that their clocks say."""

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from mpips import Table
from mpips.core.clock import Piece
from mpips.core.held import Held
from mpips.core.task import Plan, Task
from mpips.errors import RanksLostError
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.testing.checkers import digits
from mpips.testing.cluster import Simulation
from mpips.testing.faults import draw_faults, draw_kills
from mpips.testing.ledger import BASE
from mpips.wire.types import KeyArray
from tests.sim.jobs import job

KEYS, CALLS, PUSHES, WORKERS = 16, 4, 3, 3
SEEDS = range(12)

Look = tuple[Any, list[list[Piece]]]


@functools.cache
def keys_of(seed: int, worker: int, clock: int) -> KeyArray:
    """Return the keys that a logical worker pushes at a clock."""
    random = np.random.default_rng([seed, worker, clock])
    chosen = random.choice(KEYS, random.integers(0, KEYS), replace=False)
    keys = np.sort(chosen).astype(np.uint64)
    keys.flags.writeable = False
    return keys


class Looking(App):
    """Pushes powers, each its own, and pulls them with their clocks."""

    tables_more: ClassVar[dict[str, Any]]

    def tables(self) -> list[Table]:
        """Return a table with a column for each logical worker."""
        width = self.job.logical_workers
        return [Table(name="n", size=KEYS, segments=5, width=width, **self.tables_more)]

    def plan(self) -> Plan:
        """Return all that was seen."""
        looks = []
        for call in range(CALLS):
            arguments = {"done": call * PUSHES}
            found = yield Task(group="workers", function="look", arguments=arguments)
            looks += [look for part in found for look in part]
        return {"looks": looks}

    async def look(self, worker: Worker, done: int) -> list[Any]:
        """Push and pull, now and then without waiting."""
        pulls = [worker.pull("n", clocks=True)]
        for clock in range(done + 1, done + PUSHES + 1):
            keys = keys_of(self.job.config.run.seed, worker.id, clock)
            values = np.zeros((len(keys), self.job.logical_workers))
            values[:, worker.id] = BASE ** (clock - 1)
            push = worker.push("n", keys, values, clock=clock)
            pulls.append(worker.pull("n", clocks=True))
            if clock % 2:
                await push
        return [(await pull, pull.clocks) for pull in pulls]


def check(looks: list[Look], seed: int) -> list[str]:
    """Return where values and clocks differ."""
    wrong = []
    for values, clocks in looks:
        seen = digits(values, CALLS * PUSHES)
        for stream, pieces in enumerate(clocks):
            if [begin for begin, _, _ in pieces] != [0, *(end for _, end, _ in pieces[:-1])]:
                wrong.append(f"clocks with gaps: {pieces}")
            for clock in range(1, CALLS * PUSHES + 1):
                pushed = set(keys_of(seed, stream, clock).tolist())
                for begin, end, time in pieces:
                    wanted = [clock <= time and key in pushed for key in range(begin, end)]
                    if seen[begin:end, stream, clock - 1].tolist() != wanted:
                        wrong.append(f"worker {stream}, clock {clock} of {time}, keys from {begin}")
    return wrong


def run(seed: int, tables: dict[str, Any]) -> tuple[list[str], int]:
    """Return what is wrong in a run with deaths, and how many there were."""
    config = job(f"run.seed={seed}", "run.spares=1", servers=3, workers=3, logical=WORKERS)
    random = np.random.default_rng(seed)
    faults = draw_faults(random, 8)
    span = faults.delay_s, 300 * faults.delay_s
    faults = replace(faults, kills=draw_kills(random, 8, span), after_begin=True)
    kind = type("Looking", (Looking,), {"tables_more": tables})
    simulation = Simulation(kind, config, seed, faults)
    try:
        looks = simulation.run()["looks"]
    except RanksLostError:
        return [], 0
    assert len(looks) == WORKERS * CALLS * (PUSHES + 1)
    return check(looks, seed), len(simulation.dead)


MODES: dict[str, dict[str, Any]] = {
    "sequential": {"mode": "sequential", "aggregate": True},
    "bounded": {"mode": "bounded", "max_delay": 2},
    "eventual": {"aggregate": True},
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_pulls_have_exactly_the_pushes_of_their_clocks_when_servers_and_workers_die(
    mode: str,
) -> None:
    found = [run(seed, MODES[mode]) for seed in SEEDS]
    assert [wrong for wrong, _ in found if wrong] == []
    assert sum(deaths for _, deaths in found) > 5


def test_clocks_that_wait_for_copies_are_not_those_of_the_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pull may show what is not on all copies yet; then its clocks have to say so."""
    contained = Held.contained

    def late(held: Held, segments: Sequence[int], updates: Any, *rest: Any) -> list[list[Piece]]:
        return contained(held, segments, (), *rest)

    monkeypatch.setattr(Held, "contained", late)
    assert any(run(seed, MODES["bounded"])[0] for seed in range(8))
