"""Who acts for dead workers, which copies are admitted, and views after many changes."""

from collections.abc import Collection

import numpy as np
import pytest

from mpips.core.membership import WORKER_POLICIES, Change, admit, missing_copies
from mpips.wire.types import NOBODY, View
from tests.core.views import (
    after,
    check,
    join_all,
    lose,
    make_view,
    rows,
)

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
