"""Which hot segments move, and when: one server is asked for much more than others, for a while.

Loads are added up for a while, and a server has to be the busiest by far in two such times, one
after the other, with no new view in between. So nothing moves because of a burst, nor because of
what was asked for before the last move, and segments do not go to and fro.
"""

import math
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import numpy as np

from mpips.core.evening import MOVES_MAX, is_uneven
from mpips.core.load import Told
from mpips.core.moving import Move, movable
from mpips.core.ring import place
from mpips.wire.types import NOBODY, View

HOT_RATIO: Final = 1.3
"""A server is hot if it has so many times the mean load."""

WORTH: Final = 128
"""A segment is worth a move if so many of its load make the difference of two servers."""

KEYS_A_SECOND: Final = 10_000
"""A server that is asked for less has time enough, whatever the others do."""


Loads = Mapping[tuple[int, int], int]
"""By table and segment: the keys asked for of late."""


class Relief:
    """Adds up what servers tell of their loads.

    Args:
        window_s: how long loads are added up; 0: nothing ever moves.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._loads: Counter[tuple[int, int]] = Counter()
        self._rest: Counter[int] = Counter()
        self._told: Counter[int] = Counter()
        self._shares: dict[int, float] = {}
        self._until, self._epoch, self._hot = math.inf, 0, NOBODY

    def note(self, node: int, busy: Told, rest: int) -> None:
        """Note what a server was asked for since it last told."""
        for table, segment, keys in busy:
            self._loads[table, segment] += keys
            self._told[node] += keys
        self._rest[node] += rest
        self._told[node] += rest

    def shares(self) -> dict[int, float]:
        """Return by server its share of all keys asked for, in the last time that is over."""
        return self._shares

    def tick(self, now: float, view: View) -> tuple[Loads, dict[int, int]] | None:
        """Return the loads of segments, and the rest by server, if a server is to be relieved."""
        if not self._window_s:
            return None
        if view.epoch != self._epoch:
            self._epoch, self._hot = view.epoch, NOBODY
            self._begin(now)
        if now < self._until:
            return None
        loads, rest, hot = dict(self._loads), dict(self._rest), self._find_hot(view)
        total = sum(self._told.values())
        self._shares = {node: keys / max(1, total) for node, keys in self._told.items()}
        self._begin(now)
        is_due, self._hot = hot != NOBODY and hot == self._hot, hot
        return (loads, rest) if is_due else None

    def _begin(self, now: float) -> None:
        """Forget what was told, and add up anew."""
        self._until = now + self._window_s
        for counts in (self._loads, self._rest, self._told):
            counts.clear()

    def _find_hot(self, view: View) -> int:
        """Return the server that is asked for much more than the mean; NOBODY: there is none."""
        servers, told = view.nodes("server"), self._told
        busiest = max(servers, key=lambda node: told[node], default=NOBODY)
        mean = sum(told[node] for node in servers) / max(1, len(servers))
        is_hot = told[busiest] >= max(KEYS_A_SECOND * self._window_s, HOT_RATIO * mean)
        return busiest if is_hot and len(servers) > 1 else NOBODY


class _Board:
    """Who owns what, and has which load, once the moves are made that are planned so far."""

    def __init__(self, view: View, loads: Loads, rest: Mapping[int, int]) -> None:
        self.able = [node for node in view.nodes("server") if node not in view.leaving]
        self.owners = [part.copy() for part in view.owners]
        self.free = [movable(view, table) for table in range(len(view.owners))]
        self.loads, self.moves = loads, list[Move]()
        self.total = {node: rest.get(node, 0) for node in self.able}
        for (table, segment), load in loads.items():
            if (owner := int(self.owners[table][segment])) in self.total:
                self.total[owner] += load
        self._shares: dict[int, Counter[int]] = {}

    def move(self, table: int, segment: int, node: int) -> None:
        """Plan a move."""
        load = self.loads.get((table, segment), 0)
        self.total[int(self.owners[table][segment])] -= load
        self.total[node] += load
        self.owners[table][segment], self.free[table][segment] = node, False
        self.moves.append(Move(table, segment, node))

    def find_hot(self, node: int, most: float) -> tuple[int, int, int]:
        """Return the load, table and number of a server's hottest segment of at most a load."""
        fitting = [
            (load, table, segment)
            for (table, segment), load in self.loads.items()
            if self.owners[table][segment] == node and self.free[table][segment] and load <= most
        ]
        return max(fitting, default=(0, 0, 0))

    def find_cold(self, table: int, node: int) -> int:
        """Return a server's coldest segment of a table; NOBODY: none can move."""
        mine = np.flatnonzero(self.free[table] & (self.owners[table] == node)).tolist()
        return min(mine, key=lambda one: self.loads.get((table, one), 0), default=NOBODY)

    def would_be_uneven(self, table: int, segment: int, node: int) -> bool:
        """Return whether segments would have to be evened out if a server had one of them more."""
        owners = self.owners[table]
        if table not in self._shares:
            self._shares[table] = Counter(place(table, len(owners), self.able).tolist())
        load = Counter(owners.tolist())
        load[int(owners[segment])] -= 1
        load[node] += 1
        excess = Counter(load)
        excess.subtract(self._shares[table])
        return is_uneven(load, excess, len(owners), self.able)


def plan_relief(
    view: View, loads: Loads, rest: Mapping[int, int] = MappingProxyType({})
) -> list[Move]:
    """Return the moves of hot segments from the busiest servers to the idlest that even load out.

    Nothing moves while other moves are under way, or where nobody has much more than the mean. The
    hottest segment is taken that leaves the one that gets it with less than the one that gives it
    had. Where servers would have too uneven numbers of segments then, so that one moved back for
    that (see `evening.plan_moves`), the coldest one goes the other way.

    Args:
        view: the newest.
        loads: of segments.
        rest: the load of all others, by server.
    """
    board = _Board(view, loads, rest)
    able, total = board.able, board.total
    is_moving = any((part != NOBODY).any() for part in view.heirs)
    if len(able) < 2 or is_moving or view.leaving:
        return []
    while len(board.moves) + 1 < MOVES_MAX:
        busiest, idlest = max(able, key=total.__getitem__), min(able, key=total.__getitem__)
        gap = total[busiest] - total[idlest]
        if not gap or total[busiest] * len(able) < HOT_RATIO * sum(total.values()):
            break
        load, table, segment = board.find_hot(busiest, gap / 2)
        # What is hardly used is not worth a move.
        if not load or load * WORTH < gap:
            break
        if board.would_be_uneven(table, segment, idlest):
            cold = board.find_cold(table, idlest)
            if cold == NOBODY or 2 * loads.get((table, cold), 0) > load:
                break
            board.move(table, cold, busiest)
        board.move(table, segment, idlest)
    return board.moves
