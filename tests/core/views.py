"""Views of a small job, the deaths that change them, and what holds of all of them."""

from collections.abc import Iterable

import numpy as np

from mpips.core.membership import Change, admit, fail_over, first_view
from mpips.wire.types import NOBODY, Member, Table, View, make_epoch

TABLES = [Table(name="w", size=640, segments=24), Table(name="s", kind="sparse", segments=7)]


def make_members(
    servers: int = 4, workers: int = 2, spares: int = 0, hosts: int = 2
) -> list[Member]:
    """Return a job's members: the scheduler 0, then workers, servers and spares, on hosts."""
    roles = ["scheduler"] + ["worker"] * workers + ["server"] * servers + ["spare"] * spares
    epoch = make_epoch(1, 0)
    return [Member(n, role, f"host{n % hosts}", epoch) for n, role in enumerate(roles)]


def make_view(replicas: int = 1, logical_workers: int = 4, **sizes: int) -> View:
    """Return a job's first view."""
    epoch = make_epoch(1, 0)
    return first_view(epoch, make_members(**sizes), TABLES, logical_workers, replicas)


def after(view: View) -> int:
    """Return the epoch that follows a view's."""
    return view.epoch + make_epoch(1, 0)


def lose(view: View, *dead: int, policy: str = "replace") -> Change:
    """Return what follows some deaths."""
    change = fail_over(view, after(view), dead, policy)
    check(change.view)
    return change


def join_all(view: View) -> View:
    """Return the view in which all copies that are joining have joined."""
    found: dict[tuple[int, int], list[int]] = {}
    for table, part in enumerate(view.joining):
        for segment, nodes in enumerate(part.tolist()):
            for node in real(nodes):
                found.setdefault((table, node), []).append(segment)
    joined = admit(view, after(view), found)
    check(joined)
    return joined


def real(nodes: Iterable[int]) -> list[int]:
    """Return nodes without the free places."""
    return [node for node in nodes if node != NOBODY]


def rows(view: View) -> list[tuple[int, int, int, list[int], list[int]]]:
    """Return for each table and segment its owner, its copies in sync, and those that join."""
    return [
        (table, segment, int(owner), real(sync.tolist()), real(joins.tolist()))
        for table, parts in enumerate(zip(view.owners, view.copies, view.joining, strict=True))
        for segment, (owner, sync, joins) in enumerate(zip(*parts, strict=True))
    ]


def check(view: View) -> None:
    """Require what holds of every view."""
    servers, workers = set(view.nodes("server")), set(view.nodes("worker"))
    for part in (*view.copies, *view.joining):
        # Whoever reads a row may stop at its first free place.
        assert part.dtype == np.int32
    for part in view.copies:
        assert not ((part[:, :-1] == NOBODY) & (part[:, 1:] != NOBODY)).any()
    for table, segment, owner, sync, joins in rows(view):
        who = [*real([owner]), *sync, *joins]
        assert len(set(who)) == len(who), "a node has two parts in one segment"
        assert servers.issuperset(who), "somebody has a segment who is no live server"
        stay = [node for node in sync if node not in view.leaving]
        # One that joins beside enough others replaces one of them.
        assert len(joins) <= max(1, view.copies[table].shape[1] - len(stay))
        assert view.since[table][segment] <= view.epoch
    assert set(view.actors) <= workers | {NOBODY}
