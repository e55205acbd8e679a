"""Views from views: who owns, copies and acts for what after nodes have come or gone.

A view that follows a death promotes the first copy in sync of what the dead owned, and moves
nothing else (OSDI 2014, section 4.3; DESIGN, section 8). It asks for new copies, which get in sync
in the background, and finds somebody who acts for the logical workers of dead workers.
"""

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
    hosts = _hosts(members)
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
    actors, moved = _reassign(view, members, dead, hired, policy)
    hosts = _hosts(members)
    owners, copies, joining, since, lost = [], [], [], [], []
    promoted = 0
    for table, old in enumerate(view.owners):
        owner, sync, reign = old.copy(), view.copies[table].copy(), view.since[table].copy()
        joins = _without(view.joining[table], dead)
        sync = _without(sync, dead)
        # The first copy in sync takes over.
        orphans = np.isin(old, list(dead))
        owner[orphans] = sync[orphans, 0] if sync.shape[1] else NOBODY
        sync[orphans] = _shift(sync[orphans])
        reign[orphans] = epoch
        promoted += int(orphans.sum())
        lost += [(table, int(segment)) for segment in np.flatnonzero(owner == NOBODY)]
        there = np.concatenate([sync, joins], axis=1)
        wanted = place_copies(table, owner, there, hosts, sync.shape[1])
        owners.append(owner)
        copies.append(sync)
        joining.append(_merge(joins, wanted))
        since.append(reign)
    new = View(
        epoch=epoch,
        members=tuple(members),
        owners=tuple(owners),
        actors=tuple(actors),
        copies=tuple(copies),
        joining=tuple(joining),
        since=tuple(since),
    )
    return Change(new, promoted, moved, hired, lost)


def admit(view: View, epoch: int, joins: Joins) -> View:
    """Return the view in which copies that have joined are in sync."""
    copies = [part.copy() for part in view.copies]
    joining = [part.copy() for part in view.joining]
    for (table, node), segments in joins.items():
        for segment in segments:
            at = np.flatnonzero(joining[table][segment] == node)
            if len(at):
                joining[table][segment, at] = NOBODY
                free = np.flatnonzero(copies[table][segment] == NOBODY)
                copies[table][segment, free[0]] = node
    return msgspec.structs.replace(
        view, epoch=epoch, copies=tuple(copies), joining=tuple(joining)
    )


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
        if member.node in dead and is_replaced and spares:
            spare = spares.pop(0)
            new = Member(spare.node, member.role, spare.host, epoch)
            members[members.index(spare)] = new
            hired.append(new)
    return members, hired


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


def _hosts(members: Sequence[Member]) -> dict[int, str]:
    """Return the host of each server; where there is one host, each counts as one of its own."""
    servers = {member.node: member.host for member in members if member.role == "server"}
    if len(set(servers.values())) > 1:
        return servers
    return {node: str(node) for node in servers}


def _without(nodes: np.ndarray, dead: Collection[int]) -> np.ndarray:
    """Return rows of nodes without the dead, the free places at the end."""
    left = np.where(np.isin(nodes, list(dead)), NOBODY, nodes)
    order = np.argsort(left == NOBODY, axis=1, kind="stable")
    return np.take_along_axis(left, order, axis=1)


def _shift(nodes: np.ndarray) -> np.ndarray:
    """Return rows of nodes without their first."""
    if not nodes.shape[1]:
        return nodes
    return np.concatenate([nodes[:, 1:], np.full((len(nodes), 1), NOBODY, nodes.dtype)], axis=1)


def _merge(nodes: np.ndarray, more: np.ndarray) -> np.ndarray:
    """Return rows of nodes with others in their free places."""
    merged = _without(np.concatenate([nodes, more], axis=1), ())
    return np.ascontiguousarray(merged[:, : nodes.shape[1]])
