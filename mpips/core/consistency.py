"""Which of its own tasks a logical worker must find applied when it reads: bounded delay.

Task t may read a segment when all tasks up to t - max_delay - 1 that touched it are applied, those
of every logical worker (OSDI 2014, section 3.4; max_delay 0 is the sequential model). A worker
knows which segments its own tasks touched, and all logical workers' tasks touch the same ones.
"""

from collections import deque
from typing import final

from mpips.core.clock import RangeClock


@final
class History:
    """What one logical worker's tasks have touched, on one table.

    Attributes:
        clock: of the last task; 0 before the first.
    """

    def __init__(self, segments: int, clock: int = 0) -> None:
        self.clock = clock
        self._old = RangeClock(segments)
        self._recent: deque[tuple[int, int, int]] = deque()

    def begin(self, clock: int, first: int, last: int) -> None:
        """Note that the task `clock` touches the segments from `first` to `last`."""
        assert clock > self.clock, (clock, self.clock)
        self.clock = clock
        self._recent.append((clock, first, last))

    def needs(self, segments: int, max_delay: int) -> list[int]:
        """Return, by segment, what every logical worker must have reached for the next task's read.

        It is the clock of the latest task up to t - max_delay - 1 that touched the segment, t
        being the next task; 0 if there is none.
        """
        self._settle(max_delay)
        needs: list[int] = []
        for begin, end, clock in self._old.pieces(0, segments):
            needs += [clock] * (end - begin)
        return needs

    def need(self, segment: int, max_delay: int) -> int:
        """Return what `needs` has for one segment."""
        self._settle(max_delay)
        return self._old.least(segment, segment + 1)

    def _settle(self, max_delay: int) -> None:
        while self._recent and self._recent[0][0] <= self.clock - max_delay:
            clock, first, last = self._recent.popleft()
            self._old.advance(first, last + 1, clock)
