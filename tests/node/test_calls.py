"""Messages that come again: a node starts once, runs each call once, answers again, stops once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpips.core.ring import place
from mpips.core.task import Plan
from mpips.node.app import App, Stores
from mpips.node.calls import Calls
from mpips.node.kv import Worker
from mpips.node.member import Member
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.transport.loop import LoopTransport
from mpips.wire.frame import Codec
from mpips.wire.messages import Call, Hello, Message, Ready, Return, Start, Stop, Stopped
from mpips.wire.types import Member as Node
from mpips.wire.types import Table, View, make_epoch
from tests.sim.jobs import job


class Counting(App):
    """Counts on servers and workers how often it is called and asked for its tables."""

    made = 0

    def tables(self) -> list[Table]:
        """Return a small table."""
        type(self).made += 1
        return [Table(name="w", size=8, segments=2)]

    def plan(self) -> Plan:
        """Return nothing."""
        yield from ()
        return {}

    def serve(self, stores: Stores) -> int:
        """Return how often this was called."""
        self.served: int = getattr(self, "served", 0) + 1
        return self.served

    async def work(self, worker: Worker) -> int:
        """Return how often this was called."""
        self.worked: int = getattr(self, "worked", 0) + 1
        return self.worked

    async def wait(self, worker: Worker) -> int:
        """Return how often this was called, when a push is acknowledged."""
        await worker.push("w", None, np.ones(8))
        return await self.work(worker)

    async def push_and_leave(self, worker: Worker) -> str:
        """Push, and do not wait for it."""
        worker.push("w", None, np.ones(8))
        return "left"


class Stage:
    """One member of a job, started, and what it says to the scheduler."""

    def __init__(self, kind: type[ServerNode] | type[WorkerNode]) -> None:
        Counting.made = 0
        self.ends = LoopTransport.world(3)
        self.me = 1 if kind is ServerNode else 2
        config = job(servers=1, workers=1, logical=1)
        self.node: Member = kind(self.ends[self.me], lambda: 0.0, Counting, config)
        self.codec = Codec()
        epoch = make_epoch(1, 0)
        members = tuple(
            Node(n, role, "", epoch) for n, role in enumerate(["scheduler", "server", "worker"])
        )
        self.start = Start(
            epoch=epoch, view=View(epoch, members, (place(0, 2, [1]),), (2,)), facts={}
        )

    def say(self, *messages: Message) -> list[Message]:
        """Let the scheduler say something, and return what it hears from the node."""
        for message in messages:
            self.ends[0].send(self.me, *self.codec.encode(message))
        while self.node.exit_code is None and self.node.turn():
            pass
        return [self.codec.decode(head, payload) for _, head, payload in self.ends[0].poll()]


@pytest.fixture(params=[ServerNode, WorkerNode], ids=["server", "worker"])
def stage(request: pytest.FixtureRequest) -> Stage:
    """Return a node that has come and was told to start."""
    stage = Stage(request.param)
    kinds = [type(message) for message in stage.say(stage.start)]
    assert kinds == [Hello, Ready]
    return stage


def function(stage: Stage) -> dict[str, Any]:
    """Return whom a call is for, and what it is."""
    is_server = isinstance(stage.node, ServerNode)
    return {"worker": -1, "function": "serve"} if is_server else {"worker": 0, "function": "work"}


def test_second_start_prepares_nothing(stage: Stage) -> None:
    def call(request: int) -> list[Message]:
        return stage.say(Call(request=request, arguments={}, **function(stage)))

    call(1)
    assert stage.say(stage.start) == []
    assert Counting.made == 1
    # The app, with its counter, is still the same.
    (answer,) = call(2)
    assert isinstance(answer, Return)
    assert answer.result == 2


def test_call_that_comes_again_is_not_run_but_answered_again(stage: Stage) -> None:
    first = Call(request=5, arguments={}, **function(stage))
    second = Call(request=9, arguments={}, **function(stage))
    for _ in range(3):
        (answer,) = stage.say(first)
        assert (answer.request, answer.result) == (5, 1)  # type: ignore[attr-defined]
    (answer,) = stage.say(second)
    assert (answer.request, answer.result) == (9, 2)  # type: ignore[attr-defined]
    # Whoever has sent the second call has the first one's answer.
    assert stage.say(first) == []
    assert stage.say(second) == [answer]


def test_call_that_a_later_one_has_overtaken_is_out_of_date(stage: Stage) -> None:
    # Somebody was called off, and asked again, while the first call was on its way.
    (answer,) = stage.say(Call(request=7, arguments={}, **function(stage)))
    assert stage.say(Call(request=3, arguments={}, **function(stage))) == []
    assert stage.say(Call(request=7, arguments={}, **function(stage))) == [answer]


def test_call_that_comes_again_while_it_runs_is_dropped() -> None:
    stage = Stage(WorkerNode)
    stage.say(stage.start)
    call = Call(request=1, worker=0, function="wait", arguments={})
    assert stage.say(call, call) == []
    pushes = stage.ends[1].poll()
    assert len(pushes) == 1


def test_stop_that_comes_twice_is_answered_once(stage: Stage) -> None:
    (stopped,) = stage.say(Stop(exit_code=0), Stop(exit_code=0), stage.start)
    assert isinstance(stopped, Stopped)
    assert stage.node.exit_code == 0


@pytest.mark.parametrize("worker", [-1, 0, 3])
def test_old_calls_are_known_for_ever_in_bounded_memory(
    worker: int, rng: np.random.Generator
) -> None:
    calls, taken = Calls(), []
    for request in np.cumsum(rng.integers(1, 50, 1000)).tolist():
        call = Call(request=request, worker=worker, function="f", arguments={})
        assert calls.take(call)
        calls.note(Return(request=request, result=None))
        taken.append(call)
    assert not any(calls.take(call) for call in taken)
    assert not calls._running


def test_calls_of_logical_workers_are_apart() -> None:
    calls = Calls()
    make: Callable[[int, int], Call] = lambda request, worker: Call(  # noqa: E731
        request=request, worker=worker, function="f", arguments={}
    )
    for request in range(2, 500):
        assert calls.take(make(request, 1))
    assert calls.take(make(1, 0))
