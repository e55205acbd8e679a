"""A client's pushes and pulls while they are under way, and what logical workers have pushed."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from mpips.core.clock import Piece as Taken
from mpips.core.clock import RangeClock, VectorClock
from mpips.core.consistency import History
from mpips.core.slicing import Piece, Range, Request
from mpips.wire.types import KeyArray, Table, ValueArray


@dataclass(slots=True)
class Task:
    """A push, pull or push_pull from its call to its last answer."""

    timestamp: int
    table: int
    stream: int
    where: KeyArray | Range
    values: ValueArray | None
    pull: bool
    clock: int
    within: Range | None
    after: set[int]
    out: np.ndarray | None
    pieces: list[Piece] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    needs: list[int] = field(default_factory=list)
    number: int = 0
    wants_clocks: bool = False
    clocks: VectorClock | None = None
    requests: dict[int, Request] = field(default_factory=dict)
    found: dict[int, tuple[KeyArray, np.ndarray]] = field(default_factory=dict)

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
            pulled.advance(piece.segment, piece.segment + 1, 1)
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
