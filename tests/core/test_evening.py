"""Which segments move: to even shares, by as few moves as possible, and then no more."""

from collections import Counter

import numpy as np
import pytest

from mpips.core.evening import MOVES_MAX, plan_moves
from mpips.core.membership import fail_over, first_view
from mpips.core.moving import (
    ask_for_copies,
    dismiss,
    give_role,
    hand_over,
    name_heirs,
    send_away,
)
from mpips.core.relief import plan_relief
from mpips.core.ring import load_max, place
from mpips.wire.types import NOBODY, Table, View, make_epoch
from tests.core.test_moving import joined
from tests.core.views import after, check, join_all, make_members, make_view, rows

SEGMENTS = 256
TABLE = Table(name="w", size=10**6, segments=SEGMENTS)


def large_view(servers: int = 4, spares: int = 1, replicas: int = 1) -> View:
    """Return the first view of a table of many segments."""
    members = make_members(servers, spares=spares)
    return first_view(make_epoch(1, 0), members, [TABLE], 2, replicas)


def settle(view: View) -> tuple[View, int]:
    """Return the view when no moves are planned any more, and how many there were."""
    moved = 0
    for _ in range(500):
        view = join_all(ask_for_copies(view, after(view)))
        moves = plan_moves(view)
        assert len(moves) <= MOVES_MAX
        if not moves:
            return dismiss(view, after(view)), moved
        view = name_heirs(view, after(view), moves)
        # All at once: what moves already is not planned a second time.
        assert plan_moves(view) == []
        for one in moves:
            if not view.stops[one.table][one.segment]:
                view = joined(view, one.table, one.segment, one.node)
        levels = {t: np.flatnonzero(part).tolist() for t, part in enumerate(view.stops)}
        view = hand_over(view, after(view), levels)
        check(view)
        moved += len(moves)
    raise AssertionError("the moves never end")


def owned(view: View, table: int = 0) -> Counter[int]:
    """Return how many segments of a table each server owns."""
    return Counter(view.owners[table].tolist())


@pytest.mark.parametrize("servers", [1, 2, 4, 7])
def test_nothing_moves_at_the_beginning(servers: int) -> None:
    assert plan_moves(large_view(servers)) == []
    assert plan_moves(make_view(1, servers=servers)) == []


def test_newcomer_gets_its_share_and_nothing_else_moves() -> None:
    view = large_view()
    spare = view.nodes("spare")[0]
    wanted = Counter(place(0, SEGMENTS, [*view.nodes("server"), spare]).tolist())
    done, moved = settle(give_role(view, after(view), spare, "server"))
    assert owned(done)[spare] == moved
    # It comes as near to its share as hot segments may make a difference later.
    assert wanted[spare] * 3 // 4 <= moved <= wanted[spare]
    assert max(owned(done).values()) <= load_max(SEGMENTS, 5)
    for old, new in zip(view.owners[0].tolist(), done.owners[0].tolist(), strict=True):
        assert new in (old, spare)


def test_hired_spare_gets_its_share_after_a_death() -> None:
    view = large_view()
    dead = view.nodes("server")[0]
    change = fail_over(view, after(view), [dead], "replace")
    (hired,) = change.hired
    done, moved = settle(change.view)
    assert 0 < moved <= SEGMENTS // 4 + SEGMENTS // 8
    assert max(owned(done).values()) <= load_max(SEGMENTS, 4)
    assert owned(done)[hired.node] >= SEGMENTS // 4 * 3 // 4
    assert all(len(sync) == 1 for *_, sync, _ in rows(done))


def test_load_is_even_after_a_death_without_a_spare() -> None:
    view = large_view(servers=6, spares=0)
    change = fail_over(view, after(view), [view.nodes("server")[2]], "replace")
    done, _ = settle(change.view)
    assert max(owned(done).values()) <= load_max(SEGMENTS, 5)


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_server_that_leaves_has_nothing_in_the_end(replicas: int) -> None:
    view = large_view(servers=5, spares=0, replicas=replicas)
    leaving = view.nodes("server")[1]
    had = owned(view)[leaving]
    done, moved = settle(send_away(view, after(view), leaving))
    assert done.nodes("spare") == [leaving]
    # Those that it had, and no others.
    assert had <= moved <= had + SEGMENTS // 20
    assert leaving not in owned(done)
    assert all(len(sync) == replicas and leaving not in sync for *_, sync, _ in rows(done))
    assert max(owned(done).values()) <= load_max(SEGMENTS, 4) + 1


def test_few_segments_need_not_be_even() -> None:
    # One segment cannot be shared: it stays where it is.
    members = make_members(2, spares=1)
    view = first_view(make_epoch(1, 0), members, [Table(name="w", size=9, segments=1)], 1, 1)
    hired = give_role(view, after(view), view.nodes("spare")[0], "server")
    assert plan_moves(hired) == []


def test_hot_segment_goes_from_the_busiest_to_the_idlest() -> None:
    view = large_view(servers=3, spares=0)
    busy, idle = view.nodes("server")[0], view.nodes("server")[2]
    loads = {(0, s): 10 for s in range(SEGMENTS) if view.owners[0][s] != idle}
    hot = np.flatnonzero(view.owners[0] == busy)[:2].tolist()
    loads |= {(0, segment): 400 for segment in hot}
    move, *others = plan_relief(view, loads)
    assert move.segment == hot[-1]
    assert move.node == idle
    # Then some of the others even out what is left.
    assert all(loads.get((0, one.segment), 0) <= 10 for one in others)


def test_one_hot_segment_that_would_only_change_places_stays() -> None:
    view = large_view(servers=3, spares=0)
    busy = view.nodes("server")[0]
    hot = int(np.flatnonzero(view.owners[0] == busy)[0])
    assert plan_relief(view, {(0, hot): 1000}) == []


def test_nearly_even_load_moves_nothing() -> None:
    view = large_view(servers=3, spares=0)
    assert plan_relief(view, {(0, s): 10 for s in range(SEGMENTS)}) == []
    assert plan_relief(view, {}) == []


def test_hot_segments_come_to_rest() -> None:
    rng = np.random.default_rng(3)
    view = large_view(servers=4, spares=0)
    loads = {(0, s): int(n) for s, n in enumerate(rng.zipf(1.6, SEGMENTS).clip(max=500))}
    for _ in range(60):
        moves = plan_relief(view, loads) or plan_moves(view)
        view = name_heirs(view, after(view), moves)
        for one in moves:
            if not view.stops[0][one.segment]:
                view = joined(view, 0, one.segment, one.node)
        view = hand_over(view, after(view), {0: [one.segment for one in moves]})
    assert plan_relief(view, loads) == plan_moves(view) == []
    assert (view.heirs[0] == NOBODY).all()
