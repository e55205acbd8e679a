"""Which copies lie elsewhere in the end: newcomers get their share, and no more is sent for it."""

from collections import Counter

import numpy as np
import pytest

from mpips.core.membership import fail_over, place_in, server_hosts
from mpips.core.moving import ask_for_copies, give_role, send_away
from mpips.core.ring import load_max, place_copies
from mpips.core.spreading import JOINS_MAX, ask_to_join, plan_copies
from mpips.core.views import Views
from mpips.wire.messages import Joined
from mpips.wire.types import NOBODY, View
from tests.core.test_evening import SEGMENTS, TABLE, large_view, settle
from tests.core.views import after, check, join_all, make_members, make_view, rows


def spread(view: View) -> tuple[View, int]:
    """Return the view when no copies are planned any more, and how many were made."""
    made = 0
    for _ in range(500):
        planned = plan_copies(view)
        assert len(planned) <= JOINS_MAX
        if not planned:
            return view, made
        view = ask_to_join(view, after(view), planned)
        check(view)
        assert len(plan_copies(view)) <= JOINS_MAX - len(planned)
        view = join_all(view)
        made += len(planned)
    raise AssertionError("there is no end to it")


def copied(view: View) -> Counter[int]:
    """Return how many copies each server has."""
    return Counter(view.copies[0][view.copies[0] != NOBODY].tolist())


def with_newcomer(servers: int, replicas: int, hosts: int = 1) -> tuple[View, int]:
    """Return a view in which owners have their shares, and a server that has no copies yet."""
    members = make_members(servers, spares=1, hosts=hosts)
    view = Views(0, replicas, "replace").begin(members, [TABLE], 2)
    spare = view.nodes("spare")[0]
    return settle(give_role(view, after(view), spare, "server"))[0], spare


@pytest.mark.parametrize("servers", [1, 2, 4, 7])
@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_nothing_is_copied_at_the_beginning(servers: int, replicas: int) -> None:
    assert plan_copies(large_view(servers, replicas=replicas)) == []
    assert plan_copies(make_view(replicas, servers=servers)) == []


@pytest.mark.parametrize(("servers", "replicas"), [(3, 1), (4, 1), (4, 2), (7, 2)])
def test_newcomer_gets_its_share_of_copies_and_no_more_is_sent(servers: int, replicas: int) -> None:
    view, new = with_newcomer(servers, replicas)
    before, owners = copied(view), view.owners[0].tolist()
    done, made = spread(view)
    share = SEGMENTS * replicas // (servers + 1)
    assert copied(done)[new] >= share * 3 // 4
    assert max(copied(done).values()) <= load_max(SEGMENTS * replicas, servers + 1)
    # Each one that is made is one that had to be: to bring somebody nearer to its share.
    gained = sum(max(0, copied(done)[node] - before[node]) for node in copied(done))
    assert made == gained
    assert done.owners[0].tolist() == owners
    assert all(len(sync) == replicas and not joins for *_, sync, joins in rows(done))


def test_copies_stay_on_other_hosts_than_their_owners() -> None:
    view, new = with_newcomer(4, 1, hosts=2)
    hosts = server_hosts(view.members)
    done, made = spread(view)
    assert made
    assert copied(done)[new] > 0
    assert all(hosts[owner] != hosts[sync[0]] for _, _, owner, sync, _ in rows(done))


def test_nothing_is_copied_while_owners_change() -> None:
    members = make_members(4, spares=1, hosts=1)
    view = Views(0, 1, "replace").begin(members, [TABLE], 2)
    spare = view.nodes("spare")[0]
    view = give_role(view, after(view), spare, "server")
    assert plan_copies(view)
    heirs = view.heirs[0].copy()
    heirs[5] = spare
    moving = View(**{f: getattr(view, f) for f in view.__struct_fields__ if f != "heirs"},
                  heirs=(heirs,))  # fmt: skip
    assert plan_copies(moving) == []


def test_copy_that_joins_replaces_none_where_one_is_missing() -> None:
    view, new = with_newcomer(4, 2)
    (one, *_) = plan_copies(view)
    asked = ask_to_join(view, after(view), [one])
    dead = int(asked.copies[0][one.segment, 0])
    left = fail_over(asked, after(asked), [dead], "replace").view
    other = int(asked.copies[0][one.segment, 1])
    joined = join_all(left)
    assert set(joined.copies[0][one.segment].tolist()) == {other, one.node}
    assert new == one.node


def test_place_is_that_of_the_one_on_the_same_host_or_with_most_copies() -> None:
    row, load = np.array([1, 2, 3], np.int32), {1: 5, 2: 9, 3: 7}
    own = {node: str(node) for node in range(6)}
    assert place_in(row, 0, 4, load, own) == 1
    assert place_in(row, 0, 4, load, {**own, 4: "3"}) == 2
    # The owner is there, too: it makes no difference.
    assert place_in(row, 0, 4, load, {**own, 4: "0", 3: "0"}) == 1


def test_copies_of_who_leaves_are_left_to_others() -> None:
    view, _ = with_newcomer(4, 1)
    gone = view.nodes("server")[0]
    view = send_away(view, after(view), gone)
    planned = plan_copies(view)
    assert all(gone not in view.copies[0][one.segment] for one in planned)
    assert all(one.node != gone for one in planned)
    # What replaces its copies counts.
    asked = ask_for_copies(view, after(view))
    assert len(plan_copies(asked)) <= len(planned)


def test_views_even_copies_out_after_owners_and_are_not_at_rest_before() -> None:
    views = Views(0, 1, "replace")
    view, new = with_newcomer(4, 1)
    views.view, views.tables = view, [TABLE]
    assert views.is_at_rest
    turns = 0
    while views.tick(0.0) or not turns:
        turns += 1
        assert views.view is not None
        joining = np.flatnonzero((views.view.joining[0] != NOBODY).any(axis=1)).tolist()
        assert views.is_at_rest == (not joining)
        for segment in joining:
            copy, owner = int(views.view.joining[0][segment, 0]), int(views.view.owners[0][segment])
            said = Joined(epoch=views.view.epoch, table=0, copy=copy, segments=[segment])
            views.note_joined(owner, said)
    assert views.is_at_rest
    assert views.view is not None
    assert copied(views.view)[new] >= SEGMENTS // 5 * 3 // 4
    assert turns >= copied(views.view)[new] // JOINS_MAX


def test_shares_are_those_of_a_fresh_ring_as_far_as_owners_allow() -> None:
    done, _ = spread(with_newcomer(4, 1)[0])
    empty = np.full_like(done.copies[0], NOBODY)
    fresh = place_copies(0, done.owners[0], empty, server_hosts(done.members), 1)
    wanted = Counter(fresh.ravel().tolist())
    slack = max(1, SEGMENTS // 5 // 8)
    assert all(copied(done)[node] >= wanted[node] - slack for node in wanted)
