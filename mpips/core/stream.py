"""A client's pushes and pulls while they are under way, and what logical workers have pushed."""

from collections import deque

import msgspec
import numpy as np

from mpips.core.clock import Piece as Taken
from mpips.core.clock import RangeClock, VectorClock
from mpips.core.consistency import History
from mpips.core.slicing import Piece, Range, Request, length_of
from mpips.wire.messages import Values
from mpips.wire.types import DTYPES, KeyArray, Table, ValueArray


class Task(msgspec.Struct):
    """A push, pull or push_pull from its call to its last answer.

    `number` and `base` are those of a push in its stream.
    """

    timestamp: int
    table: int
    stream: int
    where: KeyArray | Range
    values: ValueArray | None
    pull: bool
    clock: int
    within: Range | None
    out: np.ndarray | None
    after: set[int] = set()
    pieces: list[Piece] = []
    number: int = 0
    base: int = 0
    wants_clocks: bool = False
    clocks: VectorClock | None = None
    requests: dict[int, Request] = {}
    found: dict[int, tuple[KeyArray, np.ndarray]] = {}

    def place(self, message: Values, size: int, width: int, dtype: np.dtype) -> np.ndarray | None:
        """Return where the values of an answer shall be received, as `ClientMachine.place` does."""
        request = self.requests[message.request]
        spans = request.spans()
        if message.keys is not None or len(spans) > 1 or request.target is not None:
            return None
        if self.out is None:
            self.out = np.empty((length_of(self.where), width), dtype)
        target = self.out[spans[0][0] : spans[0][1]]
        if target.nbytes != size:
            return None
        request.target, request.incarnation = target, message.incarnation
        return target.reshape(-1).view(np.uint8)

    def take(self, table: Table, message: Values) -> int:
        """Put the values of an answer where the caller wants them; return the bytes copied."""
        request, at, values = self.requests[message.request], 0, message.values
        if message.clocks:
            self.take_clocks(table, message.clocks)
        if message.keys is not None:
            # The range of a sparse table: the keys that exist, by segment.
            for segment, count in zip(request.segments(), message.counts, strict=True):
                self.found[segment] = message.keys[at : at + count], message.values[at : at + count]
                at += count
            return 0
        # What was received in the caller's array is there.
        if request.target is not None:
            return 0
        if request.is_all:
            # What came is all that was asked for, and the caller's, who need not copy it.
            if self.out is None:
                self.out = values
                return 0
            self.out[:] = values
            return values.nbytes
        spans = request.spans()
        if self.out is None:
            self.out = np.empty((length_of(self.where), values.shape[1]), values.dtype)
        for begin, end in spans:
            if begin < end:
                self.out[begin:end] = values[at : at + end - begin]
                at += end - begin
        return values.nbytes

    def result(self, table: Table, width: int) -> np.ndarray | tuple[KeyArray, np.ndarray]:
        """Return what was pulled; of the range of a sparse table the keys that exist, too."""
        is_sparse_range = table.kind != "dense" and isinstance(self.where, tuple)
        if not is_sparse_range and self.out is not None:
            return self.out
        empty = np.empty((0, width), DTYPES[table.dtype])
        if not is_sparse_range:
            return empty
        found = [self.found[segment] for segment in sorted(self.found)]
        keys = np.concatenate([np.empty(0, np.uint64), *(keys for keys, _ in found)])
        return keys, np.concatenate([empty, *(values for _, values in found)])

    def take_clocks(self, table: Table, taken: list[list[Taken]]) -> None:
        """Add the clocks of an answer, which are those of its segments."""
        if self.clocks is None:
            self.clocks = VectorClock(table.segments, len(taken))
        self.clocks.merge(taken)

    def key_clocks(self, table: Table) -> list[list[Taken]] | None:
        """Return the clocks of all segments pulled, as ranges of keys."""
        if self.clocks is None:
            return None
        pulled = RangeClock(table.segments)
        for piece in self.pieces:
            pulled.advance(piece.segment, piece.segment + piece.segments, 1)
        spans = [(begin, end) for begin, end, is_in in pulled.pieces(0, table.segments) if is_in]
        return [
            [
                (table.segment_range(first)[0], table.segment_range(last - 1)[1], time)
                for span in spans
                for first, last, time in clock.pieces(*span)
            ]
            for clock in self.clocks.clocks
        ]


class Stream:
    """What one logical worker has pushed to one table.

    Attributes:
        number: of the last push.
        numbers: of the last push on each segment.
        history: the clocks of its pushes.
        max_delay: tau, for the next tasks.
        open: clock and timestamp of the pushes that may be unfinished, in their order.
        base: number of the last push of whoever acted for the logical worker before.
    """

    def __init__(self, segments: int, max_delay: int, base: int = 0, clock: int = 0) -> None:
        self.base = self.number = base
        self.numbers = [base] * segments
        self.history = History(segments, clock)
        self.max_delay = max_delay
        self.open: deque[tuple[int, int]] = deque()
