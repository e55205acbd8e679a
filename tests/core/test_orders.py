"""What users may order, what they are answered, and what the scheduler's views make of it."""

import numpy as np
import pytest

from mpips.core.machine import Answer, Decide, Report, Send
from mpips.core.moving import Move
from mpips.core.orders import COMMANDS, decide
from mpips.core.views import Views
from mpips.errors import UsageError
from mpips.wire.messages import Handed, Joined, NewView
from mpips.wire.types import NOBODY, View
from mpips.wire.voting import Changed
from tests.core.views import TABLES, after, check, make_members, make_view


@pytest.mark.parametrize(("command", "node", "said"), [
    ("add-server", None, "no spare is left"),
    ("add-worker", None, "no spare is left"),
    ("remove-server", 1, "node 1 is no server"),
    ("remove-server", 99, "node 99 is no server"),
    ("remove-worker", 3, "node 3 is no worker"),
    ("explode", None, "there is no order"),
])  # fmt: skip
def test_order_that_cannot_be_followed_says_why(command: str, node: int | None, said: str) -> None:
    view = make_view(1, servers=4, workers=2)
    with pytest.raises(UsageError) as error:
        decide(view, after(view), command, node, 1)
    assert said in error.value.what


def test_node_that_is_no_spare_cannot_come() -> None:
    view = make_view(1, servers=3, spares=2)
    with pytest.raises(UsageError, match="node 3 is no spare"):
        decide(view, after(view), "add-server", 3, 1)


@pytest.mark.parametrize(("role", "servers", "workers", "said"), [
    ("server", 1, 2, "the last server"), ("server", 2, 2, "cannot have 2 copies"),
    ("worker", 3, 1, "the last worker"),
])  # fmt: skip
def test_nobody_leaves_who_is_needed(role: str, servers: int, workers: int, said: str) -> None:
    view = make_view(1, servers=servers, workers=workers)
    with pytest.raises(UsageError) as error:
        decide(view, after(view), f"remove-{role}", None, 1)
    assert said in error.value.what


def test_whoever_leaves_already_cannot_be_sent_away_again() -> None:
    view = make_view(1, servers=4)
    away, text = decide(view, after(view), "remove-server", 4, 1)
    assert away.leaving == (4,)
    assert "server 4 gives" in text
    with pytest.raises(UsageError, match="leaving already"):
        decide(away, after(away), "remove-server", 4, 1)
    # Of those that stay, two are needed.
    further, _ = decide(away, after(away), "remove-server", None, 1)
    assert further.leaving == (4, 6)
    with pytest.raises(UsageError, match="2 copies"):
        decide(further, after(further), "remove-server", None, 1)


def test_status_changes_nothing_and_names_all() -> None:
    view = make_view(1, servers=3, spares=1)
    same, text = decide(view, after(view), "status", None, 1, iterations=7)
    assert same is view
    lines = text.splitlines()
    assert lines[0] == "view 1   redundancy 1   iterations 7"
    assert [line.split()[:2] for line in lines[2:-1]] == [
        [str(member.node), member.role] for member in view.members
    ]
    owned = sum(int(line.split()[2]) for line in lines[2:-1])
    assert owned == sum(table.segments for table in TABLES)
    assert set(COMMANDS) >= {"status", "add-server", "remove-worker"}


def make_views(**sizes: int) -> Views:
    """Return the views of a job with one copy of each segment."""
    views = Views(0, 1, "replace")
    views.begin(make_members(**sizes), TABLES, 4)
    return views


def view_of(views: Views) -> View:
    """Return the newest view."""
    assert views.view is not None
    return views.view


def run_moves(views: Views) -> list[Report]:
    """Do all that owners do until nothing moves any more, and return what users are told."""
    reports = []
    for _ in range(300):
        before = view_of(views).epoch
        effects = views.tick(1.0)
        reports += [effect for effect in effects if isinstance(effect, Report)]
        view = view_of(views)
        check(view)
        for table, parts in enumerate(zip(view.joining, view.heirs, view.stops, strict=True)):
            for segment, owner in enumerate(view.owners[table].tolist()):
                joins, heir, stops = (part[segment] for part in parts)
                for node in {*joins.tolist(), 0 if stops else int(heir)} - {0, NOBODY}:
                    joined = Joined(epoch=view.epoch, table=table, copy=node, segments=[segment])
                    views.note_joined(owner, joined)
                if stops:
                    level = Handed(epoch=view.epoch, table=table, segments=[segment])
                    views.note_handed(owner, level)
        if view.epoch == before and not view.leaving:
            return reports
    raise AssertionError("the moves never end")


def test_server_comes_and_another_goes() -> None:
    views = make_views(servers=3, spares=1)
    effects = views.order("one", "add-server", None, 0)
    assert {e.dest for e in effects if isinstance(e, Send)} == set(range(1, 7))
    # The answer is behind the decision, which has it too.
    assert isinstance(effects[0], Decide)
    assert isinstance(effects[0].entry, Changed)
    answer = Answer("one", effects[0].entry.answer)
    assert effects[-1] == answer
    assert answer.text.startswith("spare 6 is a server now")
    reports = run_moves(views)
    assert [report.kind for report in reports] == ["moved"]
    assert (view_of(views).owners[0] == 6).sum() > 0
    views.order("one", "remove-server", 3, 0)
    run_moves(views)
    assert view_of(views).nodes("spare") == [3]
    assert view_of(views).nodes("server") == [4, 5, 6]
    assert all((part != NOBODY).all() for part in view_of(views).copies)
    assert views.moved > 8
    assert views.orders == 2


def test_nothing_changes_hands_while_servers_do_something_with_what_they_own() -> None:
    views = make_views(servers=3, spares=1)
    view = view_of(views)
    segment = int(np.flatnonzero(view.copies[0][:, 0] != NOBODY)[0])
    views.wishes.append(Move(0, segment, int(view.copies[0][segment, 0])))
    assert views.tick(0.0, may_move=False) == []
    assert views.tick(0.0) != []
    stopped = view_of(views)
    owner = int(stopped.owners[0][segment])
    views.note_handed(owner, Handed(epoch=stopped.epoch, table=0, segments=[segment]))
    assert views.tick(0.0, may_move=False) == []
    (_, news, *_) = views.tick(0.0)
    assert isinstance(news, Send)
    assert isinstance(news.message, NewView)
    assert view_of(views).owners[0][segment] != owner


def test_what_was_said_of_a_move_before_counts_no_more() -> None:
    views = make_views(servers=4)
    view = view_of(views)
    owner, copy = int(view.owners[0][0]), int(view.copies[0][0, 0])
    other = next(n for n in view.nodes("server") if n not in (owner, copy))
    views.wishes.append(Move(0, 0, other))
    views.tick(0.0)
    named = view_of(views)
    late = Joined(epoch=named.epoch, table=0, copy=other, segments=[0])
    level = Handed(epoch=named.epoch, table=0, segments=[0])
    # Somebody dies who has nothing to do with it: all begins anew.
    dead = next(n for n in view.nodes("server") if n not in (owner, copy, other))
    views.announce(views.fail_over(0.0, [dead]).view)
    views.wishes.append(Move(0, 0, other))
    views.tick(0.0)
    assert view_of(views).heirs[0][0] == other
    views.note_joined(owner, late)
    views.tick(0.0)
    assert not view_of(views).stops[0][0]
    again = Joined(epoch=view_of(views).epoch, table=0, copy=other, segments=[0])
    views.note_joined(owner, again)
    views.tick(0.0)
    assert view_of(views).stops[0][0]
    views.note_handed(owner, level)
    views.tick(0.0)
    assert view_of(views).owners[0][0] == owner


def test_nobody_but_the_owner_hands_over() -> None:
    views = make_views(servers=4)
    view = view_of(views)
    owner, copy = int(view.owners[0][0]), int(view.copies[0][0, 0])
    views.wishes.append(Move(0, 0, copy))
    views.tick(0.0)
    views.note_handed(copy, Handed(epoch=view_of(views).epoch, table=0, segments=[0]))
    views.tick(0.0)
    assert view_of(views).owners[0][0] == owner


def test_worker_comes_and_goes_between_two_tasks() -> None:
    views = make_views(servers=2, workers=2, spares=1)
    views.order("one", "add-worker", None, 0)
    assert set(view_of(views).actors) == {1, 2}
    views.tick(0.0)
    assert set(view_of(views).actors) == {1, 2}
    views.settle()
    assert set(view_of(views).actors) == {1, 2, 5}
    views.order("one", "remove-worker", 1, 0)
    views.tick(0.0)
    assert view_of(views).nodes("worker") == [1, 2, 5]
    views.settle()
    assert set(view_of(views).actors) == {2, 5}
    assert view_of(views).nodes("spare") == [1]
    assert views.settle() == []


def test_last_ones_stay_when_the_others_die() -> None:
    views = make_views(servers=3, workers=2)
    views.order("one", "remove-worker", 2, 0)
    views.order("one", "remove-server", 5, 0)
    assert view_of(views).leaving == (2, 5)
    views.announce(views.fail_over(0.0, [1, 3]).view)
    assert view_of(views).leaving == ()
    assert set(view_of(views).actors) == {2}
