"""Range vector clocks: how far each logical worker has come, for ranges of keys.

A range clock holds one number for each range that was ever set, not for each key, so its size is
bounded by the distinct ranges in use: a `set` makes two pieces more at the most, and neighbours
that are equal again are joined (OSDI 2014, section 4.1 and Algorithm 2).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import final

Piece = tuple[int, int, int]
"""A range [begin, end) and its clock."""


@final
class RangeClock:
    """One logical worker's clock for all keys of [0, size).

    >>> clock = RangeClock(100)
    >>> clock.advance(20, 60, 3)
    >>> clock.advance(40, 80, 5)
    >>> list(clock.pieces(0, 100))
    [(0, 20, 0), (20, 40, 3), (40, 80, 5), (80, 100, 0)]
    >>> clock.least(30, 50), clock.least(50, 90)
    (3, 0)
    """

    __slots__ = ("_begins", "_times", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self._begins = [0]
        self._times = [0]

    def __len__(self) -> int:
        """Return the number of pieces."""
        return len(self._begins)

    def advance(self, begin: int, end: int, time: int) -> None:
        """Set the clock of [begin, end) to `time`, where it is not later already.

        Cost: O(log pieces) and the pieces inside the range.
        """
        assert 0 <= begin <= end <= self.size, (begin, end, self.size)
        if begin == end:
            return
        low, high = self._cut(begin), self._cut(end)
        times = self._times
        for at in range(low, high):
            if times[at] < time:
                times[at] = time
        self._join(low, high)

    def reset(self, begin: int, end: int, time: int) -> None:
        """Set the clock of [begin, end), which must not be empty, though it may be later."""
        assert 0 <= begin < end <= self.size, (begin, end, self.size)
        low, high = self._cut(begin), self._cut(end)
        self._times[low:high] = [time] * (high - low)
        self._join(low, high)

    def least(self, begin: int, end: int) -> int:
        """Return the smallest clock in [begin, end), which must not be empty."""
        low = bisect_right(self._begins, begin) - 1
        high = bisect_left(self._begins, end)
        return min(self._times[low:high])

    def pieces(self, begin: int, end: int) -> Iterator[Piece]:
        """Yield the pieces of [begin, end), ascending: the slice that travels with a range."""
        at = bisect_right(self._begins, begin) - 1
        while begin < end:
            stop = self._begins[at + 1] if at + 1 < len(self._begins) else self.size
            yield begin, min(stop, end), self._times[at]
            begin, at = stop, at + 1

    def _cut(self, key: int) -> int:
        """Make a piece begin at `key`, and return its place."""
        if key == self.size:
            return len(self._begins)
        at = bisect_left(self._begins, key)
        if at == len(self._begins) or self._begins[at] != key:
            self._begins.insert(at, key)
            self._times.insert(at, self._times[at - 1])
        return at

    def _join(self, low: int, high: int) -> None:
        """Join equal neighbours in and around the pieces [low, high)."""
        for at in range(min(high, len(self._begins) - 1), max(low, 1) - 1, -1):
            if self._times[at] == self._times[at - 1]:
                del self._begins[at], self._times[at]


@final
class VectorClock:
    """The range clocks of all logical workers for the keys of one table.

    Args:
        size: number of keys.
        streams: number of logical workers.
    """

    def __init__(self, size: int, streams: int) -> None:
        self.clocks = [RangeClock(size) for _ in range(streams)]

    def advance(self, stream: int, begin: int, end: int, time: int) -> None:
        """Note that all tasks of a logical worker up to `time` on [begin, end) are applied."""
        self.clocks[stream].advance(begin, end, time)

    def least(self, begin: int, end: int) -> int:
        """Return the smallest clock of any logical worker in [begin, end)."""
        return min(clock.least(begin, end) for clock in self.clocks)

    def reached(self, needs: Iterable[Piece], active: Sequence[bool] = ()) -> bool:
        """Return whether every logical worker's clock has come so far, for each range.

        Args:
            needs: ranges and clocks.
            active: by logical worker: whether it counts; empty: all do.
        """
        clocks = list(compress(self.clocks, active)) if active else self.clocks
        return all(clock.least(begin, end) >= t for begin, end, t in needs for clock in clocks)

    def missing(
        self, needs: Iterable[Piece], active: Sequence[bool] = ()
    ) -> list[tuple[int, int, int]]:
        """Return who is behind: logical worker, begin and end of a range that waits for it."""
        return [
            (stream, begin, end)
            for begin, end, time in needs
            for stream, clock in enumerate(self.clocks)
            if (not active or active[stream]) and clock.least(begin, end) < time
        ]

    def take(self, begin: int, end: int) -> list[list[Piece]]:
        """Return the clocks of [begin, end), as a message carries them, by logical worker."""
        return [list(clock.pieces(begin, end)) for clock in self.clocks]

    def merge(self, taken: Sequence[Sequence[Piece]]) -> None:
        """Take over clocks from a message, where they are later."""
        assert len(taken) == len(self.clocks), (len(taken), len(self.clocks))
        for clock, pieces in zip(self.clocks, taken, strict=True):
            for begin, end, time in pieces:
                clock.advance(begin, end, time)

    def __len__(self) -> int:
        """Return the number of pieces of all clocks."""
        return sum(len(clock) for clock in self.clocks)
