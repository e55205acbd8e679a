"""A task's parts: given to those that they are for, and to others when those have died."""

from typing import Any

import pytest

from mpips.core.calling import Calling
from mpips.core.machine import Effect, Send
from mpips.core.membership import fail_over, first_view
from mpips.core.task import Task
from mpips.wire.messages import Call, Drop, Return
from mpips.wire.types import Member, View, make_epoch

EPOCH = make_epoch(1, 0)


def start() -> View:
    """Return a view of a server, node 1, and three workers with a logical worker each."""
    roles = ["scheduler", "server", "worker", "worker", "worker"]
    members = [Member(node, role, "here", EPOCH) for node, role in enumerate(roles)]
    return first_view(EPOCH, members, [], 3, 0)


def lose(view: View, *dead: int) -> View:
    """Return the view in which the logical workers of some nodes are dropped."""
    return fail_over(view, view.epoch + EPOCH, dead, "drop").view


def take(calling: Calling, message: Return) -> Any:
    """Let a node answer, and return all results, if it was the last one."""
    calling.take(1, message)
    done = calling.results()
    return None if done is None else done.results


def calls(effects: list[Effect]) -> list[tuple[int, int, int]]:
    """Return node, logical worker and request of calls."""
    found = []
    for effect in effects:
        assert isinstance(effect, Send)
        assert isinstance(effect.message, Call)
        found.append((effect.dest, effect.message.worker, effect.message.request))
    return found


def test_task_for_one_goes_to_another_when_that_one_is_dropped_on_the_way() -> None:
    calling, view = Calling(), start()
    task = Task(group="workers", function="save", only=0)
    assert calls(calling.begin(0.0, task, view)) == [(2, 0, 1)]
    view = lose(view, 2)
    effects, results = calling.move(view)
    assert (calls(effects), results) == ([(3, 1, 2)], None)
    # What the first one has sent before it died is nobody's any more.
    assert take(calling, Return(request=1, result="old")) is None
    assert take(calling, Return(request=2, result="new")) == ["new"]


def test_task_for_all_goes_on_with_fewer_results_when_one_is_dropped() -> None:
    calling, view = Calling(), start()
    calling.begin(0.0, Task(group="workers", function="sweep"), view)
    assert take(calling, Return(request=1, result="a")) is None
    assert take(calling, Return(request=3, result="c")) is None
    calls, done = calling.move(lose(view, 3))
    assert not calls
    assert done is not None
    assert done.results == ["a", "c"]


def reissued() -> tuple[Calling, View]:
    """Return a task of which node 3, logical worker 1, is late, and node 2 does its part too."""
    calling, view = Calling(), start()
    calling.begin(0.0, Task(group="workers", function="sweep", reissue_s=10.0), view)
    assert take(calling, Return(request=1, result="a")) is None
    assert take(calling, Return(request=3, result="c")) is None
    assert calling.tick(10.0, view) == []
    (late,) = calling.tick(10.1, view)
    assert isinstance(late, Send)
    assert isinstance(late.message, Call)
    assert (late.dest, late.message.worker, late.message.request) == (2, 1, 2)
    # It begins with what the part's finished calls have left.
    assert late.message.takeover is not None
    assert calling.tick(100.0, view) == []
    return calling, view


@pytest.mark.parametrize(("winner", "loser", "moved"), [(2, 3, {1: 2}), (3, 2, {})])
def test_first_of_two_attempts_counts_and_the_other_is_called_off(
    winner: int, loser: int, moved: dict[int, int]
) -> None:
    calling, _ = reissued()
    effects, actors = calling.take(winner, Return(request=2, result="first"))
    assert effects == [Send(loser, Drop(request=2, worker=1))]
    assert actors == moved
    done = calling.results()
    assert done is not None
    assert done.results == ["a", "first", "c"]
    assert calling.take(loser, Return(request=2, result="second")) == ([], {})


@pytest.mark.parametrize("dead", [2, 3])
def test_attempt_of_a_dead_node_leaves_the_part_with_another(dead: int) -> None:
    calling, view = reissued()
    view = fail_over(view, view.epoch + EPOCH, [dead], "spread").view
    effects, results = calling.move(view)
    assert results is None
    given = [e.message for e in effects if isinstance(e, Send) and isinstance(e.message, Call)]
    # Only if the first one has died is the part given out once more, by a number of its own.
    assert [call.request for call in given] == ([4] if dead == 3 else [])
    assert take(calling, Return(request=4 if dead == 3 else 2, result="b")) == ["a", "b", "c"]


def test_task_that_does_not_ask_for_it_is_never_reissued() -> None:
    calling, view = Calling(), start()
    calling.begin(0.0, Task(group="workers", function="sweep"), view)
    assert calling.tick(1e9, view) == []
