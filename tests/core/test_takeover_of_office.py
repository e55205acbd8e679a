"""A scheduler among acceptors, driven by hand: what it may do when it is cut off, or follows."""

from collections.abc import Callable, Collection
from typing import Any

import pytest

from mpips.core.acceptor import Acceptor
from mpips.core.leader import Leader
from mpips.core.machine import Answer, Effect, Prepare, Send
from mpips.core.saving import When
from mpips.core.scheduler import SchedulerMachine
from mpips.core.task import Plan, Task
from mpips.errors import DataError, UsageError
from mpips.wire.messages import Beat, Call, Hello, Kill, Message, Ready, Return, Save, Stop
from mpips.wire.types import Table, make_epoch
from mpips.wire.voting import Claim, Promise, Propose, Refused

ROLES = {1: "server", 2: "server", 3: "worker", 4: "worker", 5: "spare"}
HOSTS = {1: "a", 2: "b", 3: "a", 4: "b", 5: "b"}
TABLES = [Table(name="w", size=100, segments=10)]
SILENCE_S = 8.0


def two_tasks() -> Plan:
    """Have two things done."""
    yield Task(group="workers", function="one")
    yield Task(group="workers", function="two")
    return {}


class Party:
    """A scheduler, the acceptors on other nodes, and what was sent to them beside."""

    def __init__(self, when: When = When()) -> None:  # noqa: B008
        self.acceptors = {node: Acceptor() for node in ROLES}
        self.sent: list[tuple[int, Message]] = []
        self.others: list[Effect] = []
        self.answers: list[tuple[int, Message]] = []
        self.is_mute, self.now = False, 0.0
        self.machine = SchedulerMachine(
            0, dict(ROLES), 3, lambda facts: (TABLES, two_tasks()), 1, "spread", SILENCE_S,
            "b", when, None, 3,
        )  # fmt: skip
        for node, role in ROLES.items():
            hello = Hello(role=role, host=HOSTS[node], process=1, facts={}, has_pulse=True)
            self.take(self.machine.step(0.0, node, hello))
        for node in ROLES:
            self.take(self.machine.step(0.0, node, Ready()))

    def take(self, effects: list[Effect]) -> None:
        """Do what the machine wants; acceptors answer at once, unless they are mute."""
        for effect in effects:
            if not isinstance(effect, Send):
                self.others.append(effect)
            elif isinstance(effect.message, Propose):
                if effect.dest in self.acceptors:
                    answer = self.acceptors[effect.dest].step(effect.message)
                    self.answers.append((effect.dest, answer))
            else:
                self.sent.append((effect.dest, effect.message))
        while self.answers and not self.is_mute:
            self.take(self.machine.step(self.now, *self.answers.pop(0)))

    def pop(self, kind: type[Message]) -> list[tuple[int, Any]]:
        """Return the messages of a kind that were sent since the last time."""
        sent, self.sent = self.sent, []
        return [(dest, message) for dest, message in sent if isinstance(message, kind)]

    def finish(self) -> None:
        """Let all calls return."""
        for dest, call in self.pop(Call):
            answer = Return(request=call.request, result=0, streams=[(1, 1)])
            self.take(self.machine.step(0.0, dest, answer))

    def wait(self, begin: float, end: float, alive: Collection[int] = ()) -> None:
        """Let time pass, while some nodes beat."""
        for step in range(int(begin * 4), int(end * 4)):
            self.now = step / 4
            for node in alive:
                self.take(self.machine.step(self.now, node, Beat(moved=[node])))
            self.take(self.machine.tick(self.now))


def test_silent_node_is_killed_by_its_mates() -> None:
    party = Party()
    party.wait(0, 2 * SILENCE_S, (1, 2, 4, 5))
    assert [(dest, m.node) for dest, m in party.pop(Kill)] == [(1, 3)]


def test_scheduler_that_is_cut_off_has_nobody_killed() -> None:
    party = Party()
    party.wait(0, 2, ROLES)
    # Orders to kill would wait, and be followed when it is there again.
    party.is_mute = True
    party.wait(2, 2 + 1.5 * SILENCE_S)
    assert party.pop(Kill) == []
    party.is_mute = False
    party.take([])
    party.wait(2 + 1.5 * SILENCE_S, 5 * SILENCE_S, ROLES)
    assert party.pop(Kill) == []
    assert not party.machine.is_deposed
    # What it has learned of the others before counts no more; who is silent now is killed.
    party.wait(5 * SILENCE_S, 7 * SILENCE_S, (1, 2, 4, 5))
    assert [m.node for _, m in party.pop(Kill)] == [3]


def test_checkpoint_is_not_taken_when_somebody_has_died_before_it_begins() -> None:
    party = Party(When(every_iterations=1))
    party.is_mute = True
    party.finish()
    # That all calls are done is decided only now, and then a view that was made meanwhile.
    party.take(party.machine.lose(0.0, [2]))
    done, party.answers = party.answers, []
    for answer in done:
        party.take(party.machine.step(0.0, *answer))
    party.take(party.machine.lose(0.0, [4]))
    party.pop(Message)
    assert not any(isinstance(effect, Prepare) for effect in party.others)
    party.is_mute = False
    party.take([])
    assert any(isinstance(effect, Prepare) for effect in party.others)
    # Whoever acts for the dead has nothing of it that could be kept.
    party.take(party.machine.save_in(0.0, "folder"))
    assert party.machine.state == "running"
    sent, party.sent = party.sent, []
    assert not any(isinstance(message, Save) for _, message in sent)
    assert {message.function for _, message in sent if isinstance(message, Call)} == {"two"}


def succeed(
    party: Party, prepare: Callable[[dict[str, Any]], Any], finish: int = 0
) -> SchedulerMachine:
    """Let the first scheduler die, and an acceptor follow it."""
    for _ in range(finish):
        party.finish()
    node, *others = party.machine.groups[-1][1:]
    ballot = make_epoch(2, node)
    log = []
    for at in (node, *others):
        promise = party.acceptors[at].step(Claim(ballot=ballot))
        assert isinstance(promise, Promise)
        log = [stored.entry for stored in promise.log]
    decided = party.machine.decisions
    assert log == decided
    leader = Leader(node, ballot, party.acceptors.pop(node), log, len(log))
    party.pop(Message)
    party.machine = SchedulerMachine(
        node, dict.fromkeys([0, *ROLES], "rank"), 3, prepare, 1, "spread", SILENCE_S,
        HOSTS[node], When(), None, 3,
    )  # fmt: skip
    party.take(party.machine.succeed(1.0, 0.0, leader, {0}, 0.5))
    return party.machine


def answered(party: Party) -> list[tuple[str, str]]:
    """Return the orders that were answered since the last time, and the answers."""
    others, party.others = party.others, []
    return [(one.order, one.text) for one in others if isinstance(one, Answer)]


def test_order_is_answered_once_it_is_decided() -> None:
    party = Party()
    party.is_mute = True
    party.take(party.machine.order(0.0, "one", "add-server", None))
    assert answered(party) == []
    party.is_mute = False
    party.take([])
    ((name, text),) = answered(party)
    assert name == "one"
    assert text.startswith("spare 5 is a server now")


def test_next_scheduler_answers_what_is_decided_and_does_it_only_once() -> None:
    party = Party()
    party.take(party.machine.order(0.0, "one", "remove-worker", None))
    first = answered(party)
    machine = succeed(party, lambda facts: (TABLES, two_tasks()))
    # The scheduler before may have died before it could say so.
    assert answered(party) == first
    epoch = machine.view.epoch if machine.view else 0
    party.take(machine.order(1.0, "one", "remove-worker", None))
    assert answered(party) == []
    assert machine.view is not None
    assert machine.view.epoch == epoch
    # What did not come so far is followed.
    with pytest.raises(UsageError, match="last worker"):
        machine.order(1.0, "two", "remove-worker", None)
    party.take(machine.order(1.0, "three", "add-server", 5))
    assert [name for name, _ in answered(party)] == ["three"]


def test_numbers_of_calls_are_beyond_all_that_another_scheduler_can_have_given() -> None:
    party = Party()
    assert max(call.request for _, call in party.pop(Call)) < 10
    succeed(party, lambda facts: (TABLES, two_tasks()))
    calls = party.pop(Call)
    assert {call.function for _, call in calls} == {"one"}
    assert min(call.request for _, call in calls) > 2**40


def test_job_whose_app_fails_at_the_next_scheduler_can_be_ended() -> None:
    def fail(facts: dict[str, Any]) -> Any:
        raise DataError("it is gone")

    party = Party()
    with pytest.raises(DataError):
        succeed(party, fail)
    # The exception came instead of a machine.
    machine = party.machine
    party.take(machine.fail(1.0, DataError("it is gone")))
    party.take(machine.lose(1.0, {0}))
    told = party.pop(Stop)
    assert sorted(dest for dest, _ in told if dest) == sorted(ROLES)
    assert {stop.exit_code for _, stop in told} == {DataError.exit_code}
    assert machine.decisions[-1].exit_code == DataError.exit_code  # type: ignore[union-attr]
    assert machine.waiting_for() != []
    assert "0" not in " ".join(machine.waiting_for())


def test_scheduler_before_is_refused_by_those_who_follow_the_next_one() -> None:
    party = Party()
    old = party.machine
    succeed(party, lambda facts: (TABLES, two_tasks()))
    answers = [
        (effect.dest, party.acceptors[effect.dest].step(effect.message))
        for effect in old.tick(1.0)
        if isinstance(effect, Send) and isinstance(effect.message, Propose)
        if effect.dest in party.acceptors
    ]
    assert answers
    assert all(isinstance(answer, Refused) for _, answer in answers)
