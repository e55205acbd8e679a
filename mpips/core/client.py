"""The worker's side of push and pull: number, slice by owner, gather the answers.

A push gets its number, and each of its slices the number of the stream's push before on that
segment, when the task starts; both stay the same however the slices travel. A stream is a logical
worker; the streams of a node share its client.
"""

from collections import deque
from collections.abc import Iterable, Sequence

import numpy as np

from mpips.core.machine import Effect, Finished, Machine, Send
from mpips.core.slicing import Piece, Range, Request, cut, group, split, take_spans
from mpips.core.stream import Stream, Task
from mpips.errors import ProtocolError
from mpips.filters.caching import SentLists
from mpips.wire.messages import Forgotten, Message, Pull, Push, PushAck, Values
from mpips.wire.slices import Slices
from mpips.wire.types import DTYPES, KeyArray, Table, ValueArray, View


class ClientMachine(Machine):
    """Numbers and slices pushes and pulls, and tells when they are finished.

    Invariants: a task is waiting for others, or has open requests, or is finished; request ids
    and timestamps are never used twice.
    """

    def __init__(self, node: int, tables: Sequence[Table], widths: Sequence[tuple[int, int]]):
        super().__init__(node)
        self.tables = tuple(tables)
        self.widths = tuple(widths)
        # What is asked for with each task: keys of a segment, and whether there are clocks.
        self._sizes = [table.segment_size for table in tables]
        self._clocked = [table.has_clocks for table in tables]
        self._itemsizes = [DTYPES[table.dtype].itemsize for table in tables]
        self._owners: list[list[int]] = []
        self._view: View | None = None
        self._tasks: dict[int, Task] = {}
        self._requests: dict[int, Task] = {}
        # By timestamp: the tasks that wait for this one.
        self._followers: dict[int, list[Task]] = {}
        self._streams: dict[tuple[int, int], Stream] = {}
        self._timestamp = 0
        self._request = 0
        self._incarnation = 0
        self.lists = SentLists()
        self._pushes = self._pulls = self._repeats = self._copied = 0

    def install(self, view: View) -> list[Effect]:
        """Use `view` from now on, and send again what its segments' owners have not answered."""
        assert self._view is None or view.epoch > self._view.epoch, (self._view, view)
        self._view, self._owners = view, [owners.tolist() for owners in view.owners]
        member = view.member(self.node)
        self._incarnation = member.incarnation if member else 0
        self.lists.forget(member.node for member in view.members)
        effects: list[Effect] = []
        for number, task in list(self._requests.items()):
            request = task.requests[number]
            owners, since = view.owners[task.table], view.since[task.table]
            at = request.segments()
            is_same = (owners[at] == request.owner).all() and (since[at] <= request.epoch).all()
            if request.is_coming(view) or is_same:
                continue
            effects += self._send_anew(number)
        return effects

    def take_over(self, stream: int, positions: Sequence[tuple[int, int]]) -> None:
        """Do a logical worker's call again, from the number and clock that each table was at.

        Without positions it was its first call.
        """
        begins = positions or [(0, 0)] * len(self.tables)
        for table, (number, clock) in enumerate(begins):
            shape = self.tables[table]
            assert (table, stream) not in self._streams, "it has been here all the time"
            taken = Stream(shape.segments, shape.max_delay, number, clock)
            self._streams[table, stream] = taken

    def abandon(self, stream: int) -> None:
        """Forget a logical worker, and all of its tasks: another node acts for it."""
        tasks = {t for t, task in self._tasks.items() if task.stream == stream}
        for timestamp in tasks:
            for request in self._tasks.pop(timestamp).requests:
                del self._requests[request]
            self._followers.pop(timestamp, None)
        for timestamp, followers in self._followers.items():
            self._followers[timestamp] = [f for f in followers if f.timestamp not in tasks]
        self._streams = {key: one for key, one in self._streams.items() if key[1] != stream}

    def positions(self, stream: int) -> list[tuple[int, int]]:
        """Return number and clock of a logical worker's last push, by table."""
        found = (self._streams.get((table, stream)) for table in range(len(self.tables)))
        return [(one.number, one.history.clock) if one else (0, 0) for one in found]

    def start(
        self,
        table: int,
        stream: int,
        where: KeyArray | Range,
        values: ValueArray | None = None,
        *,
        pull: bool = False,
        clock: int = 0,
        within: Range | None = None,
        after: Iterable[int] = (),
        out: np.ndarray | None = None,
        clocks: bool = False,
    ) -> tuple[int, list[Effect]]:
        """Start a push (`values`), a pull (`pull`), or both, and return its timestamp.

        Args:
            table: index of the table.
            stream: id of the logical worker.
            where: sorted unique keys, uint64 `(n,)`, or a range [begin, end).
            values: `(n, push width)` of the table's dtype, or None; not copied: it must not
                change before the task is finished.
            pull: whether values shall come back.
            clock: the logical worker's clock, higher than that of its push before on this table;
                0: the next one.
            within: the range that a push of a key list to a table with clocks declares: all
                logical workers push something, or nothing, to all of its segments; None: the
                whole table.
            after: timestamps of tasks that must be finished before this one starts (OSDI 2014,
                execute-after-finished).
            out: `(n, pull width)`, where the pulled values shall be written; None: a new array.
            clocks: whether the answer shall say which pushes are in it.

        Raises:
            ValueError: the clock of a push to a table with clocks does not rise.
        """
        assert pull or values is not None
        self._timestamp = timestamp = self._timestamp + 1
        task = Task(
            timestamp, table, stream, where, values, pull, clock, within, out, wants_clocks=clocks
        )
        # Cut and number it now, whenever it is sent: pushes are applied in this order.
        shape, notes = self.tables[table], None
        if values is not None and self._clocked[table]:
            # Segments without keys are told of a push if there are clocks.
            notes = within or (0, shape.size)
        task.pieces = cut(shape, self._sizes[table], where, notes)
        if after:
            task.after.update(after)
        if values is not None:
            self._number(task)
        if pull:
            self._need(task)
        if task.after:
            task.after = {t for t in task.after if t in self._tasks}
            for other in task.after:
                self._followers.setdefault(other, []).append(task)
        self._tasks[timestamp] = task
        return timestamp, [] if task.after else self._begin(task) or self._finish(task)

    def set_delay(self, table: int, stream: int, max_delay: int) -> None:
        """Change tau of a logical worker on a bounded table, for the tasks that start from now on.

        Raises:
            ValueError: the table is not bounded, or the delay is negative.
        """
        shape = self.tables[table]
        if shape.mode != "bounded" or max_delay < 0:
            raise ValueError(f"the {shape.mode} table {shape.name} takes no delay of {max_delay}")
        self._stream(table, stream).max_delay = max_delay

    def delay(self, table: int, stream: int) -> int:
        """Return the tau of a logical worker's next task on a table."""
        return self._stream(table, stream).max_delay

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take an answer; an answer that nobody waits for is a duplicate, and ignored."""
        kind = type(message)
        if kind is not PushAck and kind is not Values:
            if not isinstance(message, Forgotten):
                raise ProtocolError(f"client {self.node}: no step for {kind.__name__}")
            self.lists.miss(source, message)
            return self._send_anew(message.request) if message.request in self._requests else []
        request = message.request  # type: ignore[attr-defined]
        task = self._requests.pop(request, None)
        if task is None:
            return []
        if kind is Values:
            self._take(task, message)  # type: ignore[arg-type]
        del task.requests[request]
        return [] if task.requests else self._finish(task)

    def place(self, source: int, message: Values, size: int) -> np.ndarray | None:
        """Return where the values of an answer, which are not here yet, are to be received.

        Args:
            source: who has sent it.
            message: the answer without its values.
            size: bytes of the values.

        Returns:
            uint8 `(size,)`, in the caller's array; None if they have no place of their own.
        """
        task = self._requests.get(message.request)
        if task is None or task.requests[message.request].owner != source:
            return None
        width, dtype = self.widths[task.table][1], DTYPES[self.tables[task.table].dtype]
        return task.place(message, size, width, dtype)

    def validate(self) -> None:
        """Assert that open requests and unfinished tasks belong together."""
        for request, task in self._requests.items():
            assert request in task.requests
            assert task.timestamp in self._tasks
        for task in self._tasks.values():
            assert task.after or task.requests, f"task {task.timestamp} waits for nothing"
            assert all(t in self._tasks for t in task.after)

    def statistics(self) -> dict[str, int]:
        """Return counters, by name."""
        return {
            "pushes": self._pushes,
            "pulls": self._pulls,
            "repeated_requests": self._repeats,
            "copied_bytes": self._copied,
            **self.lists.statistics(),
            "open_tasks": len(self._tasks),
            "open_requests": len(self._requests),
        }

    # -- Sending ---------------------------------------------------------------------------------

    def _number(self, task: Task) -> None:
        """Give a push its number and clock, and its slices the numbers of the pushes before.

        Raises:
            ValueError: the clock does not rise.
        """
        table, stream = self.tables[task.table], self._stream(task.table, task.stream)
        task.clock = task.clock or stream.history.clock + 1
        if self._clocked[task.table] and task.pieces:
            # A clock that stands still or goes back would let pulls see what is too old.
            if task.clock <= stream.history.clock:
                raise ValueError(
                    f"logical worker {task.stream} pushes clock {task.clock} to table"
                    f" {table.name} after clock {stream.history.clock}"
                )
            last = task.pieces[-1]
            end = last.segment + last.segments - 1
            stream.history.begin(task.clock, task.pieces[0].segment, end)
        if table.mode in ("sequential", "bounded"):
            # At most max_delay + 1 tasks of a logical worker are under way.
            oldest = task.clock - stream.max_delay - 1
            while stream.open and stream.open[0][1] not in self._tasks:
                stream.open.popleft()
            task.after.update(t for clock, t in stream.open if clock <= oldest)
            stream.open.append((task.clock, task.timestamp))
        stream.number += 1
        number, task.base = stream.number, stream.base
        task.number = number
        numbers, pieces = stream.numbers, task.pieces
        if len(pieces) != 1 or pieces[0].segments != 1:
            pieces = task.pieces = split(pieces, numbers, self._sizes[task.table])
        for piece in pieces:
            segment = piece.segment
            piece.mark = numbers[segment]
            if piece.segments == 1:
                numbers[segment] = number
            else:
                numbers[segment : segment + piece.segments] = [number] * piece.segments

    def _need(self, task: Task) -> None:
        """Note the clocks that a pull waits for, by piece; none where it never waits.

        Predicates are given the last one that this logical worker has reached itself.
        """
        table = self.tables[task.table]
        if table.mode == "eventual":
            return
        stream = self._stream(task.table, task.stream)
        task.clock = stream.history.clock
        delay = 0 if table.mode == "predicate" else stream.max_delay
        if len(task.pieces) == 1 and task.pieces[0].segments == 1:
            task.pieces[0].need = stream.history.need(task.pieces[0].segment, delay)
            return
        needs = stream.history.needs(table.segments, delay)
        task.pieces = split(task.pieces, needs, self._sizes[task.table])
        for piece in task.pieces:
            piece.need = needs[piece.segment]

    def _stream(self, table: int, stream: int) -> Stream:
        if (table, stream) not in self._streams:
            shape = self.tables[table]
            self._streams[table, stream] = Stream(shape.segments, shape.max_delay)
        return self._streams[table, stream]

    def _begin(self, task: Task) -> list[Effect]:
        """Return the requests of a task; none if it touches no segment."""
        self._pushes += task.values is not None
        self._pulls += task.pull
        return self._send(task, task.pieces)

    def _send(self, task: Task, pieces: list[Piece]) -> list[Effect]:
        """Return requests for some pieces of a task, to their owners."""
        assert self._view is not None, "no view yet"
        # Nearly all requests of few keys are of one segment.
        owners = self._owners[task.table]
        if not pieces:
            return []
        if len(pieces) == 1 and pieces[0].segments == 1:
            request = Request(owners[pieces[0].segment], pieces)
            request.is_all = pieces is task.pieces
            return [self._message(task, request)]
        push_width, pull_width = self.widths[task.table]
        # Group by owner; the larger of the two ways counts.
        width = push_width if task.values is not None else 0
        if task.pull and pull_width > width:
            width = pull_width
        key_bytes = width * self._itemsizes[task.table]
        key_bytes += 0 if isinstance(task.where, tuple) else 8
        requests = group(pieces, owners, key_bytes, self._sizes[task.table])
        requests[0].is_all = len(requests) == 1 and pieces is task.pieces
        return [self._message(task, request) for request in requests]

    def _send_anew(self, number: int) -> list[Effect]:
        """Send what a request asks for again; its answer, if it still comes, is nobody's."""
        task = self._requests.pop(number)
        self._repeats += 1
        return self._send(task, task.requests.pop(number).pieces)

    def _message(self, task: Task, request: Request) -> Send:
        """Return a request of a task."""
        view, table, where, values = self._view, task.table, task.where, task.values
        assert view is not None
        self._request = number = self._request + 1
        self._requests[number] = task
        task.requests[number] = request
        request.epoch = view.epoch
        # A pull's slices are marked with what they need, a push's with the push before.
        pieces = request.pieces
        if len(pieces) == 1:
            p = pieces[0]
            mark = p.need if values is None else p.mark
            runs = [(p.segment, p.segments, mark, p.begin, p.count)]
        elif values is None:
            runs = [(p.segment, p.segments, p.need, p.begin, p.count) for p in pieces]
        else:
            runs = [(p.segment, p.segments, p.mark, p.begin, p.count) for p in pieces]
        slices = Slices(self._sizes[table], runs)
        keys = None if isinstance(where, tuple) else where
        if not request.is_all:
            spans = request.spans()
            keys = None if keys is None else take_spans(keys, spans)
            values = None if values is None else take_spans(values, spans)
            if len(spans) > 1:
                self._copied += sum(part.nbytes for part in (keys, values) if part is not None)
        message: Push | Pull
        if values is None:
            message = Pull(
                number, table, slices, keys, task.stream, task.clock, task.wants_clocks,
                epoch=view.epoch, incarnation=self._incarnation,
            )  # fmt: skip
        else:
            needs: tuple[int, ...] = ()
            if task.pull and self.tables[table].mode != "eventual":
                needs = tuple(p.need for p in pieces)
            message = Push(
                number, table, task.stream, task.number, task.clock, task.pull, slices, keys,
                values, needs, task.base, task.wants_clocks,
                epoch=view.epoch, incarnation=self._incarnation,
            )  # fmt: skip
        return Send(request.owner, self.lists.shorten(request.owner, message))

    # -- Gathering -------------------------------------------------------------------------------

    def _take(self, task: Task, message: Values) -> None:
        """Put the values of an answer where the caller wants them."""
        self._copied += task.take(self.tables[task.table], message)

    def _finish(self, task: Task) -> list[Effect]:
        """Finish a task, and start what waited for it, which may be finished at once."""
        effects = [self._close(task)]
        if not self._followers:
            return effects
        finished = deque([task])
        while finished:
            timestamp = finished.popleft().timestamp
            for other in self._followers.pop(timestamp, ()):
                other.after.discard(timestamp)
                if not other.after:
                    sends = self._begin(other)
                    effects += sends
                    if not sends:
                        effects.append(self._close(other))
                        finished.append(other)
        return effects

    def _close(self, task: Task) -> Effect:
        del self._tasks[task.timestamp]
        table, width = self.tables[task.table], self.widths[task.table][1]
        result = task.result(table, width) if task.pull else None
        if task.clocks is None:
            return Finished(task.timestamp, result)
        return Finished(task.timestamp, result, task.key_clocks(table))
