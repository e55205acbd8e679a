"""Views that follow from plans: who joins or leaves, and which segments move to whom.

A segment moves in two stages (OSDI 2014, section 4.3: range fetch). Its heir is named and gets a
snapshot, and then every update, while the owner serves on. When it has all, the owner stops, so
that only updates on their way are left to wait for, and says when all copies are level. The next
view then makes the heir the owner. Everything about a move is in the view: a later view without
it calls it off.
"""

from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np

from mpips.core.membership import fill_free, server_hosts
from mpips.core.ring import place_copies
from mpips.wire.types import NOBODY, Member, View

Levels = Mapping[int, Collection[int]]
"""By table: the segments that are stopped, and the same on all who have them."""


class Move(msgspec.Struct, frozen=True):
    """A segment that moves to a server."""

    table: int
    segment: int
    node: int


def give_role(view: View, epoch: int, node: int, role: str) -> View:
    """Return the view in which a node has another role, for which it begins anew."""
    members = [
        Member(member.node, role, member.host, epoch) if member.node == node else member
        for member in view.members
    ]
    leaving = tuple(one for one in view.leaving if one != node)
    coming = (*view.coming, *([node] if role == "worker" else []))
    return msgspec.structs.replace(
        view, epoch=epoch, members=tuple(members), leaving=leaving, coming=coming
    )


def send_away(view: View, epoch: int, node: int) -> View:
    """Return the view in which a server or worker shall have nothing to do soon."""
    leaving = tuple(sorted({*view.leaving, node}))
    coming = tuple(one for one in view.coming if one != node)
    return msgspec.structs.replace(view, epoch=epoch, leaving=leaving, coming=coming)


def is_idle(view: View, node: int) -> bool:
    """Return whether a node neither has a part of any segment nor acts for a logical worker."""
    parts = (*view.owners, *view.copies, *view.joining, *view.heirs)
    return node not in view.actors and not any((part == node).any() for part in parts)


def dismiss(view: View, epoch: int) -> View:
    """Return the view in which whoever leaves, and has nothing to do any more, is a spare."""
    for node in view.leaving:
        if is_idle(view, node):
            view = give_role(view, epoch, node, "spare")
    return view


def ask_for_copies(view: View, epoch: int) -> View:
    """Return the view in which copies join that are missing, or that replace those that leave."""
    hosts = server_hosts(view.members)
    joining, asked = list(view.joining), list(view.asked)
    for table, owners in enumerate(view.owners):
        there = np.concatenate([view.copies[table], joining[table]], axis=1)
        wanted = place_copies(table, owners, there, hosts, there.shape[1] // 2, view.leaving)
        # One thing after the other: what moves gets its copies when it has moved.
        wanted[view.heirs[table] != NOBODY] = NOBODY
        is_new = (wanted != NOBODY).any(axis=1)
        if is_new.any():
            joining[table] = fill_free(joining[table], wanted)
            asked[table] = np.where(is_new, epoch, asked[table])
            view = msgspec.structs.replace(
                view, epoch=epoch, joining=tuple(joining), asked=tuple(asked)
            )
    return view


def movable(view: View, table: int) -> np.ndarray:
    """Return which segments of a table may begin to move, bool `(segments,)`."""
    is_settled = (view.joining[table] == NOBODY).all(axis=1)
    is_owned: np.ndarray = view.owners[table] != NOBODY
    stays: np.ndarray = view.heirs[table] == NOBODY
    return np.asarray(is_owned & is_settled & stays)


def is_wanted(view: View, move: Move) -> bool:
    """Return whether a server can have a segment that it neither has nor is going to have."""
    table, segment, node = move.table, move.segment, move.node
    owner, heir = int(view.owners[table][segment]), int(view.heirs[table][segment])
    is_able = node in view.nodes("server") and node not in view.leaving
    return is_able and node != (owner if heir == NOBODY else heir)


def is_possible(view: View, move: Move) -> bool:
    """Return whether a segment may begin to move to a server now."""
    return is_wanted(view, move) and bool(movable(view, move.table)[move.segment])


def name_heirs(view: View, epoch: int, moves: Sequence[Move]) -> View:
    """Return the view in which segments begin to move.

    A copy in sync has all but the last updates already.
    """
    if not moves:
        return view
    heirs, asked, stops = (
        [part.copy() for part in parts] for parts in (view.heirs, view.asked, view.stops)
    )
    for move in moves:
        table, segment = move.table, move.segment
        assert heirs[table][segment] == NOBODY, "it moves already"
        heirs[table][segment] = move.node
        is_copy = move.node in view.copies[table][segment]
        (stops if is_copy else asked)[table][segment] = epoch
    return msgspec.structs.replace(
        view, epoch=epoch, heirs=tuple(heirs), asked=tuple(asked), stops=tuple(stops)
    )


def hand_over(view: View, epoch: int, levels: Levels) -> View:
    """Return the view in which the heirs of level segments own them.

    The owner of before becomes a copy in the heir's place, or in a free one, or in that of a copy
    on the heir's host; else it has the segment no more.
    """
    if not any(levels.values()):
        return view
    hosts = server_hosts(view.members)
    owners, copies, since, handed, heirs, stops = (
        [part.copy() for part in parts]
        for parts in (view.owners, view.copies, view.since, view.handed, view.heirs, view.stops)
    )
    for table, segments in levels.items():
        for segment in segments:
            heir, owner = int(heirs[table][segment]), int(owners[table][segment])
            assert heir != NOBODY, "nobody to hand it to"
            assert stops[table][segment], "it is being served"
            row = copies[table][segment]
            place = _find_place(row, heir, owner, hosts)
            if place is not None:
                row[place] = owner
            owners[table][segment], since[table][segment] = heir, epoch
            handed[table][segment] = 1
            heirs[table][segment], stops[table][segment] = NOBODY, 0
    return msgspec.structs.replace(
        view,
        epoch=epoch,
        owners=tuple(owners),
        copies=tuple(copies),
        since=tuple(since),
        handed=tuple(handed),
        heirs=tuple(heirs),
        stops=tuple(stops),
    )


def _find_place(row: np.ndarray, heir: int, owner: int, hosts: Mapping[int, str]) -> int | None:
    """Return the place that the owner of before takes among the copies; None if there is none."""
    nodes = row.tolist()
    for place, node in enumerate(nodes):
        if node in (heir, NOBODY):
            # A row has its free places at the end, and the heir before them.
            return nodes.index(heir) if heir in nodes else place
    for place, node in enumerate(nodes):
        if hosts[node] == hosts[heir] != hosts[owner]:
            return place
    return None


def share_logical_workers(view: View, epoch: int) -> View:
    """Return the view in which nobody who leaves acts for logical workers, and who comes does.

    Others keep theirs: that somebody has none may be since it was slow. Only between two calls is
    it known what a logical worker has left.
    """
    workers = [node for node in view.nodes("worker") if node not in view.leaving]
    if not workers:
        return view
    actors = list(view.actors)
    for worker, node in enumerate(actors):
        if node in view.leaving:
            actors[worker] = min(workers, key=actors.count)
    for idle in [node for node in workers if node in view.coming]:
        # It gets as many as make both even, then from the next one that has most.
        while actors.count(busiest := max(workers, key=actors.count)) > actors.count(idle) + 1:
            actors[len(actors) - 1 - actors[::-1].index(busiest)] = idle
    if tuple(actors) == view.actors and not view.coming:
        return view
    return msgspec.structs.replace(view, epoch=epoch, actors=tuple(actors), coming=())
