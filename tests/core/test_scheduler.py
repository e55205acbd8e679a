"""The scheduler: forms when all are there, runs a plan, and always comes to an end."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from mpips.core.machine import Effect, End, Report, Send
from mpips.core.scheduler import FORMING_S_MAX, STOPPING_S_MAX, SchedulerMachine
from mpips.core.task import Plan, Task
from mpips.errors import ConfigError, DataError, MpipsError, ProtocolError
from mpips.wire.messages import (
    Call,
    Failed,
    Hello,
    Message,
    Progress,
    PushAck,
    Ready,
    Return,
    Start,
    Stop,
    Stopped,
)
from mpips.wire.types import Table

EXPECTED = {1: "server", 2: "server", 3: "worker", 4: "worker"}
TABLES = [Table(name="w", size=100, segments=10)]


def sum_twice() -> Plan:
    """Run a function on all, then another one with what came out."""
    first = yield Task(group="workers", function="one")
    yield Report("progress", {"first": first})
    second = yield Task(group="servers", function="two", arguments={"first": first})
    third = yield Task(group="workers", function="three", only=1)
    return {"first": first, "second": second, "third": third}


class Driver:
    """A scheduler and what it has sent, with short words for what nodes say."""

    def __init__(
        self,
        plan: Callable[[], Plan] = sum_twice,
        workers: int = 3,
        prepare: Callable[[dict[str, Any]], tuple[Sequence[Table], Plan]] | None = None,
    ) -> None:
        prepare = prepare or (lambda facts: (TABLES, plan()))
        self.machine = SchedulerMachine(0, EXPECTED, workers, prepare)
        self.sent: list[tuple[int, Message]] = []
        self.reports: list[Report] = []
        self.ends: list[int] = []
        self.trace: list[str] = []

    def take(self, effects: list[Effect]) -> None:
        """Note what the scheduler wants."""
        self.machine.validate()
        for effect in effects:
            self.trace.append(repr(effect))
            match effect:
                case Send(dest=dest, message=message):
                    self.sent.append((dest, message))
                case Report():
                    self.reports.append(effect)
                case End(exit_code=code):
                    self.ends.append(code)
                case _:
                    raise AssertionError(effect)

    def say(self, node: int, message: Message, now: float = 1.0) -> None:
        """Let a node say something."""
        self.take(self.machine.step(now, node, message))

    def tick(self, now: float) -> None:
        """Let time pass."""
        self.take(self.machine.tick(now))

    def hello(self, *nodes: int, **facts: Any) -> None:
        """Let nodes come."""
        for node in nodes:
            self.say(node, Hello(role=EXPECTED[node], host=f"h{node}", process=1, facts=facts))

    def form(self) -> None:
        """Let all nodes come and be ready."""
        self.hello(*EXPECTED)
        for node in EXPECTED:
            self.say(node, Ready())

    def pop(self, kind: type[Message]) -> list[tuple[int, Any]]:
        """Return the messages sent since the last time, all of one kind."""
        sent, self.sent = self.sent, []
        assert all(isinstance(message, kind) for _, message in sent), sent
        return sent

    def stop_all(self) -> None:
        """Let all nodes stop."""
        for node in EXPECTED:
            self.say(node, Stopped(statistics={"bytes": node}))


def test_job_starts_when_the_last_node_has_come() -> None:
    driver = Driver()
    driver.hello(1, 2, 3)
    driver.hello(1, 2)
    assert driver.sent == []
    assert driver.machine.waiting_for() == ["worker 4"]
    driver.hello(4)
    starts = driver.pop(Start)
    assert [dest for dest, _ in starts] == list(EXPECTED)
    view = starts[0][1].view
    assert (view.nodes("server"), view.nodes("worker")) == ([1, 2], [3, 4])
    assert [member.host for member in view.members] == ["", "h1", "h2", "h3", "h4"]
    # Logical workers are dealt to ranks in order, and evenly.
    assert view.actors == (3, 3, 4)
    assert set(view.owners[0].tolist()) <= {1, 2}


def test_calls_come_when_the_last_node_is_ready() -> None:
    driver = Driver()
    driver.hello(*EXPECTED)
    driver.pop(Start)
    for node in (1, 2, 3, 3, 3):
        driver.say(node, Ready())
    assert driver.sent == []
    assert driver.machine.waiting_for() == ["worker 4"]
    driver.say(4, Ready())
    calls = driver.pop(Call)
    assert [(dest, call.worker, call.function) for dest, call in calls] == [
        (3, 0, "one"),
        (3, 1, "one"),
        (4, 2, "one"),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_results_are_in_the_order_of_logical_ids_whatever_comes_first(seed: int) -> None:
    rng = np.random.default_rng(seed)
    driver = Driver()
    driver.form()
    driver.sent = [one for one in driver.sent if isinstance(one[1], Call)]
    while driver.machine.state == "running":
        calls = driver.pop(Call)
        answers = [(dest, Return(request=c.request, result=10 * c.worker)) for dest, c in calls]
        for at in rng.permutation(len(answers)).tolist():
            # Duplicates must not take another one's place.
            driver.say(*answers[at])
            driver.say(*answers[at])
    assert driver.machine.summary == {"first": [0, 10, 20], "second": [-10, -10], "third": [10]}
    assert driver.reports == [Report("progress", {"first": [0, 10, 20]})]


def test_tasks_go_to_the_nodes_that_they_name() -> None:
    driver = Driver()
    driver.form()
    driver.sent = [one for one in driver.sent if isinstance(one[1], Call)]
    seen = []
    while driver.machine.state == "running":
        calls = driver.pop(Call)
        seen.append([(dest, call.worker, call.arguments) for dest, call in calls])
        for dest, call in calls:
            driver.say(dest, Return(request=call.request, result=call.worker))
    first = {"first": [0, 1, 2]}
    assert seen == [
        [(3, 0, {}), (3, 1, {}), (4, 2, {})],
        [(1, -1, first), (2, -1, first)],
        [(3, 1, {})],
    ]


def test_job_ends_when_the_last_node_has_stopped() -> None:
    def nothing() -> Plan:
        yield Report("progress", {"rows": 1})
        return {"done": 1}

    driver = Driver(nothing)
    driver.form()
    assert driver.machine.state == "stopping"
    assert [
        dest for dest, message in driver.sent if message == Stop(epoch=1 << 20, exit_code=0)
    ] == list(EXPECTED)
    for node in (1, 1, 2, 3):
        driver.say(node, Stopped(statistics={"bytes": 5}))
    assert driver.ends == []
    driver.say(4, Stopped(statistics={"bytes": 5, "keys": 1}))
    driver.say(4, Stopped(statistics={"bytes": 5}))
    assert driver.ends == [0]
    assert driver.machine.summary == {"done": 1}
    assert driver.machine.statistics() == {
        "calls": 0, "reissued_calls": 0, "deaths": 0, "checkpoints": 0, "moved_segments": 0,
        "orders": 0, "bytes": 20, "keys": 1}


def test_nodes_that_see_different_data_end_the_job_and_are_named() -> None:
    driver = Driver()
    driver.hello(3, rows=10)
    driver.hello(1, 2)
    driver.hello(4, rows=11)
    assert all(message == Stop(exit_code=70) for _, message in driver.pop(Stop))
    text = str(driver.machine.error)
    assert "node 4 sees rows = 11, another sees 10" in text
    assert "h4" in text
    assert "shared file system" in text


def test_facts_of_all_nodes_reach_the_plan_and_all_nodes() -> None:
    seen: list[dict[str, Any]] = []

    def prepare(facts: dict[str, Any]) -> tuple[Sequence[Table], Plan]:
        seen.append(dict(facts))
        return TABLES, sum_twice()

    driver = Driver(prepare=prepare)
    driver.hello(1, 2)
    driver.hello(3, 4, rows=10, features=3)
    assert seen == [{"rows": 10, "features": 3}]
    assert all(m.facts == {"rows": 10, "features": 3} for _, m in driver.pop(Start))


def test_error_of_prepare_stops_all_with_its_exit_code() -> None:
    def prepare(facts: dict[str, Any]) -> tuple[Sequence[Table], Plan]:
        raise ConfigError("model.l1 must be positive")

    driver = Driver(prepare=prepare)
    driver.hello(*EXPECTED)
    assert [(d, m.exit_code) for d, m in driver.pop(Stop)] == [(node, 2) for node in EXPECTED]
    driver.stop_all()
    assert driver.ends == [2]
    assert isinstance(driver.machine.error, ConfigError)


def test_error_of_the_plan_stops_all_and_earlier_reports_are_shown() -> None:
    def broken() -> Plan:
        yield Report("progress", {"rows": 1})
        raise DataError("no such column")
        yield Report("progress", {})

    driver = Driver(broken)
    driver.form()
    driver.stop_all()
    assert driver.ends == [65]
    assert driver.reports == [Report("progress", {"rows": 1})]


@pytest.mark.parametrize("when", ["forming", "starting", "running"])
def test_failed_node_ends_the_job_and_the_first_error_is_kept(when: str) -> None:
    driver = Driver()
    if when != "forming":
        driver.hello(*EXPECTED)
    if when == "running":
        for node in EXPECTED:
            driver.say(node, Ready())
    assert driver.machine.state == when
    driver.sent.clear()
    driver.say(3, Failed(exit_code=65, what="row 7 is damaged", where="a.h5", remedy="Fetch it."))
    driver.say(4, Failed(exit_code=74, what="second", where="", remedy=""))
    # The plan does not go on.
    driver.say(3, Return(request=1, result=None))
    driver.hello(1)
    driver.say(1, Ready())
    assert [(d, m.exit_code) for d, m in driver.pop(Stop)] == [(node, 65) for node in EXPECTED]
    driver.stop_all()
    driver.say(3, Failed(exit_code=74, what="late", where="", remedy=""))
    assert driver.ends == [65]
    assert str(driver.machine.error) == "row 7 is damaged\na.h5\nFetch it."


def test_node_that_never_comes_is_named_at_the_deadline() -> None:
    driver = Driver()
    driver.tick(100.0)
    driver.hello(1, 2, 4)
    driver.tick(100.0 + FORMING_S_MAX - 1)
    assert driver.machine.error is None
    driver.tick(100.0 + FORMING_S_MAX)
    assert "worker 3 did not answer within 120 s" in str(driver.machine.error)
    assert "forming" in str(driver.machine.error)
    assert len(driver.pop(Stop)) == 4


def test_node_that_is_never_ready_is_named_at_the_deadline() -> None:
    driver = Driver()
    driver.tick(0.0)
    driver.hello(*EXPECTED)
    for node in (1, 3, 4):
        driver.say(node, Ready())
    driver.tick(1.0 + FORMING_S_MAX)
    assert "server 2 did not answer" in str(driver.machine.error)
    assert "starting" in str(driver.machine.error)


def test_node_that_never_stops_is_named_and_does_not_keep_the_others() -> None:
    driver = Driver()
    driver.form()
    driver.say(3, Failed(exit_code=65, what="x", where="", remedy=""), now=50.0)
    for node in (1, 2, 4):
        driver.say(node, Stopped(statistics={}), now=51.0)
    driver.tick(50.0 + STOPPING_S_MAX - 1)
    assert driver.ends == []
    driver.tick(50.0 + STOPPING_S_MAX)
    assert driver.ends == [65]
    assert driver.reports[-1] == Report("silent", {"at the stop": "worker 3"})
    driver.tick(1000.0)
    driver.say(3, Stopped(statistics={}))
    assert driver.ends == [65]


def test_running_job_has_no_deadline_but_can_say_who_is_waited_for() -> None:
    driver = Driver()
    driver.form()
    driver.tick(1e9)
    assert driver.machine.error is None
    assert driver.machine.waiting_for() == ["worker 0", "worker 1", "worker 2"]
    call = next(m for _, m in driver.sent if isinstance(m, Call) and m.worker == 1)
    driver.say(3, Return(request=call.request, result=0))
    assert driver.machine.waiting_for() == ["worker 0", "worker 2"]


def test_progress_of_workers_is_summed_and_the_last_sent_counts() -> None:
    """The second report of worker 0 overtakes its first one."""
    driver = Driver()
    driver.form()
    for worker, rows, number in ((0, 3.0, 2), (1, 5.0, 1), (0, 1.0, 1)):
        facts = {"rows": rows, "batches": 1.0}
        driver.say(3, Progress(worker=worker, facts=facts, number=number))
    assert driver.machine.progress() == {"rows": 8.0, "batches": 2.0}


def test_story_tells_the_view_each_task_and_the_stop() -> None:
    driver = Driver()
    driver.form()
    driver.machine.fail(2.0, MpipsError("enough"))
    told = [line.partition(" ")[2] for line in driver.machine.story()]
    assert told[0].startswith("view: all are here; epoch ")
    assert told[1].startswith("task: ")
    assert told[-1] == "stop: exit code 70"


def test_strange_messages_are_refused() -> None:
    driver = Driver()
    with pytest.raises(ProtocolError, match="node 9, which is unknown"):
        driver.say(9, Ready())
    with pytest.raises(ProtocolError, match="no step for PushAck"):
        driver.say(1, PushAck(request=1))


def test_equal_inputs_give_equal_effects() -> None:
    traces = []
    for _ in range(2):
        driver = Driver()
        driver.tick(0.0)
        driver.form()
        for request in range(1, 7):
            driver.say(3, Return(request=request, result=request))
        driver.stop_all()
        traces.append(driver.trace)
    assert traces[0] == traces[1]
    assert len(traces[0]) > 10


@pytest.mark.parametrize("wrong", [{"group": "all"}, {"group": "servers", "only": 1}], ids=str)
def test_task_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises((AssertionError, ValueError), match=r"no group|not one server"):
        Task(function="f", **wrong)


def test_who_is_waited_for_has_its_own_name_not_its_place() -> None:
    driver = Driver()
    driver.hello(*EXPECTED)
    driver.pop(Start)
    for node in EXPECTED:
        driver.say(node, Ready())
    waited = []
    while driver.machine.state == "running":
        waited.append(driver.machine.waiting_for())
        for dest, call in driver.pop(Call):
            driver.say(dest, Return(request=call.request, result=call.worker))
    assert waited == [["worker 0", "worker 1", "worker 2"], ["server 1", "server 2"], ["worker 1"]]
