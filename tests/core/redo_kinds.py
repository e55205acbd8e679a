"""Three kinds of calls that are done again: histories, with and without clocks, and sums."""

from typing import Any

import numpy as np

from mpips.core.slicing import Range
from mpips.wire.types import DTYPES, KeyArray, Table
from tests.core.redo import Attempt, Op, RedoSchedule, inside
from tests.core.schedules import FACTOR, MODULUS, History, draw_range
from tests.core.world import Violation, draw_keys, draw_table


class FreeRedo(RedoSchedule):
    """Pushes of an eventual table: of each logical worker, all are applied once and in order."""

    kind = 2

    def draw_table(self) -> tuple[Table, KeyArray]:
        """Return a table of histories."""
        return draw_table(self.rng, update=History, width=self.sizes.streams)

    def draw_scripts(self, calls: int) -> list[list[list[Op]]]:
        """Return calls of pushes and pulls of any keys, and what they leave."""
        streams, pushes = range(self.sizes.streams), self.draw_pushes(calls)
        scripts = []
        most = int(pushes.sum(axis=1).max())
        # By key, logical worker and number: the hash after so many pushes of the key; and by
        # logical worker and number of the push: how many pushes of each key there were.
        self.hashes = np.full((len(self.keys), len(streams), most + 1), -1.0)
        self.hashes[:, :, 0] = 0.0
        self.counts = np.zeros((len(streams), most + 1, len(self.keys)), np.int64)
        for stream in streams:
            count, script = 0, []
            for call in range(calls):
                ops: list[Op] = []
                for left in range(int(pushes[stream, call]), -1, -1):
                    while self.rng.random() < 0.4 or not (left or ops):
                        ops.append(self.draw_op(stream, "pull", count, len(ops)))
                    if left:
                        count += 1
                        kind = "both" if self.rng.random() < 0.2 else "push"
                        ops.append(self.draw_op(stream, kind, count, len(ops)))
                script.append(ops)
            scripts.append(script)
        return scripts

    def draw_pushes(self, calls: int) -> np.ndarray:
        """Return how many pushes each logical worker's calls have."""
        return self.rng.integers(0, 4, (self.sizes.streams, calls))

    def draw_op(self, stream: int, kind: str, count: int, place: int) -> Op:
        """Return a push, a pull, or both; and note what a push changes."""
        rng, values = self.rng, None
        where, at = self.draw_where(0.3 if kind == "pull" or self.may_push_ranges else 0.0)
        if kind != "pull":
            values = np.zeros((len(at), self.table.width))
            values[:, stream] = rng.integers(1, 1000, len(at))
            counts = self.counts[stream]
            counts[count:] = counts[count - 1]
            before = self.hashes[at, stream, counts[count, at]]
            counts[count:, at] += 1
            after = np.mod(before * FACTOR + values[:, stream], MODULUS)
            self.hashes[at, stream, counts[count, at]] = after
        befores = list(range(max(0, place - 2), place)) if rng.random() < 0.2 else []
        # What waits for others is numbered later than what comes after it.
        waits = bool(rng.random() < 0.3) or (bool(befores) and kind != "pull")
        return Op(where, at, values, kind != "push", count, waits, befores)

    @property
    def may_push_ranges(self) -> bool:
        """Whether pushes may be of ranges."""
        return self.table.kind == "dense"

    def find(self, at: np.ndarray, rows: np.ndarray, low: np.ndarray) -> bool:
        """Return whether rows are between two sets of pushes, for each logical worker."""
        streams = np.arange(self.sizes.streams)
        high = self.counts[streams, self.begun].T[at]
        places = np.arange(self.hashes.shape[2])
        is_in = (places >= low[at][..., None]) & (places <= high[..., None])
        return bool((is_in & (self.hashes[at] == rows[..., None])).any(axis=2).all())

    def check_push(self, attempt: Attempt, op: Op) -> None:
        """Require that the owners have the push."""
        stream = attempt.stream
        for mine in (self.acked[:, stream], attempt.mine):
            mine[op.at] = np.maximum(mine[op.at], self.counts[stream, op.count, op.at])
        if len(op.at) and not self.find(op.at, self.cluster.peek(self.keys[op.at]), self.acked):
            raise Violation(f"push {op.count} of {stream} is acknowledged before it is applied")

    def check_pull(self, attempt: Attempt, op: Op, low: np.ndarray, result: Any) -> None:
        """Require all that was acknowledged, and its own pushes of which it knew."""
        low, stream = low.copy(), attempt.stream
        for before in [*(attempt.script[at] for at in op.after), op]:
            if before.values is not None:
                counts = self.counts[stream, before.count, before.at]
                low[before.at, stream] = np.maximum(low[before.at, stream], counts)
        self.raise_low(low, op)
        at, rows, keys = op.at, result, self.keys[:0]
        if isinstance(result, tuple):
            keys, rows = result
            at = np.searchsorted(self.keys, np.asarray(keys))
            gone = np.setdiff1d(op.at, at)
            if not np.isin(keys, self.keys[op.at]).all() or low[gone].any():
                raise Violation(f"a pull of {op.where} gave the keys {keys}")
        if len(rows) != len(at) or not self.find(at, rows, low):
            raise Violation(f"a pull of {stream} after push {op.count} is too old, or wrong")

    def raise_low(self, low: np.ndarray, op: Op) -> None:
        """Raise what a pull must see at least."""

    def check_values(self) -> None:
        """Require that each push was applied once, and in its order."""
        everything = self.counts[:, -1].T
        at = np.arange(len(self.keys))
        self.begun[:] = self.counts.shape[1] - 1
        if not self.find(at, self.cluster.peek(self.keys), everything):
            raise Violation("a push was lost, applied twice, or out of order")


class BoundedRedo(FreeRedo):
    """Pushes of a table with a bounded delay: a pull sees what all pushed until long enough ago."""

    kind = 3
    may_push_ranges = False

    def draw_table(self) -> tuple[Table, KeyArray]:
        """Return a table of histories."""
        more: dict[str, Any] = {"mode": "bounded", "max_delay": int(self.rng.integers(0, 3))}
        return draw_table(self.rng, update=History, width=self.sizes.streams, **more)

    def draw_pushes(self, calls: int) -> np.ndarray:
        """Return how many pushes calls have: all logical workers' have as many."""
        return np.tile(self.rng.integers(0, 4, calls), (self.sizes.streams, 1))

    def raise_low(self, low: np.ndarray, op: Op) -> None:
        """Let the oldest clock that may be missing be the table's delay ago."""
        due = max(0, op.count - self.table.max_delay)
        np.maximum(low, self.counts[:, due].T, out=low)


class SumRedo(RedoSchedule):
    """Sums of all logical workers' pushes, one in each call: reads are as of their task."""

    kind = 4

    def draw_table(self) -> tuple[Table, KeyArray]:
        """Return a sequential table."""
        return draw_table(self.rng, aggregate=True, mode="sequential")

    def draw_scripts(self, calls: int) -> list[list[list[Op]]]:
        """Return calls of one push and pulls around it, and compute the serial program."""
        rng, keys = self.rng, self.keys
        self.states = np.zeros((calls + 1, len(keys)))
        # By clock: which keys are there.
        self.there = np.zeros((calls + 1, len(keys)), bool)
        scripts: list[list[list[Op]]] = [[] for _ in range(self.sizes.streams)]
        for clock in range(1, calls + 1):
            total, touched = np.zeros(len(keys)), np.zeros(len(keys), bool)
            common, within = self.draw_within()
            for script in scripts:
                places = [int(n) for n in rng.integers(0, 3, 2)]
                push = self.draw_push(clock, common, within)
                assert push.values is not None
                first, both = push.at[~touched[push.at]], touched[push.at]
                values = push.values[:, 0]
                total[first] = values[~both]
                total[push.at[both]] += values[both]
                touched[push.at] = True
                script.append([
                    *(self.draw_pull(clock - 1) for _ in range(places[0])),
                    push,
                    *(self.draw_pull(clock) for _ in range(places[1])),
                ])
            self.states[clock] = self.states[clock - 1] + total
            self.there[clock] = self.there[clock - 1] | touched
        return scripts

    def draw_within(self) -> tuple[Range | None, Range | None]:
        """Return the range that all push, or the one in which they push lists."""
        within = draw_range(self.rng, self.table)
        if self.table.kind == "dense" and self.rng.random() < 0.4:
            return within, None
        return None, within if within[0] < within[1] else None

    def draw_push(self, clock: int, common: Range | None, within: Range | None) -> Op:
        """Return a logical worker's push of a clock, of values whose sum depends on the order."""
        rng, keys = self.rng, self.keys
        where: KeyArray | Range | None = common
        at = np.arange(len(keys))
        if limits := common or within:
            at = inside(keys, limits)
        values = rng.normal(size=(len(at), 1)) * 10.0 ** rng.integers(-6, 7, (len(at), 1))
        if where is None:
            where = draw_keys(rng, keys[at])
            at = np.searchsorted(keys, where)
            values = values[: len(at)]
        values = values.astype(DTYPES[self.table.dtype])
        waits, pull = bool(rng.random() < 0.4), bool(rng.random() < 0.3)
        return Op(where, at, values, pull, clock, waits, [], clock, within)

    def draw_pull(self, clock: int) -> Op:
        """Return a pull of what the serial program has after a clock; it is waited for."""
        where, at = self.draw_where(0.5)
        return Op(where, at, None, True, clock, True, [])

    def check_push(self, attempt: Attempt, op: Op) -> None:
        """Require that the owners have the sum, or the next one."""
        seen = self.cluster.peek(self.keys[op.at])[:, 0] if len(op.at) else np.zeros(0)
        for clock in (op.count, min(op.count + 1, int(self.begun.min()))):
            if seen.tobytes() == self.states[clock, op.at].tobytes():
                return
        raise Violation(f"clock {op.count} is acknowledged before it is summed")

    def check_pull(self, attempt: Attempt, op: Op, low: np.ndarray, result: Any) -> None:
        """Require exactly the serial program's values."""
        at, rows, keys = op.at, result, self.keys[:0]
        if isinstance(result, tuple):
            keys, rows = result
            at = np.searchsorted(self.keys, np.asarray(keys))
            gone = np.setdiff1d(op.at, at)
            if not np.isin(keys, self.keys[op.at]).all() or self.there[op.count, gone].any():
                raise Violation(f"a pull of {op.where} gave the keys {keys}")
        if rows[:, 0].tobytes() != self.states[op.count, at].tobytes():
            who = "again " if attempt.takes_over is not None else ""
            raise Violation(f"what {attempt.stream} read {who}is not as after clock {op.count}")

    def check_values(self) -> None:
        """Require the serial program's values."""
        if self.cluster.peek(self.keys)[:, 0].tobytes() != self.states[-1].tobytes():
            raise Violation("the sums are not those of the serial program")
