"""Random schedules of pushes and pulls, each with an oracle that knows what must come out."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from mpips.core.slicing import Range
from mpips.store.user import UserUpdate
from mpips.wire.types import DTYPES, KeyArray, Table
from tests.core.world import Program, Ticket, Violation, World, draw_keys, draw_shape, draw_table

FACTOR, MODULUS = 31.0, 1_000_003.0


class History(UserUpdate):
    """Keeps a hash of what each logical worker has pushed to a key, in the order of coming.

    Column u belongs to logical worker u; a 0 pushes nothing to a column. A push that is lost,
    applied twice, or out of order gives another hash.
    """

    state: ClassVar[dict[str, float]] = {"w": 0.0}

    def update(self, s: Any, values: np.ndarray) -> None:
        """Add to the hashes."""
        s.w = np.where(values > 0, np.mod(s.w * FACTOR + values, MODULUS), s.w)


def keys_of(where: KeyArray | Range) -> list[int]:
    """Return the keys of a key list or of a small range."""
    return list(range(*where)) if isinstance(where, tuple) else where.tolist()


def draw_range(rng: np.random.Generator, table: Table) -> Range:
    """Return a range of keys, now and then the whole table."""
    if rng.random() < 0.3:
        return 0, table.size
    if table.kind == "dense":
        low, high = sorted(rng.integers(0, table.size + 1, 2).tolist())
    else:
        low, high = sorted(rng.integers(0, 2**64, 2, dtype=np.uint64).tolist())
    return low, high


class FreeSchedule:
    """Pushes that are applied as they come, each logical worker's in its own order.

    The oracle knows for every key and logical worker the hash after each push. A pull must see
    at least all pushes that were acknowledged when it began, at most those that have begun when
    it ended, and of each logical worker a prefix.
    """

    def __init__(self, seed: int, **machines: Any) -> None:
        self.rng = rng = np.random.default_rng([seed, 0])
        shape = draw_shape(rng)
        self.table, self.keys = draw_table(rng, update=History, width=shape.streams)
        self.world = World(rng, self.table, shape, **machines)
        self.world.on_finish = self.finish
        # By key and logical worker: the hash after each push, and the number acknowledged.
        self.hashes: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0])
        self.acked: dict[tuple[int, int], int] = defaultdict(int)
        self.pushes: dict[Ticket, list[tuple[int, int, int]]] = {}
        self.pulls: dict[Ticket, tuple[KeyArray | Range, dict[tuple[int, int], int]]] = {}
        self.early: list[Ticket] = []

    def run(self) -> World:
        """Run the schedule and check all that it gives."""
        streams = range(self.world.shape.streams)
        self.world.run([self.work(stream) for stream in streams])
        for key in self.keys:
            last = [self.hashes[int(key), stream][-1] for stream in streams]
            if self.world.peek(np.array([key]))[0].tolist() != last:
                raise Violation(f"key {key}: a push was lost, applied twice, or out of order")
        return self.world

    def work(self, stream: int) -> Program:
        """Do some pushes and pulls, and wait for some of them."""
        rng, before = self.rng, []
        for _ in range(int(rng.integers(1, 9))):
            kind = rng.choice(["push", "pull", "push_pull"])
            after = before[-2:] if rng.random() < 0.3 else []
            ticket = self.start(stream, str(kind), after)
            before.append(ticket)
            # What waits for others is numbered later than what comes after it.
            if rng.random() < 0.3 or (after and kind != "pull"):
                yield ticket
            else:
                yield None
        for ticket in before:
            yield ticket

    def start(self, stream: int, kind: str, after: list[Ticket]) -> Ticket:
        """Start a push, a pull or both, and note what it must see."""
        where = self.draw_where(kind)
        values, pushed = None, []
        needed = {
            (key, other): self.acked[key, other]
            for key in self.keys.tolist()
            for other in range(self.world.shape.streams)
        }
        for ticket in after:
            for key, other, count in self.pushes.get(ticket, ()):
                needed[key, other] = max(needed[key, other], count)
        if kind != "pull":
            keys = keys_of(where)
            values = np.zeros((len(keys), self.table.width))
            values[:, stream] = self.rng.integers(1, 1000, len(keys))
            for key, value in zip(keys, values[:, stream].tolist(), strict=True):
                hashes = self.hashes[key, stream]
                hashes.append((hashes[-1] * FACTOR + value) % MODULUS)
                pushed.append((key, stream, len(hashes) - 1))
                needed[key, stream] = len(hashes) - 1
        ticket = self.predict(stream)
        if pushed:
            self.pushes[ticket] = pushed
        if kind != "push":
            self.pulls[ticket] = where, needed
        # Tasks that start later than others of theirs are finished later, too.
        open_before = [t for t in after if t not in self.world.results]
        started = self.world.start(stream, where, values, pull=kind != "push", after=after)
        assert started == ticket
        if open_before and ticket in self.world.results:
            raise Violation(f"{ticket} did not wait for {open_before}")
        return ticket

    def predict(self, stream: int) -> Ticket:
        """Return the ticket that the next task of a logical worker will have."""
        node = self.world.shape.servers + 1 + stream % self.world.shape.clients
        return node, self.world.clients[node]._timestamp + 1

    def draw_where(self, kind: str) -> KeyArray | Range:
        """Return a key list, or a range where one is allowed."""
        if self.rng.random() < 0.4 and (kind == "pull" or self.table.kind == "dense"):
            return draw_range(self.rng, self.table)
        return draw_keys(self.rng, self.keys)

    def finish(self, ticket: Ticket) -> None:
        """Check a finished task: what it pushed is applied, and what it pulled makes sense."""
        for key, stream, count in self.pushes.get(ticket, ()):
            self.acked[key, stream] = max(self.acked[key, stream], count)
            seen = self.world.peek(np.array([key], np.uint64))[0, stream]
            if seen not in self.hashes[key, stream][count:]:
                raise Violation(f"{ticket} is acknowledged before it is applied to key {key}")
        if ticket in self.pulls:
            where, needed = self.pulls[ticket]
            for key, row in self.found(ticket, where, needed):
                for stream, seen in enumerate(row):
                    if seen not in self.hashes[key, stream][needed[key, stream] :]:
                        raise Violation(f"{ticket} pulled {seen} from key {key}: too old, or wrong")

    def found(
        self, ticket: Ticket, where: KeyArray | Range, needed: dict[tuple[int, int], int]
    ) -> Iterator[tuple[int, list[float]]]:
        """Yield the keys and rows that a pull gave."""
        result = self.world.results[ticket]
        if self.table.kind == "dense" or not isinstance(where, tuple):
            keys, rows = keys_of(where), result
        else:
            keys, rows = result[0].tolist(), result[1]
            there = {k for (k, _), n in needed.items() if n and where[0] <= k < where[1]}
            if keys != sorted(set(keys)) or not there <= set(keys):
                raise Violation(f"{ticket} pulled the keys {keys}, not all of {there}, or unsorted")
        if len(rows) != len(keys):
            raise Violation(f"{ticket} pulled {len(rows)} rows for {len(keys)} keys")
        yield from zip(keys, rows.tolist(), strict=True)


@dataclass
class Clock:
    """What all logical workers push in one clock: their keys and values, in the order of ids."""

    number: int
    within: Range | None
    parts: list[tuple[KeyArray | Range, np.ndarray]]


class SumSchedule:
    """Logical workers that push the same clocks to an aggregating table, and pull in between.

    The oracle is the serial program: the state after each clock, value by value. In `sequential`
    a pull between a worker's clocks t and t + 1 gives the state after t, bit for bit.
    """

    def __init__(self, seed: int, **machines: Any) -> None:
        self.rng = rng = np.random.default_rng([seed, 1])
        shape = draw_shape(rng)
        mode = "sequential" if rng.random() < 0.8 else "eventual"
        more = {"width": int(rng.integers(1, 3)), "dtype": str(rng.choice(["f4", "f8"]))}
        self.table, self.keys = draw_table(rng, aggregate=True, mode=mode, **more)
        self.world = World(rng, self.table, shape, **machines)
        self.world.on_finish = self.finish
        explicit = bool(rng.random() < 0.5)
        count = int(rng.integers(1, 6))
        self.clocks = [self.draw_clock(3 * n + 2 if explicit else 0) for n in range(count)]
        self.states = list(self.add_up())
        # The clocks that each logical worker has begun, those whose pushes are finished, and the
        # last up to which all are.
        self.begun = [0] * shape.streams
        self.done: list[set[int]] = [set() for _ in range(shape.streams)]
        self.acked = [0] * shape.streams
        self.pushes: dict[Ticket, tuple[int, int]] = {}
        self.pulls: dict[Ticket, tuple[KeyArray | Range, int]] = {}

    def draw_clock(self, number: int) -> Clock:
        """Return random pushes of one clock, of values whose sum depends on the order."""
        rng, streams = self.rng, self.world.shape.streams
        if self.table.kind == "dense" and rng.random() < 0.4:
            where = draw_range(rng, self.table)
            return Clock(number, None, [self.draw_part(where) for _ in range(streams)])
        within = draw_range(rng, self.table) if rng.random() < 0.5 else None
        pool = self.keys
        if within is not None:
            pool = np.array([k for k in pool.tolist() if within[0] <= k < within[1]], np.uint64)
        return Clock(number, within, [self.draw_part(draw_keys(rng, pool)) for _ in range(streams)])

    def draw_part(self, where: KeyArray | Range) -> tuple[KeyArray | Range, np.ndarray]:
        """Return one logical worker's push."""
        shape = len(keys_of(where)), self.table.width
        values = self.rng.normal(size=shape) * 10.0 ** self.rng.integers(-6, 7, shape)
        return where, values.astype(DTYPES[self.table.dtype])

    def add_up(self) -> Iterator[dict[int, np.ndarray]]:
        """Yield the state after each clock, from 0: the serial program."""
        state: dict[int, np.ndarray] = {}
        yield state
        for clock in self.clocks:
            sums: dict[int, np.ndarray] = {}
            for where, values in clock.parts:
                for key, value in zip(keys_of(where), values, strict=True):
                    sums[key] = sums[key] + value if key in sums else value
            state = dict(state)
            for key, value in sums.items():
                state[key] = state.get(key, np.zeros_like(value)) + value
            yield state

    def run(self) -> World:
        """Run the schedule and check all that it gives."""
        streams = range(self.world.shape.streams)
        self.world.run([self.work(stream) for stream in streams])
        seen = self.world.peek(self.keys)
        for key, row in zip(self.keys.tolist(), seen, strict=True):
            if row.tobytes() != self.expected(len(self.clocks), key):
                raise Violation(f"key {key} is not the serial program's in the end")
        return self.world

    def work(self, stream: int) -> Program:
        """Push clock after clock, pull in between, and wait for some of it."""
        rng, tickets = self.rng, []
        for number, clock in enumerate(self.clocks, 1):
            while rng.random() < 0.5:
                tickets.append(self.pull(stream, tickets))
                yield tickets[-1] if rng.random() < 0.6 else None
            where, values = clock.parts[stream]
            pull = bool(rng.random() < 0.3)
            self.begun[stream] = number
            more = {"pull": pull, "clock": clock.number, "within": clock.within}
            ticket = self.world.start(stream, where, values, **more)
            self.pushes[ticket] = stream, number
            if pull:
                self.pulls[ticket] = where, number
            if ticket in self.world.results:
                self.finish(ticket)
            tickets.append(ticket)
            yield ticket if rng.random() < 0.4 else None
        tickets.append(self.pull(stream, tickets))
        for ticket in tickets:
            yield ticket

    def pull(self, stream: int, before: list[Ticket]) -> Ticket:
        """Pull something."""
        where = draw_keys(self.rng, self.keys)
        if self.rng.random() < 0.5:
            where = draw_range(self.rng, self.table)
        eventual = self.table.mode == "eventual"
        low = self.acked[stream] if eventual else self.begun[stream]
        ticket = self.world.start(stream, where, pull=True)
        self.pulls[ticket] = where, low
        if ticket in self.world.results:
            self.finish(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """Check a finished task: its clock is summed, and what it pulled is a state of its time."""
        # Segments that a clock has not touched are after it as they were before.
        high = min(self.begun)
        if ticket in self.pushes:
            stream, number = self.pushes[ticket]
            self.done[stream].add(number)
            while self.acked[stream] + 1 in self.done[stream]:
                self.acked[stream] += 1
            where, _ = self.clocks[number - 1].parts[stream]
            keys = np.array(keys_of(where), np.uint64)
            if len(keys):
                self.check(ticket, keys.tolist(), self.world.peek(keys), number, high)
        if ticket in self.pulls:
            where, low = self.pulls[ticket]
            result = self.world.results[ticket]
            if self.table.kind == "sparse" and isinstance(where, tuple):
                keys, rows = result[0].tolist(), result[1]
                self.check_existing(ticket, where, keys, low, high)
            else:
                keys, rows = keys_of(where), result
            self.check(ticket, keys, rows, low, high)

    def check(self, ticket: Ticket, keys: list[int], rows: np.ndarray, low: int, high: int) -> None:
        """Require of every key that it is as after one of the clocks from `low` to `high`."""
        for key, row in zip(keys, rows, strict=True):
            if row.tobytes() not in [self.expected(n, key) for n in range(low, max(low, high) + 1)]:
                raise Violation(f"{ticket}: key {key} is not as after clocks {low} to {high}")

    def check_existing(
        self, ticket: Ticket, where: Range, keys: list[int], low: int, high: int
    ) -> None:
        """Require that a range of a sparse table has the keys that exist, sorted."""
        least, most = (
            {key for key in self.states[n] if where[0] <= key < where[1]}
            for n in (low, max(low, high))
        )
        if keys != sorted(set(keys)) or not least <= set(keys) <= most:
            raise Violation(f"{ticket}: the range {where} has the keys {keys}")

    def expected(self, clock: int, key: int) -> bytes:
        """Return the bits of a key after a clock."""
        zero = np.zeros(self.table.width, DTYPES[self.table.dtype])
        return self.states[clock].get(key, zero).tobytes()
