"""What an app's worker methods are given: push, pull, wait, and the shard of the data."""

import math
from collections.abc import Callable, Generator, Iterable
from typing import Any, Protocol

import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect
from mpips.core.slicing import Range
from mpips.node.app import Job
from mpips.node.shard import Shard
from mpips.wire.types import DTYPES, KEY_SPACE, KeyArray, Table, ValueArray

Keys = KeyArray | Range | None
"""Sorted unique keys, uint64 `(n,)`; or a range [begin, end); or None: the whole table."""


_KEY = np.dtype(np.uint64)


class Pending:
    """A push or pull on its way; `await` it for its result.

    Attributes:
        timestamp: its number, which `after` takes.
        worker: the logical worker that has started it.
        is_done: whether it is finished.
        result: what a pull got.
        clocks: of a pull with `clocks=True`: for each logical worker the key ranges pulled and
            their clocks, `(begin, end, clock)`, ascending: in the result are its pushes to the
            range up to this clock, and none after it. Ranges are those of whole segments.
    """

    __slots__ = ("callbacks", "clocks", "is_done", "result", "timestamp", "waiter", "worker")

    def __init__(self, timestamp: int, worker: int) -> None:
        self.timestamp, self.worker = timestamp, worker
        self.is_done = False
        self.result: Any = None
        self.clocks: list[list[tuple[int, int, int]]] | None = None
        self.waiter: Any = None
        # Nearly nobody has any.
        self.callbacks: tuple[Callable[[Any], None], ...] = ()

    def then(self, callback: Callable[[Any], None]) -> None:
        """Have a function called with the result when it is there, which may be now."""
        if self.is_done:
            callback(self.result)
        else:
            self.callbacks += (callback,)

    def finish(self, result: Any) -> None:
        """Take the result, and call who wanted it."""
        self.is_done, self.result = True, result
        for callback in self.callbacks:
            callback(result)

    def __await__(self) -> Generator["Pending", None, Any]:
        if not self.is_done:
            yield self
        return self.result


class Sender(Protocol):
    """The node that carries out what its logical workers want."""

    job: Job
    tables: list[Table]
    client: ClientMachine
    clock: Callable[[], float]

    def table_index(self, name: str) -> int:
        """Return a table's index."""

    def watch(self, worker: int, timestamp: int, effects: list[Effect]) -> Pending:
        """Return what to await for a push or pull that was started with these effects."""

    def ask(self, worker: int, group: str, function: str, arguments: dict[str, Any]) -> Pending:
        """Return what to await for the results of a function on a group of nodes, or on one."""

    def nodes(self, group: str) -> list[str]:
        """Return the names of the nodes of a group, as far as this node knows."""

    def alarm(self, worker: int, seconds: float) -> Pending:
        """Return what to await for the end of so many seconds."""

    def report(self, worker: int, facts: dict[str, float]) -> None:
        """Send a logical worker's progress to the scheduler."""


class Worker:
    """A logical worker: the verbs of the parameter server, and its part of the data.

    `push`, `pull` and `push_pull` return at once. What they return can be awaited, which gives
    None for a push and the values for a pull: `(n, width)`, or `(n,)` where the width is 1; for
    the range of a sparse table the pair of existing keys and their values.

    Attributes:
        id: the logical worker, from 0.
        shard: its part of the training data; None without data.
        task: the number of the plan's task that it works on.
        may_push: whether it may push: an app that recovers may not.
        is_asked: whether another worker's call is run: it may neither push nor pull.
    """

    def __init__(self, node: Sender, id: int, shard: Shard | None) -> None:
        self._node, self.id, self.shard = node, id, shard
        self.task = 0
        self.may_push = True
        self.is_asked = False
        self._random: tuple[int, np.random.Generator] | None = None

    @property
    def random(self) -> "np.random.Generator":
        """Return this task's random generator: whoever does the task again draws the same."""
        if self._random is None or self._random[0] != self.task:
            seeds = [self._node.job.config.run.seed, self.id, self.task]
            generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seeds)))
            self._random = self.task, generator
        return self._random[1]

    def push(
        self,
        table: str,
        keys: Keys,
        values: ValueArray,
        *,
        clock: int = 0,
        within: Range | None = None,
        after: Iterable[Pending] = (),
    ) -> Pending:
        """Send values to the servers, which apply the table's update function to them.

        Args:
            table: name of the table.
            keys: sorted unique keys, a range, or None for the whole table.
            values: `(n, push width)`, or `(n,)` where that is 1; of the table's dtype, else a
                copy is made. They must not change before the push is finished.
            clock: the worker's clock on this table, which must rise; 0: the next one. A worker
                that has no more tasks before a clock says so by a push of it without keys.
            within: for a key list and an aggregating table: the range that all logical workers
                push to in this clock, all of its segments being told of it; None: the table.
            after: what must be finished before this push starts.

        Raises:
            ValueError: keys or values do not fit the table.
        """
        return self._start(table, keys, values, False, clock, within, after, None, False)

    def pull(
        self,
        table: str,
        keys: Keys = None,
        *,
        after: Iterable[Pending] = (),
        out: ValueArray | None = None,
        clocks: bool = False,
    ) -> Pending:
        """Ask the servers for the values of keys; arguments as for `push`.

        Args:
            table: name of the table.
            keys: sorted unique keys, a range, or None for the whole table.
            after: what must be finished before this pull starts.
            out: `(n, width)` of the table's dtype, where the values shall be written.
            clocks: whether the answer says which pushes are in it: `Pending.clocks`.

        Raises:
            ValueError: keys or `out` do not fit the table, or it has no clocks.
        """
        return self._start(table, keys, None, True, 0, None, after, out, clocks)

    def push_pull(
        self,
        table: str,
        keys: Keys,
        values: ValueArray,
        *,
        clock: int = 0,
        within: Range | None = None,
        after: Iterable[Pending] = (),
        out: ValueArray | None = None,
        clocks: bool = False,
    ) -> Pending:
        """Push, and pull the values after it, in one round trip; arguments as for both."""
        return self._start(table, keys, values, True, clock, within, after, out, clocks)

    def call(self, group: str, function: str, **arguments: Any) -> Pending:
        """Run a function of the app on all nodes of a group, or on one; OSDI 2014, section 3.2.

        What is returned can be awaited for the list of results, in the order of the servers' ids,
        or of the logical workers'. This worker's own call is not finished before it is.

        The function may run more than once if a node dies, and changes nothing. It is run at once,
        between two awaits of whatever runs there. A logical worker whose node has died has no
        object, and no result, until its next node has something to do for it.

        Args:
            group: "servers"; "workers", which are asked for each logical worker; or one node, such
                as "server 2" (see `nodes`). If it has died, the next one of its role is asked.
            function: on servers the method `def NAME(self, stores, **arguments)`, which sees the
                pushes so far; on workers `def NAME(self, worker, **arguments)`, which sees the
                logical worker's object: it awaits nothing, and neither pushes nor pulls.
            arguments: its keyword arguments; arrays may be among them.

        Raises:
            ValueError: there is no such group, or there never was such a node.
        """
        return self._node.ask(self.id, group, function, arguments)

    def nodes(self, group: str) -> list[str]:
        """Return the names by which the nodes of a group can be called one by one.

        They are those that this worker's node knows, ascending: some may be dead by now.

        Args:
            group: "servers" or "workers".

        Raises:
            ValueError: there is no such group.
        """
        return self._node.nodes(group)

    async def wait(self, *pending: Pending) -> list[Any]:
        """Wait for pushes and pulls, and return their results."""
        return [await one for one in pending]

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds, in which the node's other logical workers go on.

        They are those of `now`, so that in a simulated cluster the wait costs no time.

        Raises:
            ValueError: the number is negative, or not finite.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a sleep of {seconds} seconds cannot be")
        await self._node.alarm(self.id, seconds)

    def now(self) -> float:
        """Return the time in seconds, which is virtual in a simulated cluster."""
        return self._node.clock()

    def set_delay(self, table: str, max_delay: int) -> None:
        """Change how stale a bounded table's values may be, from this worker's next task on.

        A plan changes it for the whole job by `yield SetDelay(table, max_delay)`, which holds at
        the beginning of each call from then on.

        Raises:
            ValueError: the table is not bounded, or the delay is negative.
        """
        self._node.client.set_delay(self._node.table_index(table), self.id, max_delay)

    def max_delay(self, table: str) -> int:
        """Return how stale a table's values may be for this worker's next task on it."""
        return self._node.client.delay(self._node.table_index(table), self.id)

    def progress(self, **facts: float) -> None:
        """Tell the scheduler numbers that it sums over the workers, such as rows done."""
        self._node.report(self.id, facts)

    def table(self, name: str) -> Table:
        """Return the description of a table.

        Raises:
            ValueError: there is no such table.
        """
        return self._node.tables[self._node.table_index(name)]

    def _start(
        self,
        name: str,
        keys: Keys,
        values: ValueArray | None,
        pull: bool,
        clock: int,
        within: Range | None,
        after: Iterable[Pending],
        out: ValueArray | None,
        clocks: bool,
    ) -> Pending:
        node = self._node
        index = node.table_index(name)
        table, (push_width, pull_width) = node.tables[index], node.client.widths[index]
        where, count = _check_keys(table, keys, pushes=values is not None)
        if within is not None:
            within = _check_within(table, where, within)
        if self.is_asked:
            raise ValueError("what a worker calls on other workers neither pushes nor pulls")
        if values is not None:
            if not self.may_push:
                raise ValueError(f"recover() pushes to table {name}: it may only pull")
            values = _check_values(table, values, count, push_width)
        if out is not None:
            out = _check_out(table, out, count, pull_width)
        if clocks and not table.has_clocks:
            raise ValueError(f"table {name} is eventual and does not aggregate: it has no clocks")
        timestamp, effects = node.client.start(
            index,
            self.id,
            where,
            values,
            pull=pull,
            clock=clock,
            within=within,
            after=[one.timestamp for one in after] if after else (),
            out=out,
            clocks=clocks,
        )
        return node.watch(self.id, timestamp, effects)


def _check_keys(table: Table, keys: Keys, pushes: bool) -> tuple[KeyArray | Range, int]:
    """Return keys as the client wants them, and their number."""
    if keys is None:
        keys = (0, table.size)
    if isinstance(keys, tuple):
        begin, end = int(keys[0]), int(keys[1])
        if not 0 <= begin <= end <= table.size:
            raise ValueError(f"[{begin}, {end}) is no range of table {table.name}, {table.size}")
        if table.kind == "sparse" and pushes:
            raise ValueError(f"table {table.name} is sparse: a push needs its keys")
        return (begin, end), end - begin
    given = keys if type(keys) is np.ndarray else np.asarray(keys)
    if given.dtype == _KEY and given.shape == (1,):
        # Nothing is to be checked of a single key but that the table has it.
        if table.size < KEY_SPACE and int(given[0]) >= table.size:
            raise _no_such_key(table, given[0])
        return given, 1
    # A cast would make keys of what is none: 1.5, or -1.
    if given.ndim != 1 or (len(given) and given.dtype.kind not in "iu"):
        raise ValueError(f"keys for table {table.name} are no list of integers")
    if given.dtype.kind == "i" and (given < 0).any():
        raise ValueError(f"keys for table {table.name} are negative")
    keys = np.ascontiguousarray(given, dtype=np.uint64)
    if len(keys) and not (keys[1:] > keys[:-1]).all():
        raise ValueError(f"keys for table {table.name} are not sorted and unique")
    if len(keys) and table.size < KEY_SPACE and int(keys[-1]) >= table.size:
        raise _no_such_key(table, keys[-1])
    return keys, len(keys)


def _no_such_key(table: Table, key: object) -> ValueError:
    return ValueError(f"table {table.name} has {table.size} keys, so there is no key {key}")


def _check_within(table: Table, where: KeyArray | Range, within: Range) -> Range:
    """Return the range that a push declares, which holds all of its keys."""
    begin, end = int(within[0]), int(within[1])
    first, last = where if isinstance(where, tuple) else (begin, begin)
    if not isinstance(where, tuple) and len(where):
        first, last = int(where[0]), int(where[-1]) + 1
    if not 0 <= begin <= first <= last <= end <= table.size:
        raise ValueError(
            f"within = [{begin}, {end}) is no range of table {table.name}, {table.size}, that holds"
            f" all keys of the push"
        )
    return begin, end


def _check_out(table: Table, out: ValueArray, count: int, width: int) -> ValueArray:
    """Return the caller's array with two axes; what is written to it, the caller sees."""
    fits = _fits(out, count, width) and out.dtype == DTYPES[table.dtype]
    if not fits or not out.flags.c_contiguous:
        raise ValueError(
            f"a pull of {count} keys of table {table.name} fills a contiguous array with"
            f" {count} x {width} values of {table.dtype}"
        )
    return out.reshape(count, width)


def _check_values(table: Table, values: ValueArray, count: int, width: int) -> ValueArray:
    """Return values as the client wants them: two-dimensional, in the table's dtype."""
    dtype = DTYPES[table.dtype]
    is_fit = type(values) is np.ndarray and values.dtype == dtype and values.flags.c_contiguous
    if not is_fit:
        values = np.ascontiguousarray(values, dtype=dtype)
    if values.shape == (count, width):
        return values
    if not _fits(values, count, width):
        raise ValueError(
            f"table {table.name} takes {width} values a key: an array of {count} x {width} for"
            f" {count} keys, not of {' x '.join(map(str, values.shape))}"
        )
    return values.reshape(count, width)


def _fits(array: ValueArray, count: int, width: int) -> bool:
    """Return whether an array has a row for each key; a width of 1 needs no axis."""
    return array.shape == (count, width) or (width == 1 and array.shape == (count,))
