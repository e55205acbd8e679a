"""Views from views: promotions that move nothing else, and new copies."""

import numpy as np
import pytest

from mpips.core.membership import first_view, missing_copies
from mpips.core.ring import load_max, place
from mpips.wire.types import NOBODY, Member, Table, make_epoch
from tests.core.views import (
    TABLES,
    check,
    join_all,
    lose,
    make_members,
    make_view,
    real,
    rows,
)

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
