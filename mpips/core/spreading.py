"""Which copies should lie elsewhere, so that every server has its share of them.

A server that is new has no copies until somebody dies. So, once owners have their shares, some
segments get one more copy there; when it has joined, it takes the place of one on a server that has
too many (`membership.admit`). As few do as bring all to their shares, and a few at a time.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Final

import msgspec
import numpy as np

from mpips.core.evening import is_uneven
from mpips.core.membership import place_in, server_hosts
from mpips.core.moving import Move
from mpips.core.ring import place_copies
from mpips.wire.types import NOBODY, View

JOINS_MAX: Final = 8
"""So many copies are made at a time: the rest of the servers' time is the workers'."""


def plan_copies(view: View, joins_max: int = JOINS_MAX) -> list[Move]:
    """Return the copies that should be made now: which segments, and on which servers.

    None while segments move to other owners, which changes who copies them, nor while so many are
    being made for whatever reason. They end: each one brings a server that has too many, and one
    that has too few, nearer to their shares.
    """
    if any((part != NOBODY).any() for part in view.heirs):
        return []
    room = joins_max - sum(int((part != NOBODY).sum()) for part in view.joining)
    found: list[Move] = []
    for table in range(len(view.owners)):
        for move in _spread_table(view, table):
            if len(found) >= room:
                return found
            found.append(move)
    return found


def ask_to_join(view: View, epoch: int, copies: list[Move]) -> View:
    """Return the view in which servers shall become copies beside those that there are."""
    if not copies:
        return view
    joining, asked = ([part.copy() for part in parts] for parts in (view.joining, view.asked))
    for copy in copies:
        assert (joining[copy.table][copy.segment] == NOBODY).all(), "another one joins already"
        joining[copy.table][copy.segment, 0] = copy.node
        asked[copy.table][copy.segment] = epoch
    return msgspec.structs.replace(
        view, epoch=epoch, joining=tuple(joining), asked=tuple(asked)
    )


def _spread_table(view: View, table: int) -> Iterator[Move]:
    """Yield the copies of one table's segments that should be made."""
    able = [node for node in view.nodes("server") if node not in view.leaving]
    owners, copies, joining = view.owners[table], view.copies[table], view.joining[table]
    replicas = copies.shape[1]
    if not replicas or len(able) < 2:
        return
    hosts = server_hosts(view.members)
    load = Counter(copies[copies != NOBODY].tolist())
    # Copies that are being made count where they will be, and not where they replace others.
    for segment in np.flatnonzero((joining != NOBODY).any(axis=1)).tolist():
        row = copies[segment]
        for node in joining[segment][joining[segment] != NOBODY].tolist():
            load[node] += 1
            if (row != NOBODY).all() and not np.isin(row, view.leaving).any():
                load[int(row[place_in(row, int(owners[segment]), node, load, hosts)])] -= 1
    wanted = place_copies(table, owners, np.full_like(copies, NOBODY), hosts, replicas,
                          view.leaving)  # fmt: skip
    excess = Counter(load)
    excess.subtract(wanted[wanted != NOBODY].tolist())
    if not is_uneven(load, excess, load.total(), able):
        return
    # Who leaves gives its copies up by other ways, and who lacks some gets them so.
    is_whole = (copies != NOBODY).sum(axis=1) == min(replicas, len(able) - 1)
    stays = ~np.isin(copies, view.leaving).any(axis=1)
    is_free = is_whole & stays & (joining == NOBODY).all(axis=1)
    free = set(np.flatnonzero(is_free).tolist())
    poor = sorted((node for node in able if excess[node] < 0), key=lambda node: excess[node])
    for node in poor:
        # First those that the ring wants there.
        is_wanted = (wanted == node).any(axis=1)
        for segment in sorted(free, key=lambda segment: (not is_wanted[segment], segment)):
            if excess[node] >= 0:
                break
            row = copies[segment]
            if node in (owners[segment], *row.tolist()):
                continue
            donor = int(row[place_in(row, int(owners[segment]), node, load, hosts)])
            used = {hosts[at] for at in (int(owners[segment]), *row.tolist())
                    if at not in (donor, NOBODY)}  # fmt: skip
            is_worse = hosts[node] in used and hosts[donor] not in used
            if is_worse or excess[donor] <= 0 or load[donor] - load[node] <= 1:
                continue
            free.discard(segment)
            for counts in (load, excess):
                counts[donor] -= 1
                counts[node] += 1
            yield Move(table, segment, node)
