"""A client's pushes and pulls while they are under way, and what logical workers have pushed."""

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from mpips.core.consistency import History
from mpips.core.slicing import Piece, Range, Request
from mpips.wire.types import KeyArray, ValueArray


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
    requests: dict[int, Request] = field(default_factory=dict)
    found: dict[int, tuple[KeyArray, np.ndarray]] = field(default_factory=dict)


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
