"""The event loop: it turns while there is something to do, sleeps when not, and ends."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from mpips.core.machine import Effect, Finished, Send
from mpips.core.task import Plan, Task
from mpips.filters.chain import FilterChain
from mpips.node.app import App
from mpips.node.kv import Worker
from mpips.node.local import make_nodes
from mpips.node.loop import TICK_S, Node, run_loop, run_together
from mpips.node.scheduler import STALL_S, SchedulerNode
from mpips.transport.backoff import FIRST_SLEEP_S, SPINS, Backoff
from mpips.transport.base import Frame, Transport
from mpips.transport.loop import LoopTransport
from mpips.wire.frame import Codec
from mpips.wire.messages import (
    Joined,
    Message,
    Pull,
    Push,
    PushAck,
    Ready,
    Replicate,
    Replicated,
    Snapshot,
    Stopped,
    Values,
)
from mpips.wire.types import Table
from tests.sim.jobs import job


class Clock:
    """A clock that sleeps move."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self.now += seconds
        self.sleeps.append(seconds)


class Listener(Node):
    """Notes what comes, and ends after so many ticks."""

    def __init__(self, transport: Transport, clock: Clock, ticks: int) -> None:
        super().__init__(transport, clock)
        self.heard: list[Message] = []
        self.ticks: list[float] = []
        self.left = ticks

    def receive(self, source: int, message: Message) -> None:
        """Note a message."""
        self.heard.append(message)

    def tick(self, now: float) -> None:
        """Note the time."""
        self.ticks.append(now)
        self.left -= 1
        if not self.left:
            self.exit_code = 3

    def perform(self, effect: Effect) -> None:
        """Note nothing."""


def test_idle_loop_spins_first_then_sleeps_and_ticks_go_on() -> None:
    clock = Clock()
    node = Listener(LoopTransport.world(1)[0], clock, 50)
    assert run_loop(node, Backoff(clock=clock, sleep=clock.sleep)).exit_code == 3
    assert clock.sleeps[0] == FIRST_SLEEP_S
    assert max(clock.sleeps) == 20e-3
    gaps = np.diff(node.ticks)
    assert (gaps >= TICK_S).all()
    assert gaps.max() < TICK_S + 2 * 20e-3
    # After a second of silence, it sleeps 50 times a second.
    assert sum(clock.sleeps[-40:]) > 0.7


def test_message_ends_the_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    one, other = LoopTransport.world(2)
    node = Listener(other, clock, 40)
    sender = Listener(one, clock, 1)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        if len(clock.sleeps) == 30:
            sender.send(1, Ready())

    run_loop(node, Backoff(clock=clock, sleep=sleep))
    assert node.heard == [Ready()]
    assert clock.sleeps[29] > clock.sleeps[30] == FIRST_SLEEP_S
    assert SPINS > 0


class Sleeper(Listener):
    """Has something to do at a time, and notes when it is asked then."""

    due = 7.7003
    woke = 0.0

    def work(self) -> bool:
        """Note the time."""
        if self.clock() < self.due:
            return False
        self.woke, self.due, self.exit_code = self.clock(), 1e9, 0
        return True


def test_idle_loop_wakes_when_somebody_is_due() -> None:
    # By then it sleeps 20 ms at a time.
    clock = Clock()
    node = Sleeper(LoopTransport.world(1)[0], clock, 10**9)
    assert run_loop(node, Backoff(clock=clock, sleep=clock.sleep)).exit_code == 0
    assert 7.7003 <= node.woke < 7.7013
    assert max(clock.sleeps) == 20e-3


KEYS, ROWS = np.arange(5, dtype=np.uint64), np.ones((5, 1))
PARTS: list[tuple[int, int, int, int]] = [(0, 0, 0, 5)]
MESSAGES: list[tuple[Message, str]] = [
    (Push(request=1, table=0, stream=0, number=1, clock=1, pull=True, slices=PARTS, keys=KEYS,
          values=ROWS), "push"),
    (PushAck(request=1), "push"),
    (Pull(request=1, table=0, slices=PARTS, keys=KEYS), "pull"),
    (Values(request=1, table=0, keys=KEYS, values=ROWS, counts=[5]), "pull"),
    (Replicate(request=1, table=0, clock=1, parts=[(0, 1)], slices=PARTS, keys=KEYS, values=ROWS),
     "replication"),
    (Snapshot(request=1, table=0, slices=PARTS, numbers=np.zeros((1, 2), np.int64),
              clocks=np.zeros((1, 2), np.int64), keys=KEYS, rows=ROWS), "replication"),
    (Replicated(request=1), "replication"),
    (Joined(table=0, copy=1, segments=[0]), "control"),
    (Ready(), "control"),
]  # fmt: skip


def test_effects_are_carried_out() -> None:
    one, other = LoopTransport.world(2)
    node, peer = Listener(one, Clock(), 9), Listener(other, Clock(), 9)
    node.carry_out([Send(1, PushAck(request=1)), Finished(1, None), Send(1, Ready())])
    assert peer.turn()
    assert peer.heard == [PushAck(request=1), Ready()]
    assert not peer.turn()


@pytest.mark.parametrize(("message", "kind"), MESSAGES, ids=lambda m: type(m).__name__)
def test_bytes_are_counted_by_kind_and_all_of_them_once(message: Message, kind: str) -> None:
    node = Listener(LoopTransport.world(2)[0], Clock(), 9)
    node.send(1, message)
    head, arrays = Codec().encode(message)
    size = len(head) + sum(array.nbytes for array in arrays)
    keys = 8 * len(KEYS) if isinstance(message, Push | Pull | Values) else 0
    counts = {f"bytes_{name}": 0 for name in ("push", "pull", "replication", "control")}
    counts |= {f"bytes_{kind}": size - keys, "bytes_keys": keys}
    assert node.statistics() == counts


def test_bytes_are_counted_as_they_are_sent() -> None:
    # What a filter saves is not sent, of keys and of values.
    node = Listener(LoopTransport.world(2)[0], Clock(), 9)
    node.chains = [FilterChain(["lz4"])]
    keys, values = np.arange(10_000, dtype=np.uint64), np.zeros((10_000, 1))
    push, _ = MESSAGES[0]
    parts = [(0, 0, 0, 10_000)]
    node.send(1, msgspec.structs.replace(push, slices=parts, keys=keys, values=values))
    assert 0 < node.bytes_sent["push"] < values.nbytes / 10
    assert 0 < node.bytes_sent["keys"] < keys.nbytes


def test_job_where_nobody_can_go_on_is_given_up_once() -> None:
    nodes = [Listener(end, Clock(), 10**9) for end in LoopTransport.world(3)]
    calls = []

    def give_up() -> None:
        calls.append(1)
        nodes[0].exit_code = 5

    assert run_together(nodes, give_up) == 5
    assert calls == [1]


class Silent(App):
    """Waits for ever."""

    def tables(self) -> list[Table]:
        """Return a table whose sums are never complete."""
        return [Table(name="w", size=1, aggregate=True)]

    def plan(self) -> Plan:
        """Wait for all."""
        yield Task(group="workers", function="work")
        return {}

    async def work(self, worker: Worker) -> None:
        """Wait for a push that the others leave out."""
        if worker.id == 0:
            await worker.push("w", None, np.ones(1))


class Loud:
    """A console that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        """Keep a line."""
        self.said.append(text)

    def row(self, now: float, facts: dict[str, Any]) -> None:
        """Keep nothing."""


def test_scheduler_says_who_it_waits_for_when_nobody_answers() -> None:
    clock, console = Clock(), Loud()
    config = job(workers=2, logical=2).sized(2)
    ends: list[Transport] = list(LoopTransport.world(5))
    nodes = make_nodes(ends, clock, Silent, config, None, console)  # type: ignore[arg-type]
    for _ in range(20):
        for node in nodes:
            node.turn()
    assert console.said == []
    for _ in range(3):
        clock.now += STALL_S + 1
        nodes[0].turn()
    assert len(console.said) == 3
    assert all(line.endswith("waiting for worker 0") for line in console.said)


class Deaf(Transport):
    """A transport on which nothing ever comes."""

    def __init__(self) -> None:
        super().__init__(0, 3)
        self.sent: list[int] = []

    def send(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Note the receiver."""
        self.sent.append(dest)

    def poll(self) -> list[Frame]:
        """Return nothing."""
        return []

    def unsent(self) -> int:
        """Return 0."""
        return 0

    def flush(self, timeout_s: float) -> bool:
        """Return True."""
        return True

    def shrink(self, dead: Collection[int], give_up: Callable[[], None]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


def test_scheduler_whose_nodes_never_come_ends_by_itself() -> None:
    clock = Clock()
    transport, config = Deaf(), job(servers=1, workers=1).sized(1)
    node = SchedulerNode(transport, clock, Silent, config, ["scheduler", "server", "worker"])
    code = run_loop(node, Backoff(clock=clock, sleep=clock.sleep)).exit_code
    assert code == 70
    assert transport.sent == [1, 2]
    assert "server 1, worker 2 did not answer" in node.result["error"]
    assert 150 <= clock.now < 151


def test_late_answers_after_the_end_do_no_harm() -> None:
    clock = Clock()
    config = job(servers=1, workers=1).sized(1)
    node = SchedulerNode(Deaf(), clock, Silent, config, ["scheduler", "server", "worker"])
    run_loop(node, Backoff(clock=clock, sleep=clock.sleep))
    result = dict(node.result)
    node.receive(1, Stopped(statistics={"x": 1}))
    node.receive(1, Ready())
    assert (node.exit_code, node.result) == (70, result)
