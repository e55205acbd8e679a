"""The shrink's order: all halt, counts match pair by pair, nobody dies for a while, all shrink."""

from collections.abc import Sequence

import pytest

from mpips.core.machine import Effect, Send
from mpips.core.membership import first_view
from mpips.core.news import tell_of_shrink
from mpips.core.quieting import FAILURES_MAX, GRACE_S, PATIENCE_S, Quieting
from mpips.wire.messages import Message
from mpips.wire.quiet import Drained, GoOn, Halt, Shrink, Shrunk
from mpips.wire.types import Member, Table

NODES, DEAD, EPOCH = (0, 1, 3), (2,), 7
MEMBERS = [Member(0, "scheduler", "h", EPOCH), *(Member(n, "server", "h", EPOCH) for n in (1, 3))]
TABLE = Table(name="w", size=4, segments=1)
VIEW = first_view(EPOCH, MEMBERS, [TABLE], 0, 0)


class Talk:
    """A `Quieting` and what it has said."""

    def __init__(self) -> None:
        self.machine = Quieting(is_wanted=True)
        self.now = 0.0
        self.begin()

    def begin(self) -> None:
        """Ask all to halt."""
        self.orders = self.said(self.machine.begin(self.now, VIEW, DEAD))

    @staticmethod
    def said(effects: Sequence[Effect]) -> list[tuple[int, Message]]:
        """Return messages and their destinations."""
        return [(effect.dest, effect.message) for effect in effects if isinstance(effect, Send)]

    def tick(self, seconds: float = 0.0) -> list[type[Message]]:
        """Let time pass, and return what all are told."""
        self.now += seconds
        sent = self.said(self.machine.tick(self.now))
        if sent:
            assert [dest for dest, _ in sent] == list(NODES)
            self.orders = sent
        return sorted({type(message) for _, message in sent}, key=str)

    def answer(
        self,
        node: int,
        sent: dict[int, int] | None = None,
        received: dict[int, int] | None = None,
        dead: Sequence[int] = DEAD,
    ) -> None:
        """Let a node tell its counts; by default it has sent one frame to everybody."""
        (halt,) = {(m.number, m.attempt) for _, m in self.orders if isinstance(m, Halt)}
        ones = dict.fromkeys(NODES, 1)
        drained = Drained(
            epoch=EPOCH, number=halt[0], attempt=halt[1], sent=ones if sent is None else sent,
            received=ones if received is None else received, dead=list(dead))  # fmt: skip
        self.machine.take(self.now, node, drained)

    def answer_all(self) -> None:
        """Let all tell counts that match."""
        for node in NODES:
            self.answer(node)

    def shrunk(self, nodes: Sequence[int]) -> None:
        """Let nodes tell that they have shrunk."""
        for node in nodes:
            self.machine.take(self.now, node, Shrunk(epoch=EPOCH, number=self.number))

    @property
    def number(self) -> int:
        """Return the number of the newest order."""
        (number,) = {m.number for _, m in self.orders if isinstance(m, Halt | Shrink)}
        return number


@pytest.fixture
def talk() -> Talk:
    """A conversation that has just begun."""
    return Talk()


def test_all_halt_then_shrink_then_go_on(talk: Talk) -> None:
    assert talk.orders == [(n, Halt(epoch=EPOCH, number=1, attempt=1)) for n in NODES]
    talk.answer_all()
    assert talk.tick(GRACE_S / 2) == []
    assert talk.tick(GRACE_S / 2) == [Shrink]
    assert talk.orders == [(n, Shrink(epoch=EPOCH, number=1, dead=[2])) for n in NODES]
    talk.shrunk(NODES[1:])
    assert talk.tick() == []
    assert talk.machine.missing == {0}
    talk.shrunk(NODES[:1])
    (report,) = talk.machine.tick(talk.now)
    assert report == tell_of_shrink(3, talk.now)
    assert not talk.machine.is_active
    assert talk.machine.shrinks == 1


def test_nothing_is_due_before_the_next_death(talk: Talk) -> None:
    talk.answer_all()
    talk.tick(GRACE_S)
    talk.shrunk(NODES)
    talk.tick()
    assert not talk.machine.is_due(DEAD)
    assert talk.machine.is_due([2, 3])
    assert not Quieting(is_wanted=True).is_due([])
    assert not Quieting(is_wanted=False).is_due(DEAD)


@pytest.mark.parametrize("source", NODES)
@pytest.mark.parametrize("dest", NODES)
def test_frame_of_any_pair_on_its_way_is_waited_for(talk: Talk, source: int, dest: int) -> None:
    for node in NODES:
        talk.answer(node, sent={dest: 1} if node == source else {}, received={})
    assert talk.tick(10 * GRACE_S) == [Halt]
    assert {m.attempt for _, m in talk.orders if isinstance(m, Halt)} == {2}
    for node in NODES:
        talk.answer(node, {dest: 1} if node == source else {}, {source: 1} if node == dest else {})
    assert talk.tick(GRACE_S) == [Shrink]


def test_sums_that_match_are_not_enough(talk: Talk) -> None:
    # Node 1 lacks a frame of node 0, and has got one too many of node 3.
    talk.answer(0, sent={1: 1}, received={})
    talk.answer(1, sent={}, received={3: 1})
    talk.answer(3, sent={}, received={})
    assert talk.tick(GRACE_S) == [Halt]


@pytest.mark.parametrize("dead", [(), (2, 5)])
def test_nobody_shrinks_while_mpi_knows_of_other_dead(talk: Talk, dead: Sequence[int]) -> None:
    talk.answer(0)
    talk.answer(1)
    talk.answer(3, dead=dead)
    assert talk.tick(GRACE_S) == [Halt]


def test_who_does_not_answer_is_waited_for_only_so_long(talk: Talk) -> None:
    talk.answer(0)
    talk.answer(3)
    assert talk.tick(PATIENCE_S / 2) == []
    assert talk.machine.missing == {1}
    assert talk.tick(PATIENCE_S / 2) == [GoOn]
    assert not talk.machine.is_active


def test_frame_that_never_comes_is_asked_for_only_so_long(talk: Talk) -> None:
    asked = 0
    while talk.machine.is_active:
        for node in NODES:
            talk.answer(node, sent={1: 1}, received={})
        asked += talk.tick(0.05) == [Halt]
    assert asked <= PATIENCE_S / 0.05
    assert {type(message) for _, message in talk.orders} == {GoOn}


def test_scheduler_that_was_paused_orders_nothing_any_more(talk: Talk) -> None:
    talk.answer_all()
    # Meanwhile the others may have gone on without it.
    assert talk.tick(PATIENCE_S) == [GoOn]
    assert not talk.machine.is_active


def test_hopeless_shrink_is_given_up_until_somebody_else_dies(talk: Talk) -> None:
    for failure in range(FAILURES_MAX):
        if failure:
            assert talk.machine.is_due(DEAD)
            talk.begin()
        assert talk.tick(PATIENCE_S) == [GoOn]
    assert not talk.machine.is_due(DEAD)
    assert talk.machine.is_due([*DEAD, 3])


@pytest.mark.parametrize("answers", range(len(NODES) + 1))
def test_death_before_the_order_calls_it_off(talk: Talk, answers: int) -> None:
    for node in NODES[:answers]:
        talk.answer(node)
    sent = talk.said(talk.machine.cancel())
    assert sent == [(node, GoOn(epoch=EPOCH, number=1)) for node in NODES]
    # What is answered now comes too late.
    for node in NODES[answers:]:
        talk.answer(node)
    assert talk.tick(2 * GRACE_S) == []
    assert not talk.machine.is_active


def test_order_cannot_be_called_back(talk: Talk) -> None:
    talk.answer_all()
    assert talk.tick(GRACE_S) == [Shrink]
    assert talk.machine.cancel() == []
    assert not talk.machine.is_active
    assert talk.machine.shrinks == 0
    assert talk.machine.is_due(DEAD)


def test_answers_to_earlier_questions_count_for_nothing(talk: Talk) -> None:
    first = talk.orders
    talk.machine.cancel()
    talk.begin()
    talk.orders, second = first, talk.orders
    talk.answer_all()
    assert talk.machine.missing == set(NODES)
    talk.orders = second
    talk.answer_all()
    assert talk.tick(GRACE_S) == [Shrink]
    # A late copy of a word of before.
    talk.machine.take(talk.now, 1, Shrunk(epoch=EPOCH, number=1))
    assert talk.machine.missing == set(NODES)
