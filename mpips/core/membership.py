"""Views from views: who owns, copies and acts for what after nodes have come or gone.

A view that follows a death promotes the first copy in sync of what the dead owned, and moves
nothing else (OSDI 2014, section 4.3; DESIGN, section 8). It asks for new copies, which get in sync
in the background, and finds somebody who acts for the logical workers of dead workers.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from mpips.core.ring import place, place_copies
from mpips.wire.types import NOBODY, Member, Table, View

WORKER_POLICIES = ("replace", "spread", "drop")

Joins = Mapping[tuple[int, int], Collection[int]]
"""By table and copy: the segments that it has."""


@dataclass(frozen=True, slots=True)
class Change:
    """A view after deaths, and what it has cost.

    Attributes:
        view: the new view.
        promoted: how many segments got another owner.
        moved: the logical workers that got another actor, with it, or `NOBODY`.
        hired: the spares that got a role.
        lost: table and segment of what nobody has any more.
    """

    view: View
    promoted: int
    moved: dict[int, int]
    hired: list[Member]
    lost: list[tuple[int, int]]


def first_view(
    epoch: int,
    members: Sequence[Member],
    tables: Sequence[Table],
    logical_workers: int,
    replicas: int,
    dropped: Collection[int] = (),
) -> View:
    """Return the view that a job begins with: all copies are in sync, since all is empty.

    Args:
        epoch: of the view.
        members: of the job.
        tables: as they are cut.
        logical_workers: how many there are.
        replicas: copies wanted of each segment, beside its owner's.
        dropped: the logical workers that were left out before the checkpoint of a resumed job.
    """
    members = sorted(members, key=lambda member: member.node)
    servers = [member.node for member in members if member.role == "server"]
    workers = [member.node for member in members if member.role == "worker"]
    hosts = server_hosts(members)
    actors = [workers[i * len(workers) // logical_workers] for i in range(logical_workers)]
    owners = tuple(place(i, table.segments, servers) for i, table in enumerate(tables))
    empty = tuple(np.full((len(part), replicas), NOBODY, np.int32) for part in owners)
    return View(
        epoch=epoch,
        members=tuple(members),
        owners=owners,
        actors=tuple(NOBODY if i in dropped else actor for i, actor in enumerate(actors)),
        copies=tuple(
            place_copies(i, part, empty[i], hosts, replicas) for i, part in enumerate(owners)
        ),
        joining=empty,
        since=tuple(np.full(len(part), epoch, np.int64) for part in owners),
    )


def fail_over(view: View, epoch: int, dead: Collection[int], policy: str) -> Change:
    """Return the view without some nodes.

    Args:
        view: the view before.
        epoch: of the new one.
        dead: nodes of any role but the scheduler's.
        policy: what becomes of dead workers' logical workers: "replace": a spare acts for them,
            or else the other workers; "spread": the other workers do; "drop": nobody.
    """
    assert policy in WORKER_POLICIES, policy
    members, hired = _hire(view, epoch, dead, policy)
    leaving = _who_leaves(view, members)
    actors, moved = _reassign(view, members, dead, hired, policy)
    hosts = server_hosts(members)
    owners, copies, joining, since, asked, lost = [], [], [], [], [], []
    promoted = 0
    for table, old in enumerate(view.owners):
        owner, sync, reign = old.copy(), view.copies[table].copy(), view.since[table].copy()
        joins = drop_nodes(view.joining[table], dead)
        sync = drop_nodes(sync, dead)
        # The first copy in sync takes over.
        orphans = np.isin(old, list(dead))
        owner[orphans] = sync[orphans, 0] if sync.shape[1] else NOBODY
        sync[orphans] = _shift(sync[orphans])
        reign[orphans] = epoch
        promoted += int(orphans.sum())
        lost += [(table, int(segment)) for segment in np.flatnonzero(owner == NOBODY)]
        there = np.concatenate([sync, joins], axis=1)
        wanted = place_copies(table, owner, there, hosts, sync.shape[1], leaving)
        asked.append(np.where((wanted != NOBODY).any(axis=1), epoch, view.asked[table]))
        owners.append(owner)
        copies.append(sync)
        joining.append(fill_free(joins, wanted))
        since.append(reign)
    # Who was to get a segment may be dead, or not get the rest: all moves begin anew.
    new = View(
        epoch=epoch,
        members=tuple(members),
        owners=tuple(owners),
        actors=tuple(actors),
        copies=tuple(copies),
        joining=tuple(joining),
        since=tuple(since),
        handed=tuple(
            (part * (reign != epoch)).astype(np.uint8)
            for part, reign in zip(view.handed, since, strict=True)
        ),
        asked=tuple(asked),
        leaving=leaving,
        coming=tuple(node for node in view.coming if node not in dead),
    )
    return Change(new, promoted, moved, hired, lost)


def admit(view: View, epoch: int, joins: Joins) -> View:
    """Return the view in which copies that have joined are in sync.

    They take free places, or those of servers that leave, or that have most copies. Owners stop
    what has its heir now.
    """
    hosts = server_hosts(view.members)
    copies = [part.copy() for part in view.copies]
    joining = [part.copy() for part in view.joining]
    stops = [part.copy() for part in view.stops]
    for (table, node), segments in joins.items():
        for segment in segments:
            if view.heirs[table][segment] == node and not stops[table][segment]:
                stops[table][segment] = epoch
            at = np.flatnonzero(joining[table][segment] == node)
            if not len(at):
                continue
            joining[table][segment, at] = NOBODY
            row, owner = copies[table][segment], int(view.owners[table][segment])
            free = np.flatnonzero((row == NOBODY) | np.isin(row, view.leaving))
            if len(free):
                # A free place is at the end; those before it are in use.
                empty = free[row[free] == NOBODY]
                row[empty[0] if len(empty) else free[0]] = node
            elif len(row):
                load = Counter(copies[table].ravel().tolist())
                row[place_in(row, owner, node, load, hosts)] = node
    return msgspec.structs.replace(
        view, epoch=epoch, copies=tuple(copies), joining=tuple(joining), stops=tuple(stops)
    )


def place_in(
    row: np.ndarray, owner: int, node: int, load: Mapping[int, int], hosts: Mapping[int, str]
) -> int:
    """Return which copy of a segment gives its place to another: of who has most copies.

    One on the other's host comes first, unless the owner is there, too: no two lie together then.

    Args:
        row: int32 `(replicas,)`, the copies, all places in use.
        owner: of the segment.
        node: the server that gets the place.
        load: the number of copies that each server has.
        hosts: of the servers.
    """
    there: list[int] = row.tolist()
    together = [at for at in there if hosts[at] == hosts[node] != hosts[owner]]
    return there.index(max(together or there, key=lambda at: (load[at], at)))


def reassign(view: View, epoch: int, actors: Mapping[int, int]) -> View:
    """Return the view in which other nodes act for some logical workers."""
    changed = tuple(actors.get(worker, node) for worker, node in enumerate(view.actors))
    return msgspec.structs.replace(view, epoch=epoch, actors=changed)


def missing_copies(view: View, replicas: int) -> int:
    """Return how many copies in sync fewer there are than there could be, of all segments."""
    wanted = min(replicas, len(view.nodes("server")) - 1)
    return sum(wanted * len(part) - int((part != NOBODY).sum()) for part in view.copies)


def _hire(
    view: View, epoch: int, dead: Collection[int], policy: str
) -> tuple[list[Member], list[Member]]:
    """Return the members that are left, and those of them that are spares no longer."""
    members = [member for member in view.members if member.node not in dead]
    spares = [member for member in members if member.role == "spare"]
    is_left = any(member.role == "worker" for member in members)
    hired = []
    # If no worker is left, a spare is better than nobody, and there before it is a server.
    urgent = "server" if is_left else "worker"
    for member in sorted(view.members, key=lambda member: member.role != urgent):
        has_successor = policy == "replace" or (policy == "spread" and not is_left)
        is_replaced = member.role == "server" or (member.role == "worker" and has_successor)
        if member.node in dead and member.node not in view.leaving and is_replaced and spares:
            spare = spares.pop(0)
            new = Member(spare.node, member.role, spare.host, epoch)
            members[members.index(spare)] = new
            hired.append(new)
    return members, hired


def _who_leaves(view: View, members: Sequence[Member]) -> tuple[int, ...]:
    """Return who leaves still: nobody of a role of which too few would be left."""
    needed = {"server": max((part.shape[1] for part in view.copies), default=0) + 1, "worker": 1}
    leaving: list[int] = []
    for role, least in needed.items():
        there = [member.node for member in members if member.role == role]
        if len(set(there).difference(view.leaving)) >= least:
            leaving += [node for node in there if node in view.leaving]
    return tuple(sorted(leaving))


def _reassign(
    view: View,
    members: Sequence[Member],
    dead: Collection[int],
    hired: Sequence[Member],
    policy: str,
) -> tuple[list[int], dict[int, int]]:
    """Return who acts for each logical worker, and whose actor has changed."""
    actors, moved = list(view.actors), {}
    workers = [member.node for member in members if member.role == "worker"]
    fresh = [member.node for member in hired if member.role == "worker"]
    successors = dict(zip(sorted(set(actors) & set(dead)), fresh, strict=False))
    for worker, actor in enumerate(view.actors):
        if actor not in dead:
            continue
        if policy == "drop" or not workers:
            successor = NOBODY
        elif actor in successors:
            successor = successors[actor]
        else:
            successor = min(workers, key=actors.count)
        actors[worker] = moved[worker] = successor
    return actors, moved


def server_hosts(members: Sequence[Member]) -> dict[int, str]:
    """Return the host of each server; where there is one host, each counts as one of its own."""
    servers = {member.node: member.host for member in members if member.role == "server"}
    if len(set(servers.values())) > 1:
        return servers
    return {node: str(node) for node in servers}


def drop_nodes(nodes: np.ndarray, dead: Collection[int]) -> np.ndarray:
    """Return rows of nodes without the dead, the free places at the end."""
    left = np.where(np.isin(nodes, list(dead)), NOBODY, nodes)
    order = np.argsort(left == NOBODY, axis=1, kind="stable")
    return np.take_along_axis(left, order, axis=1)


def _shift(nodes: np.ndarray) -> np.ndarray:
    """Return rows of nodes without their first."""
    if not nodes.shape[1]:
        return nodes
    return np.concatenate([nodes[:, 1:], np.full((len(nodes), 1), NOBODY, nodes.dtype)], axis=1)


def fill_free(nodes: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return rows of nodes with others in their free places."""
    merged = drop_nodes(np.concatenate([nodes, more], axis=1), ())
    return np.ascontiguousarray(merged[:, : nodes.shape[1]])
