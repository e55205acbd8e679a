"""Which segments should move, and to whom, so that every server has its share.

The ring proposes how much each server should own (`ring.place`). A server that leaves has no
share; one that is new, or was hired for a dead one, has less than its own. As few segments move as
bring all to their shares, only a few at a time, and those first that the ring gives to whoever
gets them, or that it has a copy of (OSDI 2014, section 4.3; DESIGN, section 3).
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import numpy as np

from mpips.core.moving import Move, movable
from mpips.core.ring import load_max, place
from mpips.wire.types import NOBODY, View

MOVES_MAX: Final = 8
"""So many segments move at a time: the rest of the servers' time is the workers'."""


def plan_moves(view: View, moves_max: int = MOVES_MAX) -> list[Move]:
    """Return the moves that should begin now, beside those that are under way.

    They end: each one brings a server that has too much, and one that has too little, nearer to
    their shares.
    """
    room = moves_max - sum(int((part != NOBODY).sum()) for part in view.heirs)
    moves: list[Move] = []
    for table in range(len(view.owners)):
        for move in _even_table(view, table):
            if len(moves) >= room:
                return moves
            moves.append(move)
    return moves


def _even_table(view: View, table: int) -> Iterator[Move]:
    """Yield the moves of one table's segments."""
    able = [node for node in view.nodes("server") if node not in view.leaving]
    if not able:
        return
    owners, heirs = view.owners[table], view.heirs[table]
    wanted = place(table, len(owners), able)
    will_own = np.where(heirs != NOBODY, heirs, owners)
    load = Counter(will_own.tolist())
    excess = Counter(load)
    excess.subtract(wanted.tolist())
    free = movable(view, table)
    # Who leaves comes first, then whoever has most too much, where that matters.
    donors = sorted(view.leaving)
    if is_uneven(load, excess, len(owners), able):
        donors += sorted(set(able) & set(load), key=lambda node: (-excess[node], node))
    for donor in donors:
        is_leaving = donor in view.leaving
        mine = np.flatnonzero(free & (owners == donor)).tolist()
        while excess[donor] > 0 and mine:
            poor = [node for node in able if excess[node] < 0]
            # A move that only exchanges who has more is none.
            poor = [node for node in poor if is_leaving or load[donor] - load[node] > 1]
            if not poor:
                break
            segment, node = _choose(mine, poor, wanted, view.copies[table], excess)
            mine.remove(segment)
            for counts in (load, excess):
                counts[donor] -= 1
                counts[node] += 1
            yield Move(table, segment, node)


def is_uneven(
    load: Mapping[int, int], excess: Mapping[int, int], segments: int, able: Collection[int]
) -> bool:
    """Return whether a server has more than it may have, or another much less than its share.

    A few segments more or less are no reason: hot ones have moved for another.
    """
    share = segments // len(able)
    slack = max(1, share // 8)
    most = max(load[node] for node in able)
    return most > load_max(segments, len(able)) or min(excess[n] for n in able) < -slack


def _choose(
    mine: Collection[int],
    poor: Collection[int],
    wanted: np.ndarray,
    copies: np.ndarray,
    excess: Mapping[int, int],
) -> tuple[int, int]:
    """Return a segment, and who shall have it, of those who have too little."""
    for segment in mine:
        if wanted[segment] in poor:
            return segment, int(wanted[segment])
    for segment in mine:
        for node in copies[segment].tolist():
            if node in poor:
                return segment, node
    return next(iter(mine)), min(poor, key=lambda node: (excess[node], node))
