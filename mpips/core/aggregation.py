"""Collects the logical workers' pushes to a segment and sums them, one clock after the other."""

from collections import deque
from dataclasses import dataclass
from typing import cast

from mpips.core.slicing import Range
from mpips.errors import ProtocolError
from mpips.store.merge import sum_in_order
from mpips.wire.types import KeyArray, ValueArray


@dataclass(frozen=True, slots=True)
class Contribution:
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

    def take(self) -> list[Contribution] | None:
        """Return the next clock's pushes in the order of logical ids, or None if one is missing.

        Raises:
            ProtocolError: the logical workers do not push the same clocks.
        """
        if not all(self._queues):
            return None
        taken = [queue.popleft() for queue in self._queues]
        if any(c.clock != taken[0].clock for c in taken):
            clocks = [c.clock for c in taken]
            raise ProtocolError(f"logical workers push different clocks to a segment: {clocks}")
        return taken


def sum_contributions(
    contributions: list[Contribution],
) -> tuple[KeyArray | Range, ValueArray]:
    """Return where the contributions lie and their sum, added in list order.

    Raises:
        ProtocolError: some are ranges that differ, or ranges and key lists are mixed.
    """
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
