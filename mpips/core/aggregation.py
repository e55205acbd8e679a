"""Collects the logical workers' pushes to a segment and sums them, one clock after the other."""

from collections import deque
from collections.abc import Sequence
from typing import cast

import msgspec

from mpips.core.slicing import Range
from mpips.errors import ProtocolError
from mpips.store.merge import sum_in_order
from mpips.wire.types import KeyArray, ValueArray


class Contribution(msgspec.Struct, frozen=True):
    """One logical worker's push of one clock to one segment."""

    number: int
    clock: int
    where: KeyArray | Range
    values: ValueArray


class Aggregation:
    """The pushes to one segment that wait for those of the other logical workers.

    Args:
        streams: number of logical workers.
    """

    def __init__(self, streams: int) -> None:
        self._queues: list[deque[Contribution]] = [deque() for _ in range(streams)]

    def add(self, stream: int, contribution: Contribution) -> None:
        """Queue a push of a logical worker; its values are kept, not copied."""
        self._queues[stream].append(contribution)

    def take(self, active: Sequence[bool]) -> dict[int, Contribution] | None:
        """Return the next clock's pushes by logical worker, or None if one may still come.

        A logical worker that has pushed a later clock contributes nothing to this one: its clocks
        rise, so a push of this clock cannot come from it any more. One that is not `active` is
        not waited for; what it has pushed counts.
        """
        queues = self._queues
        if not all(queue or not is_active for queue, is_active in zip(queues, active, strict=True)):
            return None
        clock = min((queue[0].clock for queue in queues if queue), default=None)
        if clock is None:
            return None
        return {
            stream: queue.popleft()
            for stream, queue in enumerate(queues)
            if queue and queue[0].clock == clock
        }


def sum_contributions(
    contributions: list[Contribution],
) -> tuple[KeyArray | Range, ValueArray]:
    """Return where the contributions lie and their sum, added in list order.

    A key list without keys is a note of the clock, and adds nothing.

    Raises:
        ProtocolError: some are ranges that differ, or ranges and key lists are mixed.
    """
    filled = [c for c in contributions if isinstance(c.where, tuple) or len(c.where)]
    contributions = filled or contributions[:1]
    first = contributions[0]
    if len({type(contribution.where) for contribution in contributions}) > 1:
        raise ProtocolError("logical workers push ranges and key lists in one clock")
    if isinstance(first.where, tuple):
        if any(c.where != first.where for c in contributions):
            raise ProtocolError("logical workers push different ranges in one clock")
        total = first.values.copy()
        for contribution in contributions[1:]:
            total += contribution.values
        return first.where, total
    return sum_in_order([(cast(KeyArray, c.where), c.values) for c in contributions])
