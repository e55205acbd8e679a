"""Views from views: promotions that move nothing else, new copies, and who acts for whom."""

from collections.abc import Collection, Iterable

import numpy as np
import pytest

from mpips.core.membership import (
    WORKER_POLICIES,
    Change,
    admit,
    fail_over,
    first_view,
    missing_copies,
)
from mpips.core.ring import load_max, place
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
        assert len(sync) + len(joins) <= view.copies[table].shape[1]
        assert view.since[table][segment] <= view.epoch
    assert set(view.actors) <= workers | {NOBODY}


# -- The first view ------------------------------------------------------------------------------


@pytest.mark.parametrize("servers", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_first_view_gives_each_segment_an_owner_and_its_copies(
    servers: int, hosts: int, replicas: int
) -> None:
    view = make_view(replicas, servers=servers, hosts=hosts)
    check(view)
    host_of = {member.node: member.host for member in view.members}
    there = {member.host for member in view.members if member.role == "server"}
    for _, _, owner, sync, joins in rows(view):
        assert owner != NOBODY
        assert len(sync) == min(replicas, servers - 1)
        # All is empty, so that there is nothing that a copy would have to wait for.
        assert joins == []
        used = {host_of[node] for node in (owner, *sync)}
        assert len(used) == min(len(there), 1 + len(sync))
    assert [part.shape for part in view.copies] == [(24, replicas), (7, replicas)]
    assert all((part == view.epoch).all() for part in view.since)
    assert view.is_first


@pytest.mark.parametrize(("servers", "hosts"), [(4, 4), (6, 1), (8, 8), (6, 3)])
def test_first_view_spreads_owners_and_copies(servers: int, hosts: int) -> None:
    view = first_view(
        make_epoch(1, 0),
        make_members(servers, hosts=hosts),
        [Table(name="w", size=10**6, segments=64 * servers)],
        2,
        1,
    )
    owned = np.bincount(view.owners[0])
    assert owned.max() <= load_max(64 * servers, servers)
    copied = np.bincount(view.copies[0].ravel())
    assert copied.max() <= load_max(64 * servers, servers)


def test_first_view_has_the_ring_s_owners_and_shares_logical_workers_evenly() -> None:
    view = make_view(servers=3, workers=3, logical_workers=7)
    expected = place(0, 24, view.nodes("server"))
    assert np.array_equal(view.owners[0], expected)
    assert view.actors == (1, 1, 1, 2, 2, 3, 3)


def test_first_view_does_not_depend_on_who_came_first(rng: np.random.Generator) -> None:
    members = make_members(5, 3, 1, 3)
    epoch = make_epoch(1, 0)
    expected = rows(first_view(epoch, members, TABLES, 5, 2))
    for _ in range(5):
        mixed = [members[at] for at in rng.permutation(len(members))]
        assert rows(first_view(epoch, mixed, TABLES, 5, 2)) == expected


# -- Deaths of servers ---------------------------------------------------------------------------


@pytest.mark.parametrize("replicas", [1, 2, 3])
def test_first_copy_in_sync_takes_over_and_nothing_else_moves(replicas: int) -> None:
    view = make_view(replicas, servers=5)
    change = lose(view, 4)
    promoted = 0
    for old, new in zip(rows(view), rows(change.view), strict=True):
        table, segment, owner, sync, _ = old
        since = change.view.since[table][segment]
        if owner == 4:
            promoted += 1
            assert new[2:4] == (sync[0], sync[1:])
            assert since == change.view.epoch
        else:
            assert new[2:4] == (owner, [node for node in sync if node != 4])
            assert since == view.since[table][segment]
    assert change.promoted == promoted > 0
    assert change.lost == []
    assert change.view.actors == view.actors
    assert change.moved == {}


def test_copy_that_is_joining_is_not_promoted() -> None:
    before = lose(make_view(1, servers=4), 4).view
    # Some segments have an owner alone, and a copy that joins; now their owner dies.
    owner = next(owner for _, _, owner, sync, joins in rows(before) if not sync and joins)
    change = lose(before, owner)
    lost = {(t, s) for t, s, o, sync, _ in rows(before) if o == owner and not sync}
    assert lost
    assert set(change.lost) == lost
    for table, segment, new, _, joins in rows(change.view):
        assert (new == NOBODY) == ((table, segment) in lost)
        assert new != NOBODY or set(joins) <= set(real(before.joining[table][segment]))


def test_loss_of_all_copies_names_each_segment_and_no_other() -> None:
    view = make_view(1, servers=4)
    pair = {3, 4}
    change = lose(view, *pair)
    lost = [(t, s) for t, s, owner, sync, _ in rows(view) if pair.issuperset([owner, *sync])]
    assert change.lost == lost != []
    # Two copies survive any two deaths.
    two = make_view(2, servers=4)
    for one in view.nodes("server"):
        for other in view.nodes("server"):
            assert lose(two, *{one, other}).lost == []


def test_without_copies_a_dead_server_s_segments_are_lost() -> None:
    view = make_view(0, servers=3)
    lost = [(t, s) for t, s, owner, _, _ in rows(view) if owner == 4]
    assert lose(view, 4).lost == lost != []


@pytest.mark.parametrize("replicas", [1, 2])
@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_missing_copies_are_made_again_on_other_hosts(replicas: int, hosts: int) -> None:
    view = make_view(replicas, servers=6, hosts=hosts)
    change = lose(view, 5)
    host_of = {member.node: member.host for member in view.members}
    left = {host_of[node] for node in change.view.nodes("server")}
    missing = 0
    for _, _, owner, sync, joins in rows(change.view):
        assert len(sync) + len(joins) == replicas
        missing += len(joins)
        used = {host_of[node] for node in (owner, *sync)}
        for node in joins:
            assert hosts == 1 or host_of[node] not in used or used >= left
            used.add(host_of[node])
    assert missing_copies(change.view, replicas) == missing > 0
    joined = join_all(change.view)
    assert missing_copies(joined, replicas) == 0
    assert all(joins == [] for *_, joins in rows(joined))


def test_new_copies_are_spread_over_the_servers_that_are_left() -> None:
    members = make_members(8, hosts=8)
    tables = [Table(name="w", size=10**6, segments=512)]
    view = first_view(make_epoch(1, 0), members, tables, 2, 1)
    joined = join_all(lose(view, 5).view)
    copied = np.bincount(joined.copies[0].ravel())
    assert copied.max() <= load_max(512, 7)


def test_spare_serves_in_the_place_of_a_server_and_owns_nothing_yet() -> None:
    view = make_view(1, servers=3, spares=2)
    change = lose(view, 4)
    assert change.hired == [Member(6, "server", "host0", change.view.epoch)]
    assert change.view.member(6) == change.hired[0]
    assert change.view.nodes("server") == [3, 5, 6]
    assert change.view.nodes("spare") == [7]
    for _, _, owner, sync, _ in rows(change.view):
        assert 6 not in (owner, *sync)
    assert any(6 in joins for *_, joins in rows(change.view))
    # Whoever stays keeps its incarnation, or its messages would be refused.
    kept = {member.node: member for member in view.members}
    assert all(kept[m.node] == m for m in change.view.members if m.node != 6)


def test_spare_that_dies_is_missed_by_nobody() -> None:
    view = make_view(1, servers=3, spares=2)
    change = lose(view, 6)
    assert rows(change.view) == rows(view)
    assert change.hired == []
    assert (change.promoted, change.moved) == (0, {})


def test_more_deaths_than_spares_leave_fewer_servers() -> None:
    view = make_view(2, servers=5, spares=1)
    change = lose(view, 3, 4)
    assert [member.node for member in change.hired] == [8]
    assert change.view.nodes("server") == [5, 6, 7, 8]
    assert change.lost == []


def test_last_server_alone_has_all_and_wants_no_copies() -> None:
    view = make_view(1, servers=2)
    change = lose(view, 3)
    assert all(row[2:] == (4, [], []) for row in rows(change.view))
    assert missing_copies(change.view, 1) == 0


# -- Deaths of workers ---------------------------------------------------------------------------


def test_spare_acts_for_the_logical_workers_of_a_dead_worker() -> None:
    view = make_view(workers=2, servers=2, spares=1, logical_workers=4)
    change = lose(view, 2)
    assert [(member.node, member.role) for member in change.hired] == [(5, "worker")]
    assert change.moved == {2: 5, 3: 5}
    assert change.view.actors == (1, 1, 5, 5)
    assert rows(change.view) == rows(view)


@pytest.mark.parametrize("policy", ["replace", "spread"])
def test_others_act_for_a_dead_worker_evenly(policy: str) -> None:
    view = make_view(workers=4, servers=2, logical_workers=12)
    change = lose(view, 1, policy=policy)
    assert sorted(change.moved) == [0, 1, 2]
    assert sorted(change.moved.values()) == [2, 3, 4]
    assert [change.view.actors.count(node) for node in (2, 3, 4)] == [4, 4, 4]


def test_spread_keeps_spares_for_servers_while_workers_are_left() -> None:
    view = make_view(workers=2, servers=2, spares=1)
    change = lose(view, 1, policy="spread")
    assert change.hired == []
    assert set(change.view.actors) == {2}
    # With the last one gone, a spare is better than nobody.
    last = lose(change.view, 2, policy="spread")
    assert [(member.node, member.role) for member in last.hired] == [(5, "worker")]
    assert set(last.view.actors) == {5}


def test_dropped_logical_workers_have_no_actor_ever_after() -> None:
    view = make_view(workers=3, servers=2, spares=1, logical_workers=6)
    change = lose(view, 2, policy="drop")
    assert change.moved == {2: NOBODY, 3: NOBODY}
    assert change.view.actors == (1, 1, NOBODY, NOBODY, 3, 3)
    assert change.hired == []
    later = lose(change.view, 1, policy="drop")
    assert later.moved == {0: NOBODY, 1: NOBODY}
    assert later.view.actors == (NOBODY, NOBODY, NOBODY, NOBODY, 3, 3)


@pytest.mark.parametrize("policy", WORKER_POLICIES)
def test_nobody_acts_when_no_worker_is_left(policy: str) -> None:
    view = make_view(workers=2, servers=2)
    change = lose(view, 1, 2, policy=policy)
    assert set(change.view.actors) == {NOBODY}


def test_two_workers_and_one_spare() -> None:
    view = make_view(workers=3, servers=2, spares=1, logical_workers=6)
    change = lose(view, 1, 3)
    # The spare replaces one; the other's are shared by those who have the fewest.
    assert len(change.hired) == 1
    assert change.moved == {0: 6, 1: 6, 4: 2, 5: 6}
    assert NOBODY not in change.view.actors


# -- Admission -----------------------------------------------------------------------------------


def test_admission_puts_in_sync_what_has_joined_and_leaves_the_rest() -> None:
    view = lose(make_view(1, servers=4), 4).view
    table, segment, _, _, (node,) = next(row for row in rows(view) if row[4])
    joined = admit(view, after(view), {(table, node): [segment]})
    check(joined)
    for old, new in zip(rows(view), rows(joined), strict=True):
        if old[:2] == (table, segment):
            assert new[3:] == ([node], [])
        else:
            assert new == old
    assert joined.epoch == after(view)
    # Nobody's reign begins by it, and the view before is as it was.
    assert all(np.array_equal(a, b) for a, b in zip(joined.since, view.since, strict=True))
    assert view.joining[table][segment].tolist() == [node]


def test_who_was_to_join_no_longer_is_not_admitted() -> None:
    view = lose(make_view(1, servers=4), 4).view
    table, segment, owner, _, (node,) = next(row for row in rows(view) if row[4])
    stranger = next(n for n in view.nodes("server") if n not in (owner, node))
    joined = admit(view, after(view), {(table, stranger): [segment], (table, owner): [segment]})
    assert rows(joined) == rows(view)


def test_copies_are_promoted_in_the_order_in_which_they_came() -> None:
    view = make_view(2, servers=5)
    _, _, owner, (first, second), _ = rows(view)[0]
    change = lose(view, first)
    (third,) = rows(change.view)[0][4]
    joined = join_all(change.view)
    assert rows(joined)[0][3] == [second, third]
    assert rows(lose(joined, owner).view)[0][2] == second


# -- Sequences -----------------------------------------------------------------------------------


def draw_joins(
    rng: np.random.Generator, view: View, chance: float
) -> dict[tuple[int, int], set[int]]:
    """Return some of the copies that are joining."""
    found: dict[tuple[int, int], set[int]] = {}
    for table, segment, _, _, joins in rows(view):
        for node in joins:
            if rng.random() < chance:
                found.setdefault((table, node), set()).add(segment)
    return found


def check_change(old: View, change: Change, dead: Collection[int], replicas: int) -> None:
    """Require of a change that it has done what deaths demand, and nothing more."""
    new = change.view
    assert not set(dead) & {member.node for member in new.members}
    wanted = min(replicas, len(new.nodes("server")) - 1)
    lost = []
    for was, now in zip(rows(old), rows(new), strict=True):
        table, segment, owner, sync, joins = was
        left = [node for node in (owner, *sync) if node not in dead]
        if not left:
            lost.append((table, segment))
            continue
        assert [now[2], *now[3]] == left
        assert set(now[4]) >= set(joins) - set(dead)
        assert len(now[3]) + len(now[4]) == wanted
        has_moved = now[2] != owner
        expected = new.epoch if has_moved else old.since[table][segment]
        assert new.since[table][segment] == expected
    assert change.lost == lost
    for worker, (was_actor, actor) in enumerate(zip(old.actors, new.actors, strict=True)):
        assert (was_actor in dead) == (worker in change.moved)
        assert actor == change.moved.get(worker, was_actor)


@pytest.mark.parametrize("seed", range(60))
def test_random_deaths_and_admissions_end_with_all_copies(seed: int) -> None:
    rng = np.random.default_rng([seed, 17])
    servers, workers = int(rng.integers(1, 7)), int(rng.integers(1, 5))
    spares, replicas = int(rng.integers(0, 4)), int(rng.integers(0, 4))
    policy = WORKER_POLICIES[int(rng.integers(3))]
    view = make_view(
        replicas,
        logical_workers=workers * int(rng.integers(1, 4)),
        servers=servers,
        workers=workers,
        spares=spares,
        hosts=int(rng.integers(1, 5)),
    )
    check(view)
    for _ in range(12):
        if rng.random() < 0.5:
            view = admit(view, after(view), draw_joins(rng, view, rng.choice([0.3, 1.0])))
            check(view)
            continue
        alive = [member.node for member in view.members if member.role != "scheduler"]
        dead = rng.choice(alive, min(len(alive), int(rng.integers(1, 3))), replace=False).tolist()
        change = lose(view, *dead, policy=policy)
        check_change(view, change, dead, replicas)
        # The scheduler ends the job when something is lost, or nobody is left.
        if change.lost or not change.view.nodes("server") or set(change.view.actors) == {NOBODY}:
            break
        view = change.view
    else:
        view = join_all(view)
        assert missing_copies(view, replicas) == 0
