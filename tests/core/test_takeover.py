"""Who takes over a logical worker gets the unfinished call, and what finished calls have left."""

from typing import Any

from mpips.core.calling import SERVER, Calling
from mpips.core.machine import Effect, Send
from mpips.core.membership import fail_over, first_view
from mpips.core.task import Task
from mpips.wire.messages import Call, Return, Takeover
from mpips.wire.types import Member, View, make_epoch

EPOCH = make_epoch(1, 0)


class Job:
    """A scheduler's calls to servers 1 and 2, workers 3 and 4, and a spare 5."""

    def __init__(self, logical_workers: int = 2) -> None:
        roles = ["scheduler", "server", "server", "worker", "worker", "spare"]
        members = [Member(node, role, "here", EPOCH) for node, role in enumerate(roles)]
        self.calling = Calling()
        self.view: View = first_view(EPOCH, members, [], logical_workers, 0)

    def begin(self, function: str, group: str = "workers", **arguments: Any) -> list[Call]:
        """Begin a task and return its calls."""
        task = Task(group=group, function=function, arguments=arguments)
        return sent(self.calling.begin(0.0, task, self.view))

    def finish(self, request: int, result: Any = None, pushed: int = 0) -> list[Any] | None:
        """Let a call be answered, its stream being at some push; return all results, if last."""
        streams = [(pushed, 10 * pushed)]
        self.calling.take(0, Return(request=request, result=result, streams=streams))
        done = self.calling.results()
        return None if done is None else done.results

    def lose(self, *dead: int, policy: str = "replace") -> tuple[list[Effect], list[Any] | None]:
        """Go on without some nodes."""
        self.view = fail_over(self.view, self.view.epoch + EPOCH, dead, policy).view
        calls, done = self.calling.move(self.view)
        return calls, None if done is None else done.results


def sent(effects: list[Effect]) -> list[Call]:
    """Return calls, all of them."""
    messages = [effect.message for effect in effects if isinstance(effect, Send)]
    assert all(isinstance(message, Call) for message in messages)
    assert len(messages) == len(effects)
    return [message for message in messages if isinstance(message, Call)]


def test_each_logical_worker_has_a_call_and_results_come_in_their_order() -> None:
    job = Job(logical_workers=4)
    calls = job.begin("sweep", block=3)
    assert [call.worker for call in calls] == [0, 1, 2, 3]
    assert {call.function for call in calls} == {"sweep"}
    assert all(call.takeover is None and call.arguments == {"block": 3} for call in calls)
    for call in calls[::-1][:3]:
        assert job.finish(call.request, f"of {call.worker}") is None
    assert job.finish(calls[0].request, "of 0") == [f"of {worker}" for worker in range(4)]
    assert job.calling.is_idle


def test_answer_that_comes_again_counts_once() -> None:
    job = Job()
    one, other = job.begin("sweep")
    assert job.finish(one.request, "a") is None
    assert job.finish(one.request, "b") is None
    assert job.finish(other.request, "c") == ["a", "c"]
    assert job.finish(other.request, "d") is None


def test_successor_does_the_unfinished_call_and_begins_where_finished_calls_have_ended() -> None:
    job = Job()
    for call in job.begin("load", rows=7):
        job.finish(call.request, pushed=4)
    one, other = job.begin("sweep", block=1)
    assert job.finish(one.request, "a", pushed=6) is None
    effects, results = job.lose(4)
    assert results is None
    (again,) = sent(effects)
    assert [effect.dest for effect in effects if isinstance(effect, Send)] == [5]
    assert (again.worker, again.function, again.arguments) == (1, "sweep", {"block": 1})
    # The unfinished call's pushes get the numbers that they had: it begins after push 4.
    assert again.takeover == Takeover([(4, 40)], {"load": {"rows": 7}}, task=1)
    assert again.task == other.task
    assert job.finish(again.request, "b") == ["a", "b"]


def test_late_answer_of_the_dead_is_not_taken_for_its_successor_s() -> None:
    job = Job()
    one, other = job.begin("sweep")
    job.finish(one.request, "a")
    (again,) = sent(job.lose(4)[0])
    assert job.finish(other.request, "late") is None
    assert job.finish(again.request, "b") == ["a", "b"]


def test_death_after_the_answer_hands_over_with_the_next_call() -> None:
    job = Job()
    for call in job.begin("load"):
        job.finish(call.request, pushed=2 + call.worker)
    assert job.lose(4) == ([], None)
    calls = job.begin("sweep")
    assert [call.takeover for call in calls] == [None, Takeover([(3, 30)], {"load": {}}, task=1)]
    # It is told once: from then on it knows.
    for call in calls:
        job.finish(call.request)
    assert all(call.takeover is None for call in job.begin("sweep"))


def test_last_arguments_of_each_function_are_handed_over() -> None:
    job = Job()
    for function, step in (("load", 0), ("sweep", 1), ("sweep", 2)):
        for call in job.begin(function, step=step):
            job.finish(call.request)
    (again,) = [call for call in job.begin("sweep", step=3) if call.worker == 1]
    (again,) = sent(job.lose(4)[0])
    assert again.takeover is not None
    assert again.takeover.calls == {"load": {"step": 0}, "sweep": {"step": 2}}


def test_second_successor_gets_what_the_first_one_got() -> None:
    job = Job()
    for call in job.begin("load"):
        job.finish(call.request, pushed=4)
    job.begin("sweep")
    (first,) = sent(job.lose(4)[0])
    (second,) = [call for call in sent(job.lose(5)[0]) if call.worker == 1]
    assert second.takeover == first.takeover == Takeover([(4, 40)], {"load": {}}, task=1)
    assert second.request != first.request


def test_part_of_a_worker_that_lives_is_left_alone() -> None:
    job = Job()
    one, other = job.begin("sweep")
    assert job.lose(1) == ([], None)
    assert job.finish(one.request, "a") is None
    assert job.finish(other.request, "b") == ["a", "b"]


def test_servers_are_all_asked_again_when_one_of_them_dies() -> None:
    job = Job()
    calls = job.begin("count", group="servers")
    assert [call.worker for call in calls] == [SERVER, SERVER]
    # What node 1 has counted is not what it owns once node 2 is dead.
    assert job.finish(calls[0].request, 10) is None
    again = sent(job.lose(2)[0])
    assert len(again) == 2
    assert not {call.request for call in again} & {call.request for call in calls}
    assert job.finish(calls[1].request, 99) is None
    assert job.finish(again[0].request, 17) is None
    assert job.finish(again[1].request, 0) == [17, 0]


def test_servers_task_does_not_begin_anew_when_a_worker_dies() -> None:
    job = Job()
    calls = job.begin("count", group="servers")
    assert job.lose(4) == ([], None)
    assert [job.finish(call.request, 1) for call in calls] == [None, [1, 1]]


def test_who_is_waited_for_has_a_name() -> None:
    job = Job()
    one, _ = job.begin("sweep")
    assert job.calling.waiting_for() == ["worker 0", "worker 1"]
    job.finish(one.request)
    assert job.calling.waiting_for() == ["worker 1"]
    job.calling.stop()
    assert job.calling.waiting_for() == []
