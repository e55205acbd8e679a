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

    def need(self, segment: int, max_delay: int) -> int:
        """Return the clock that every logical worker must have reached for the next task's read.

        It is that of the latest task up to t - max_delay - 1 that touched the segment, t being the
        next task; 0 if there is none.
        """
        while self._recent and self._recent[0][0] <= self.clock - max_delay:
            clock, first, last = self._recent.popleft()
            self._old.advance(first, last + 1, clock)
        return self._old.least(segment, segment + 1)
