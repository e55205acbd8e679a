"""What the segments of a server are asked for: counted there, told seldom, compared by `Relief`."""

from collections.abc import Sequence
from itertools import accumulate
from typing import Final

from mpips.wire.messages import Pull, Push
from mpips.wire.slices import runs_of

SAMPLE: Final = 7
"""One message in so many is counted: a prime, since apps send theirs in turns."""

TOLD_MAX: Final = 32
"""So many segments are told by their names: the hottest, since those may move."""

SPAN_MAX: Final = 2**32
"""A range of more keys than that is one of a sparse table, of whose keys few are there."""

Told = list[tuple[int, int, int]]
"""Table, segment, and keys asked for."""


class Load:
    """Counts the keys of pushes and pulls by segment.

    Args:
        segments: of each table.

    Cost: in the mean 0.2 us for a message of one run, and 1.3 us for one of 64 runs.
    """

    def __init__(self, segments: Sequence[int]) -> None:
        # By table: what each segment has more than the one before; a run is two steps, however
        # many segments it has.
        self._steps = [[0.0] * (count + 1) for count in segments]
        self._turn = 0

    def note(self, message: Push | Pull) -> None:
        """Note a request, perhaps."""
        self._turn += 1
        if self._turn < SAMPLE:
            return
        self._turn = 0
        steps = self._steps[message.table]
        for first, many, _, _, count in runs_of(message.slices):
            each = SAMPLE * (count / many if count < SPAN_MAX else 1)
            steps[first] += each
            steps[first + many] -= each

    def take(self) -> tuple[Told, int]:
        """Return the hottest segments since last asked, and the keys of all others together."""
        found: Told = []
        for table, steps in enumerate(self._steps):
            keys = accumulate(steps[:-1])
            found += [(table, at, round(count)) for at, count in enumerate(keys) if count >= 0.5]
            self._steps[table] = [0.0] * len(steps)
        found.sort(key=lambda one: one[2], reverse=True)
        return found[:TOLD_MAX], sum(count for _, _, count in found[TOLD_MAX:])
