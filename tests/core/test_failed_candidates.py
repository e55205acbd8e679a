"""Candidates that die with promises in hand hold up nobody for long."""

import pytest

from mpips.core.leader import Leader
from mpips.core.machine import Effect, Send
from mpips.core.mandate import Mandate
from mpips.core.succession import RETRY_S, STEP_S, Succession
from mpips.wire.messages import Message
from mpips.wire.types import make_epoch
from mpips.wire.voting import Accepted, Begun, Claim, Entry, Kept, Promise, Propose, Refused
from tests.core.votes import view_of

GROUP = (0, 1, 2, 3, 4)
FIRST = view_of(1, 0, GROUP)
BEGUN = Begun(FIRST, {}, [])
SILENCE_S = 1.0
TICK_S = 0.05


class Acceptors:
    """The acceptors of a job whose scheduler is node 0; what they send arrives at once.

    Attributes:
        dead: those that neither hear nor do anything.
        gone: the candidates that die as soon as they have claimed.
    """

    def __init__(self, dead: tuple[int, ...] = (), gone: tuple[int, ...] = ()) -> None:
        self.now = 0.0
        self.dead, self.gone = {*dead}, {*gone}
        self.nodes = {node: Succession(node, SILENCE_S) for node in GROUP[1:]}
        beat = Propose(ballot=make_epoch(1, 0), start=0, entries=[BEGUN])
        for one in self.nodes.values():
            one.install(0.0, FIRST)
            one.step(0.0, 0, beat)

    def post(self, source: int, effects: list[Effect]) -> list[tuple[int, Message]]:
        """Deliver what a node sends, and return what is for the scheduler."""
        to_scheduler = []
        for effect in effects:
            assert isinstance(effect, Send)
            if effect.dest == 0:
                to_scheduler.append((source, effect.message))
            elif effect.dest not in self.dead:
                self.say(source, effect.dest, effect.message)
        return to_scheduler

    def say(self, source: int, dest: int, message: Message) -> list[tuple[int, Message]]:
        """Give a node a message, and return what it tells the scheduler."""
        assert isinstance(message, Claim | Propose | Promise | Refused)
        if source in self.gone and isinstance(message, Promise | Claim):
            self.dead.add(source)
        return self.post(dest, self.nodes[dest].step(self.now, source, message))

    def wait(self, seconds: float) -> Leader | None:
        """Let time pass until somebody is elected, for so long at most."""
        for _ in range(round(seconds / TICK_S)):
            self.now += TICK_S
            for node, one in self.nodes.items():
                if node not in self.dead:
                    self.post(node, one.tick(self.now))
                if one.leader is not None:
                    return one.leader
        return None


def decide(acceptors: Acceptors, leader: Leader, entry: Entry) -> bool:
    """Return whether a scheduler has something decided by the acceptors that are alive."""
    letters = leader.propose(entry)
    for _ in range(3):
        answers = [
            answer
            for one in letters
            if isinstance(one, Send) and one.dest in set(acceptors.nodes) - acceptors.dead
            for answer in acceptors.say(0, one.dest, one.message)
        ]
        letters = [
            effect
            for source, message in answers
            if isinstance(message, Accepted | Refused)
            for effect in leader.take(source, message)
        ]
    return leader.is_settled


def lead(mandate: Mandate) -> Leader:
    """Return the job's first scheduler, which has had the beginning decided."""
    leader = mandate.leader
    leader.propose(BEGUN)
    for node in GROUP[1:]:
        leader.take(node, Accepted(ballot=leader.ballot, stored=1))
    assert leader.is_settled
    return leader


def test_next_candidate_is_elected_soon_after_one_that_died_with_all_promises() -> None:
    acceptors = Acceptors(dead=(0,), gone=(1,))
    for one in acceptors.nodes.values():
        one.lose(0.0, [0])
    # The first one claims at once, and all that are alive promise to it.
    assert acceptors.wait(2 * TICK_S) is None
    assert acceptors.dead == {0, 1}
    promised = {node: one.acceptor.promised for node, one in acceptors.nodes.items()}
    assert all(promised[node] == make_epoch(2, 1) for node in (2, 3, 4))
    leader = acceptors.wait(RETRY_S * 2 + STEP_S)
    assert leader is not None
    assert leader.ballot > make_epoch(2, 1)
    assert leader.log == [BEGUN]
    assert decide(acceptors, leader, Kept(7))


@pytest.mark.parametrize("lost", [(), (4,), (3, 4), (2, 3, 4)])
def test_scheduler_decides_with_those_who_have_promised_nobody_or_gives_way(
    lost: tuple[int, ...],
) -> None:
    acceptors, mandate = Acceptors(), Mandate(0, SILENCE_S)
    leader = lead(mandate)
    # Some heard nothing of their scheduler for a while, and promised somebody who is dead now.
    for node in lost:
        acceptors.nodes[node].acceptor.step(Claim(ballot=make_epoch(2, 1)))
    is_followed = len(lost) < 3
    assert decide(acceptors, leader, Kept(7)) == is_followed
    assert leader.refused == set(lost)
    assert mandate.is_over != is_followed


def live(acceptors: Acceptors, mandate: Mandate, begin: float, end: float) -> None:
    """Let time pass for a scheduler, whose acceptors hear it."""
    for step in range(round(begin / TICK_S), round(end / TICK_S)):
        acceptors.now = step * TICK_S
        mandate.heard(acceptors.now, set(acceptors.nodes) - acceptors.dead)
        letters = mandate.tick(acceptors.now)
        while letters:
            assert all(isinstance(one, Send) for one in letters)
            answers = [
                answer
                for one in letters
                if isinstance(one, Send) and one.dest in set(acceptors.nodes) - acceptors.dead
                for answer in acceptors.say(0, one.dest, one.message)
            ]
            letters = []
            for source, message in answers:
                if isinstance(message, Promise):
                    letters += mandate.promised(acceptors.now, source, message)
                elif isinstance(message, Accepted | Refused):
                    letters += mandate.take(acceptors.now, source, message)


@pytest.mark.parametrize("lost", [(4,), (3, 4)])
def test_who_has_promised_a_failed_candidate_counts_again_after_a_while(
    lost: tuple[int, ...],
) -> None:
    acceptors, mandate = Acceptors(), Mandate(0, SILENCE_S)
    leader, claim = lead(mandate), Claim(ballot=make_epoch(2, 1))
    for node in lost:
        acceptors.nodes[node].acceptor.step(claim)
    live(acceptors, mandate, 0.0, SILENCE_S)
    # Whoever was elected would have shown itself by then; before it nobody is disturbed.
    assert leader.refused == set(lost)
    assert leader.ballot < claim.ballot
    live(acceptors, mandate, SILENCE_S, 2 * SILENCE_S)
    assert leader.refused == set()
    assert leader.ballot > claim.ballot
    assert not mandate.is_over
    # As many may die as ever: two of five.
    acceptors.dead.update({1, 2})
    mandate.lose({1, 2})
    assert decide(acceptors, leader, Kept(7))


def test_scheduler_that_has_been_paused_claims_nothing_before_it_has_heard_the_others() -> None:
    acceptors, mandate = Acceptors(), Mandate(0, SILENCE_S)
    leader, claim = lead(mandate), Claim(ballot=make_epoch(2, 1))
    acceptors.nodes[4].acceptor.step(claim)
    live(acceptors, mandate, 0.0, SILENCE_S / 2)
    assert leader.refused == {4}
    # Somebody may have been elected while it was paused.
    effects = mandate.tick(3 * SILENCE_S)
    assert not any(isinstance(one, Send) and isinstance(one.message, Claim) for one in effects)
    for node in (2, 3):
        acceptors.nodes[node].acceptor.step(Claim(ballot=make_epoch(3, 1)))
    live(acceptors, mandate, 3 * SILENCE_S, 3 * SILENCE_S + 6 * TICK_S)
    assert mandate.is_over
    assert leader.ballot < claim.ballot


def test_leader_gives_way_to_what_another_one_has_stored_meanwhile() -> None:
    acceptors, mandate = Acceptors(), Mandate(0, SILENCE_S)
    leader = lead(mandate)
    # It has led for a moment, and died: whether something was decided nobody can tell.
    begun = Propose(ballot=make_epoch(2, 4), start=0, entries=[BEGUN, Kept(1)])
    acceptors.nodes[1].acceptor.step(begun)
    live(acceptors, mandate, 0.0, 2 * SILENCE_S)
    assert leader.ballot < begun.ballot
    assert mandate.is_over


def test_dead_candidate_is_promised_nothing_however_late_its_claim_comes() -> None:
    acceptors = Acceptors()
    one, claim = acceptors.nodes[2], Claim(ballot=make_epoch(2, 1))
    # Some come before its death is known, and wait; some after.
    assert one.step(0.1, 1, claim) == []
    one.lose(0.2, [1])
    assert one.step(0.2, 1, claim) == []
    one.lose(0.3, [0])
    assert not any(isinstance(e, Send) and e.dest == 1 for e in one.tick(0.3))
    assert one.acceptor.promised < claim.ballot


def test_acceptors_of_a_scheduler_that_gives_way_elect_another_soon() -> None:
    acceptors = Acceptors()
    claim = Claim(ballot=make_epoch(2, 1))
    for node in (2, 3, 4):
        acceptors.nodes[node].acceptor.step(claim)
    acceptors.dead.add(1)
    # It kills itself, and they learn of it.
    for one in acceptors.nodes.values():
        one.lose(0.0, [0])
    leader = acceptors.wait(RETRY_S * 2 + STEP_S)
    assert leader is not None
    assert leader.ballot > claim.ballot
    assert decide(acceptors, leader, Kept(7))
