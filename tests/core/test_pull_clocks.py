"""The clocks of a pull say which pushes are in it, and no others are (OSDI 2014, section 4.1)."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from mpips.core.clock import Piece
from mpips.core.held import Held
from mpips.core.machine import Effect, Finished
from mpips.core.slicing import Range
from mpips.wire.types import KeyArray, Table
from tests.core.schedules import FACTOR, MODULUS, History, draw_range, keys_of
from tests.core.world import Program, Ticket, Violation, World, draw_keys, draw_shape, draw_table
from tests.paper.cast import Cast

SEEDS = 60


class ClockedWorld(World):
    """A world that keeps the clocks of finished pulls."""

    def _carry_out(self, node: int, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Finished):
                self.clocks[node, effect.timestamp] = effect.clocks
        super()._carry_out(node, effects)

    @property
    def clocks(self) -> dict[Ticket, list[list[Piece]] | None]:
        """Return the clocks by ticket."""
        return self.__dict__.setdefault("_clocks", {})


class ClockedSchedule:
    """Logical workers that push clock after clock, and pull with clocks in between.

    The oracle is a dense clock for each key and logical worker: it knows what a key has to hold
    for each of them after each of its clocks.
    """

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng([seed, 2])
        shape = draw_shape(rng)
        mode: dict[str, Any] = {"mode": "bounded", "max_delay": int(rng.integers(0, 4))}
        aggregate = bool(rng.random() < 0.5)
        if aggregate:
            mode = {"mode": str(rng.choice(["sequential", "eventual"]))}
        self.table, self.keys = draw_table(
            rng, update=History, width=shape.streams, aggregate=aggregate, **mode
        )
        self.world = ClockedWorld(rng, self.table, shape)
        self.world.on_finish = self.finish
        count, step = int(rng.integers(1, 7)), int(rng.integers(1, 4))
        self.withins = {
            step * n: draw_range(rng, self.table) if rng.random() < 0.5 else None
            for n in range(1, count + 1)
        }
        # By key and logical worker: clocks of its pushes of the key, and the hash after each.
        self.dense: dict[tuple[int, int], list[tuple[int, float]]]
        self.dense = defaultdict(lambda: [(0, 0.0)])
        self.pulls: dict[Ticket, KeyArray | Range] = {}
        self.seen = 0

    def run(self) -> int:
        """Run the schedule and check all that it gives; return how many pushes pulls contained."""
        self.world.run([self.work(stream) for stream in range(self.world.shape.streams)])
        return self.seen

    def work(self, stream: int) -> Program:
        """Push clock after clock, and pull in between."""
        rng, tickets = self.rng, []
        for clock, within in self.withins.items():
            pool = self.keys
            if within is not None:
                inside = [key for key in pool.tolist() if within[0] <= key < within[1]]
                pool = np.array(inside, np.uint64)
            keys = draw_keys(rng, pool)
            values = np.zeros((len(keys), self.table.width))
            values[:, stream] = rng.integers(1, 1000, len(keys))
            for key, value in zip(keys.tolist(), values[:, stream].tolist(), strict=True):
                history = self.dense[key, stream]
                history.append((clock, (history[-1][1] * FACTOR + value) % MODULUS))
            pull = bool(rng.random() < 0.3)
            more = {"clock": clock, "within": within, "pull": pull, "clocks": pull}
            tickets.append(self.start(stream, keys, values, **more))
            yield tickets[-1] if rng.random() < 0.4 else None
            where = draw_keys(rng, self.keys)
            if rng.random() < 0.5:
                where = draw_range(rng, self.table)
            tickets.append(self.start(stream, where, pull=True, clocks=True))
            yield tickets[-1] if rng.random() < 0.4 else None
        yield from tickets

    def start(self, stream: int, where: Any, values: Any = None, **more: Any) -> Ticket:
        """Start a task, and check it if it is finished at once."""
        ticket = self.world.start(stream, where, values, **more)
        if more["pull"]:
            self.pulls[ticket] = where
            if ticket in self.world.results:
                self.finish(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Require that a pull has exactly what its clocks say."""
        if ticket not in self.pulls:
            return
        where, result = self.pulls[ticket], self.world.results[ticket]
        if self.table.kind == "sparse" and isinstance(where, tuple):
            keys, rows = result[0].tolist(), result[1].tolist()
        else:
            keys, rows = keys_of(where), result.tolist()
        clocks = self.world.clocks[ticket]
        for key, row in zip(keys, rows, strict=True):
            assert clocks is not None
            for stream, seen in enumerate(row):
                (clock,) = [time for b, e, time in clocks[stream] if b <= key < e]
                pushes = [hash for when, hash in self.dense[key, stream] if when <= clock]
                self.seen += len(pushes) - 1
                if seen != pushes[-1]:
                    raise Violation(f"{ticket}: key {key} is not as after clock {clock}")


def run_all() -> int:
    """Return how many pushes all schedules' pulls have contained."""
    return sum(ClockedSchedule(seed).run() for seed in range(SEEDS))


def test_pulls_have_exactly_the_pushes_that_their_clocks_say() -> None:
    assert run_all() > 100 * SEEDS


@pytest.mark.parametrize("shift", [-1, 1])
def test_clocks_that_are_off_by_one_are_caught(monkeypatch: pytest.MonkeyPatch, shift: int) -> None:
    contained = Held.contained

    def shifted(held: Held, segments: Sequence[int], *rest: Any) -> list[list[Piece]]:
        found = contained(held, segments, *rest)
        return [[(b, e, max(0, time + shift)) for b, e, time in pieces] for pieces in found]

    monkeypatch.setattr(Held, "contained", shifted)
    with pytest.raises(Violation, match="is not as after clock"):
        run_all()


def test_clocks_of_several_servers_are_merged_into_ranges_of_keys() -> None:
    cast = Cast(Table(name="w", size=10, segments=5, mode="bounded", max_delay=9), 3, 2)
    cast.push((0, 10), 1.0)
    cast.push((4, 6), 1.0)
    cast.push((0, 4), 1.0, worker=1, clock=7)
    cast.deliver_all()
    pull = cast.pull((1, 8), clocks=True)
    cast.deliver_all()
    assert cast.clocks[pull] == [[(0, 4, 1), (4, 6, 2), (6, 8, 1)], [(0, 4, 7), (4, 8, 0)]]
    # Segments without keys that were asked for are left out, and nobody gets what it did not want.
    pull = cast.pull(np.array([0, 9], np.uint64), clocks=True)
    other = cast.pull((0, 10))
    cast.deliver_all()
    assert cast.clocks[pull] == [[(0, 2, 1), (8, 10, 1)], [(0, 2, 7), (8, 10, 0)]]
    assert cast.clocks[other] is None
