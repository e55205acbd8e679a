"""Calls for a group or a single node: who gets them, and who does after deaths."""

from typing import Any

import pytest

from mpips.core.asking import Asking
from mpips.core.calling import Calling
from mpips.core.machine import Effect, Finished, Send
from mpips.core.membership import fail_over, first_view
from mpips.core.targets import Targets
from mpips.core.task import Task
from mpips.errors import AppError
from mpips.wire.messages import Ask, Call, Return, Told
from mpips.wire.types import Member, Table, View, make_epoch

EPOCH = make_epoch(1, 0)
ROLES = ("scheduler", "server", "server", "worker", "worker", "worker", "spare")
ME = 3


def start() -> View:
    """Return a view of servers 1 and 2, workers 3 to 5, and a spare; node 3 acts for two."""
    members = [Member(node, role, "here", EPOCH) for node, role in enumerate(ROLES)]
    return first_view(EPOCH, members, [Table(name="t", size=8, segments=8)], 4, 1)


def lose(view: View, *dead: int) -> View:
    """Return the view after deaths, in which others take over, and the spare becomes a server."""
    return fail_over(view, view.epoch + EPOCH, dead, "spread").view


def receivers(effects: list[Effect], kind: type = Ask) -> list[tuple[int, int]]:
    """Return the nodes that are called, and the numbers of the requests."""
    sends = [effect for effect in effects if isinstance(effect, Send)]
    assert all(isinstance(send.message, kind) for send in sends)
    return [(send.dest, send.message.request) for send in sends]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("group", "nodes"), [
    ("servers", [1, 2]), ("workers", [3, 4, 5]), ("server 2", [2]), ("worker 4", [4]),
])  # fmt: skip
def test_group_is_all_of_a_role_and_a_name_is_one_node(group: str, nodes: list[int]) -> None:
    assert Targets().find(group, start()) == (group.split()[0].removesuffix("s"), nodes)


@pytest.mark.parametrize("group", [
    "server", "all", "", "scheduler 0", "server 0", "server 3", "worker 2", "worker 6", "server 7",
    "server -1", "server 1 2", "servers 1",
])  # fmt: skip
def test_group_or_node_that_never_was_is_refused_by_name(group: str) -> None:
    with pytest.raises(ValueError, match=f"there is no (group '{group}'|{group}) to be called"):
        Targets().find(group, start())


def test_next_node_of_the_role_stands_in_for_a_dead_one() -> None:
    targets, view = Targets(), start()
    targets.know(view)
    assert targets.find("server 1", lose(view, 1)) == ("server", [2])
    assert targets.find("worker 4", lose(view, 4)) == ("worker", [5])
    # The first one comes after the last.
    assert targets.find("worker 5", lose(view, 5)) == ("worker", [3])
    # Who has come later knows the dead by their number.
    assert Targets().find("worker 4", lose(view, 4)) == ("worker", [5])


def test_task_for_a_node_is_given_to_it_alone() -> None:
    calling, view = Calling(), start()
    (call,) = receivers(calling.begin(0.0, Task(group="server 2", function="f"), view), Call)
    assert call == (2, 1)
    calling.take(2, Return(request=1, result="x"))
    done = calling.results()
    assert done is not None
    assert done.results == ["x"]
    assert view.actors.count(3) == 2
    calls = calling.begin(0.0, Task(group="worker 3", function="f"), view)
    assert receivers(calls, Call) == [(3, 2), (3, 3)]


def test_task_for_a_server_that_dies_goes_to_the_next_one() -> None:
    calling, view = Calling(), start()
    calling.begin(0.0, Task(group="server 1", function="f"), view)
    # The death of another one is nothing to it.
    assert calling.move(lose(view, 2)) == ([], None)
    effects, results = calling.move(lose(view, 1))
    assert (receivers(effects, Call), results) == ([(2, 2)], None)


def test_task_for_a_worker_that_dies_goes_to_those_who_act_in_its_place() -> None:
    calling, view = Calling(), start()
    calling.begin(0.0, Task(group="worker 4", function="f"), view)
    after = lose(view, 4)
    effects, results = calling.move(after)
    (mine,) = [worker for worker, node in enumerate(view.actors) if node == 4]
    assert (receivers(effects, Call), results) == ([(after.actors[mine], 2)], None)


def test_task_for_nobody_is_the_apps_error() -> None:
    with pytest.raises(AppError, match="task f: there is no server 9 to be called: there are"):
        Calling().begin(0.0, Task(group="server 9", function="f"), start())


def ask(group: str, view: View) -> tuple[Asking, int, list[tuple[int, int]]]:
    """Return a call of logical worker 0 on node 3, its timestamp, and whom it asks."""
    asking = Asking(ME)
    timestamp, effects = asking.begin(0, group, "f", {}, view)
    return asking, timestamp, receivers(effects)


def tell(asking: Asking, node: int, request: int, result: Any) -> list[Effect]:
    """Let a node answer."""
    return asking.take(node, Told(request=request, result=result))


def test_results_of_workers_come_in_the_order_of_logical_workers() -> None:
    asking, timestamp, asked = ask("workers", start())
    assert [node for node, _ in asked] == [3, 4, 5]
    assert tell(asking, 5, asked[2][1], [[2, "c"]]) == []
    assert tell(asking, 3, asked[0][1], [[0, "a"], [3, "d"]]) == []
    done = tell(asking, 4, asked[1][1], [[1, "b"]])
    assert done == [Finished(timestamp, ["a", "b", "c", "d"])]


@pytest.mark.parametrize(("group", "dead", "again"), [
    ("server 1", 1, [2]), ("server 1", 2, []), ("worker 4", 4, [5]), ("worker 4", 5, []),
    ("workers", 4, [3, 5]), ("workers", 1, []), ("servers", 1, [2, 6]), ("servers", 4, []),
])  # fmt: skip
def test_those_who_are_left_are_asked_again_if_one_that_is_waited_for_dies(
    group: str, dead: int, again: list[int]
) -> None:
    view = start()
    asking, timestamp, asked = ask(group, view)
    asked_again = receivers(asking.install(lose(view, dead)))
    assert [node for node, _ in asked_again] == again
    # Answers to what was asked before the death count no more.
    for node, request in asked if again else []:
        assert tell(asking, node, request, "old") == []
    effects: list[Effect] = []
    for node, request in asked_again or asked:
        effects = tell(asking, node, request, [[node, "new"]])
    assert [effect.timestamp for effect in effects if isinstance(effect, Finished)] == [timestamp]


def test_call_for_nobody_leaves_nothing_open() -> None:
    asking, view = Asking(ME), start()
    with pytest.raises(ValueError, match="there is no server 9"):
        asking.begin(0, "server 9", "f", {}, view)
    assert asking.install(lose(view, 1)) == []
    assert asking.begin(0, "server 1", "f", {}, view)[0] == -1
