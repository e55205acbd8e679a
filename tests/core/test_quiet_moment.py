"""When all halt for a shrink: between two tasks, all copies there, and nothing else going on."""

from typing import Any

import pytest

from mpips.core.machine import Decide, Effect, Prepare, Send
from mpips.core.quieting import GRACE_S, PATIENCE_S
from mpips.core.saving import When
from mpips.core.scheduler import SchedulerMachine
from mpips.core.task import Plan, Task
from mpips.wire.messages import Call, Copied, Hello, Message, NewView, Ready, Return, Save, Saved
from mpips.wire.quiet import Drained, GoOn, Halt, Shrink, Shrunk
from mpips.wire.types import NOBODY, Table
from mpips.wire.voting import Kept

ROLES = {1: "server", 2: "server", 3: "worker", 4: "worker", 5: "worker",
         6: "spare", 7: "spare"}  # fmt: skip
VICTIM, SPARE = 5, 7
TABLES = [Table(name="w", size=100, segments=10)]


def many() -> Plan:
    """Give out one task after the other."""
    for _ in range(20):
        yield Task(group="workers", function="one")
    return {}


class Job:
    """A scheduler, the nodes that it talks to, and what it has sent since last asked."""

    def __init__(self, when: When = When()) -> None:  # noqa: B008
        prepare = lambda facts: (TABLES, many())  # noqa: E731
        self.machine = SchedulerMachine(0, dict(ROLES), 3, prepare, when=when, shrinks=True)
        self.now, self.alive = 0.0, set(ROLES)
        self.sent: list[tuple[int, Message]] = []
        self.prepares = 0
        for node, role in ROLES.items():
            self.say(node, Hello(role=role, host="h", process=1, facts={}))
        for node in ROLES:
            self.say(node, Ready())

    def take(self, effects: list[Effect]) -> None:
        """Note what the scheduler wants."""
        for effect in effects:
            if isinstance(effect, Send):
                self.sent.append((effect.dest, effect.message))
            self.prepares += isinstance(effect, Prepare)
            assert not isinstance(effect, Decide) or isinstance(effect.entry, Kept)
        self.machine.validate()

    def say(self, node: int, message: Message) -> None:
        """Let a node say something."""
        self.take(self.machine.step(self.now, node, message))

    def tick(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
        self.take(self.machine.tick(self.now))

    def kill(self, node: int) -> None:
        """Let a node die."""
        self.alive.discard(node)
        self.take(self.machine.lose(self.now, [node]))

    def pop(self, kind: type[Any]) -> list[tuple[int, Any]]:
        """Return the messages of a kind that are sent, and forget all."""
        sent, self.sent = self.sent, []
        return [(dest, message) for dest, message in sent if isinstance(message, kind)]

    def finish_task(self) -> type[Message] | None:
        """Let all answer their calls; return what comes then, calls or a halt."""
        for dest, call in self.pop(Call):
            if dest in self.alive:
                answer = Return(epoch=1, request=call.request, result=0, streams=[])
                self.say(dest, answer)
        kinds = {type(message) for _, message in self.sent} - {NewView}
        return kinds.pop() if len(kinds) == 1 else None

    def drain(self) -> None:
        """Let all answer that they stand still, and that nothing is on its way."""
        halts = self.pop(Halt)
        assert {dest for dest, _ in halts} == self.alive | {0}
        dead = sorted(set(ROLES) - self.alive)
        for dest, halt in halts:
            self.say(dest, Drained(epoch=halt.epoch, number=halt.number, attempt=halt.attempt,
                                   sent={}, received={}, dead=dead))  # fmt: skip


@pytest.fixture
def job() -> Job:
    """Give a job that has lost a worker, whose part others have taken over."""
    job = Job()
    assert job.finish_task() is Call
    job.kill(VICTIM)
    return job


def test_all_halt_before_the_next_task_and_it_comes_after_the_shrink(job: Job) -> None:
    assert job.finish_task() is Halt
    job.drain()
    job.tick(0.0)
    job.tick(GRACE_S)
    orders = job.pop(Shrink)
    assert [message.dead for _, message in orders] == len(orders) * [[VICTIM]]
    for dest, order in orders:
        assert job.pop(Call) == []
        job.say(dest, Shrunk(epoch=order.epoch, number=order.number))
    job.tick(0.0)
    # Once is enough.
    assert [job.finish_task() for _ in range(3)] == 3 * [Call]


def test_nobody_halts_where_nobody_has_died() -> None:
    job = Job()
    assert [job.finish_task() for _ in range(3)] == 3 * [Call]


def test_task_comes_all_the_same_if_somebody_does_not_answer(job: Job) -> None:
    assert job.finish_task() is Halt
    job.tick(PATIENCE_S)
    kinds = [type(message) for _, message in job.sent]
    assert kinds[-4:] == [GoOn, *3 * [Call]]


@pytest.mark.parametrize("victim", [3, 1, 7])
def test_death_while_all_stand_still_calls_it_off_and_the_task_comes(
    job: Job, victim: int
) -> None:
    assert job.finish_task() is Halt
    job.drain()
    job.kill(victim)
    if ROLES[victim] == "server":
        # No copies: the job is lost, and says so to nodes that do not stand still.
        assert job.machine.state == "stopping"
    else:
        assert {dest for dest, message in job.sent if isinstance(message, GoOn)} >= job.alive
        assert job.finish_task() is Halt
    assert not any(isinstance(message, Shrink) for _, message in job.sent)


def test_nobody_halts_while_a_checkpoint_is_written() -> None:
    job = Job(When(every_s=5.0))
    assert job.finish_task() is Call
    job.kill(VICTIM)
    job.tick(6.0)
    job.finish_task()
    assert job.prepares == 1
    job.take(job.machine.save_in(job.now, "folder"))
    saves = job.pop(Save)
    for dest, save in saves:
        job.say(dest, Copied(epoch=1, number=save.number))
    # Who acts for others has to have done a call of theirs before all may halt.
    assert [job.finish_task() for _ in range(3)] == 3 * [Call]
    for dest, save in saves:
        job.say(dest, Saved(epoch=1, number=save.number, parts=[]))
    assert job.finish_task() is Halt


def test_nobody_halts_while_segments_move(job: Job) -> None:
    job.take(job.machine.order(job.now, "one", "add-server", SPARE))
    job.tick(0.1)
    view = job.machine.view
    assert view is not None
    assert (view.heirs[0] != NOBODY).any()
    assert [job.finish_task() for _ in range(3)] == 3 * [Call]
    # The move ends with its heir.
    job.kill(SPARE)
    assert job.finish_task() is Halt
