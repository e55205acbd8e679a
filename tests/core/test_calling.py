"""A task's parts: given to those that they are for, and to others when those have died."""

from mpips.core.calling import Calling
from mpips.core.machine import Effect, Send
from mpips.core.membership import fail_over, first_view
from mpips.core.task import Task
from mpips.wire.messages import Call, Return
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
    assert calls(calling.begin(task, view)) == [(2, 0, 1)]
    view = lose(view, 2)
    effects, results = calling.move(view)
    assert (calls(effects), results) == ([(3, 1, 2)], None)
    # What the first one has sent before it died is nobody's any more.
    assert calling.take(Return(request=1, result="old")) is None
    assert calling.take(Return(request=2, result="new")) == ["new"]


def test_task_for_all_goes_on_with_fewer_results_when_one_is_dropped() -> None:
    calling, view = Calling(), start()
    calling.begin(Task(group="workers", function="sweep"), view)
    assert calling.take(Return(request=1, result="a")) is None
    assert calling.take(Return(request=3, result="c")) is None
    assert calling.move(lose(view, 3)) == ([], ["a", "c"])
