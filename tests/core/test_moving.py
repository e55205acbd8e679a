"""Views by plan: heirs, hand-overs, servers that leave, and logical workers that are shared."""

import msgspec
import numpy as np
import pytest

from mpips.core.membership import admit, fail_over
from mpips.core.moving import (
    Move,
    ask_for_copies,
    dismiss,
    give_role,
    hand_over,
    is_idle,
    is_possible,
    name_heirs,
    send_away,
    share_logical_workers,
)
from mpips.wire.types import NOBODY, View
from tests.core.views import after, check, join_all, make_view, real, rows


def move(view: View, table: int, segment: int, node: int) -> View:
    """Return the view after a whole move."""
    named = name_heirs(view, after(view), [Move(table, segment, node)])
    check_heirs(named)
    if not named.stops[table][segment]:
        named = joined(named, table, segment, node)
    assert named.stops[table][segment] == named.epoch
    done = hand_over(named, after(named), {table: [segment]})
    check(done)
    return done


def joined(view: View, table: int, segment: int, node: int) -> View:
    """Return the view in which an heir has joined."""
    return admit(view, after(view), {(table, node): [segment]})


def check_heirs(view: View) -> None:
    """Require what holds of moves in every view."""
    for table, heirs in enumerate(view.heirs):
        moving = heirs != NOBODY
        assert not (view.stops[table].astype(bool) & ~moving).any()
        assert (heirs != view.owners[table])[moving].all()


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_segment_goes_to_a_server_that_has_nothing_of_it(replicas: int) -> None:
    view = make_view(replicas, servers=5)
    _, segment, owner, sync, _ = rows(view)[0]
    heir = next(node for node in view.nodes("server") if node not in (owner, *sync))
    named = name_heirs(view, after(view), [Move(0, segment, heir)])
    # It serves on until the heir has all, and nobody else is asked for anything.
    assert named.stops[0][segment] == 0
    assert named.asked[0][segment] == named.epoch
    assert rows(named) == rows(view)
    done = move(view, 0, segment, heir)
    assert done.owners[0][segment] == heir
    assert done.since[0][segment] == done.epoch
    assert done.handed[0][segment] == 1
    assert (done.heirs[0] == NOBODY).all()
    assert not done.stops[0].any()
    # As many copies as before; nothing else has changed.
    assert len(real(done.copies[0][segment])) == len(sync)
    assert [row for row in rows(done) if row[:2] != (0, segment)] == rows(view)[1:]


def test_copy_that_is_the_heir_changes_places_with_the_owner() -> None:
    view = make_view(2, servers=5)
    _, segment, owner, sync, _ = rows(view)[0]
    named = name_heirs(view, after(view), [Move(0, segment, sync[1])])
    assert named.stops[0][segment] == named.epoch
    done = hand_over(named, after(named), {0: [segment]})
    check(done)
    assert rows(done)[0][2:] == (sync[1], [sync[0], owner], [])


def test_old_owner_is_a_copy_where_one_is_missing() -> None:
    view = make_view(1, servers=3, hosts=1)
    copies = [part.copy() for part in view.copies]
    copies[0][0] = NOBODY
    view = msgspec.structs.replace(view, copies=tuple(copies))
    owner = int(view.owners[0][0])
    heir = next(node for node in view.nodes("server") if node != owner)
    done = move(view, 0, 0, heir)
    assert rows(done)[0][2:] == (heir, [owner], [])


def test_old_owner_takes_the_place_of_a_copy_on_the_heir_s_host() -> None:
    view = make_view(1, servers=4, hosts=2)
    hosts = {member.node: member.host for member in view.members}
    _, segment, owner, sync, _ = rows(view)[0]
    heir = next(n for n in view.nodes("server") if n != sync[0] and hosts[n] == hosts[sync[0]])
    done = move(view, 0, segment, heir)
    assert rows(done)[0][2:] == (heir, [owner], [])


def test_death_calls_all_moves_off() -> None:
    view = make_view(1, servers=5)
    named = name_heirs(
        view, after(view), [Move(0, 0, heir_of(view, 0)), Move(0, 1, heir_of(view, 1))]
    )
    stopped = joined(named, 0, 0, int(named.heirs[0][0]))
    dead = next(
        n for n in view.nodes("server") if n not in (*view.owners[0][:2], *named.heirs[0][:2])
    )
    left = fail_over(stopped, after(stopped), [dead], "replace").view
    assert (left.heirs[0] == NOBODY).all()
    assert not left.stops[0].any()
    check(left)


def heir_of(view: View, segment: int) -> int:
    """Return a server that has nothing of a segment of the first table."""
    _, _, owner, sync, _ = rows(view)[segment]
    return next(node for node in view.nodes("server") if node not in (owner, *sync))


def test_promoted_owner_was_handed_nothing() -> None:
    view = make_view(1, servers=5)
    done = move(view, 0, 0, heir_of(view, 0))
    owner = int(done.owners[0][0])
    left = fail_over(done, after(done), [owner], "replace").view
    # Its copies may have more than it has: they are not level.
    assert left.handed[0][0] == 0


@pytest.mark.parametrize("wrong", ["joining", "moving", "owner", "leaving", "no server"])
def test_segment_moves_where_it_can_alone(wrong: str) -> None:
    view = make_view(1, servers=5, spares=1)
    heir = heir_of(view, 0)
    assert is_possible(view, Move(0, 0, heir))
    if wrong == "joining":
        joining = [part.copy() for part in view.joining]
        joining[0][0] = heir
        view = msgspec.structs.replace(view, joining=tuple(joining))
    elif wrong == "moving":
        view = name_heirs(view, after(view), [Move(0, 0, heir)])
    elif wrong == "owner":
        heir = int(view.owners[0][0])
    elif wrong == "leaving":
        view = send_away(view, after(view), heir)
    else:
        heir = view.nodes("spare")[0]
    assert not is_possible(view, Move(0, 0, heir))


def test_copies_of_a_server_that_leaves_are_replaced_before_they_go() -> None:
    view = make_view(1, servers=4)
    away = send_away(view, after(view), 3)
    asked = ask_for_copies(away, after(away))
    for old, new in zip(rows(view), rows(asked), strict=True):
        # Until the others have joined it has what it had.
        assert new[:4] == old[:4]
        assert len(new[4]) == (3 in old[3])
        assert 3 not in new[4]
    done = join_all(asked)
    assert all(3 not in sync and len(sync) == 1 for *_, sync, _ in rows(done))


def test_whoever_leaves_is_dismissed_when_nothing_is_left() -> None:
    view = make_view(1, servers=4)
    away = send_away(view, after(view), 3)
    assert not is_idle(away, 3)
    assert dismiss(away, after(away)) is away
    done = join_all(ask_for_copies(away, after(away)))
    for table, segment, owner, sync, _ in rows(done):
        if owner == 3:
            heir = next(n for n in done.nodes("server") if n not in (3, *sync))
            done = move(done, table, segment, heir)
    # As a copy in the places of heirs it may still have something.
    done = join_all(ask_for_copies(done, after(done)))
    left = dismiss(done, after(done))
    assert left.nodes("spare") == [3]
    assert left.leaving == ()
    member = left.member(3)
    assert member is not None
    assert member.incarnation == left.epoch


def test_newcomer_gets_what_makes_both_even_and_others_keep_theirs() -> None:
    view = make_view(servers=2, workers=2, spares=1, logical_workers=6)
    spare = view.nodes("spare")[0]
    hired = give_role(view, after(view), spare, "worker")
    shared = share_logical_workers(hired, after(hired))
    assert [shared.actors.count(node) for node in (1, 2, spare)] == [2, 2, 2]
    for old, new in zip(view.actors, shared.actors, strict=True):
        assert new in (old, spare)
    assert share_logical_workers(shared, after(shared)) is shared


def test_worker_that_leaves_gives_all_away() -> None:
    view = make_view(servers=2, workers=3, logical_workers=6)
    away = send_away(view, after(view), 2)
    shared = share_logical_workers(away, after(away))
    assert sorted(shared.actors) == [1, 1, 1, 3, 3, 3]
    assert dismiss(shared, after(shared)).nodes("spare") == [2]


def test_uneven_shares_of_old_workers_stay() -> None:
    # Somebody may have more for a reason: the others were slow.
    view = msgspec.structs.replace(make_view(workers=2, logical_workers=4), actors=(1, 1, 1, 2))
    assert share_logical_workers(view, after(view)) is view


def test_rows_of_views_are_int32() -> None:
    done = move(make_view(1, servers=4), 0, 0, heir_of(make_view(1, servers=4), 0))
    assert {part.dtype for part in (*done.owners, *done.heirs)} == {np.dtype(np.int32)}
