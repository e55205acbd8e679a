"""When a node stands as a candidate, whom it promises, and when it gives all hope up."""

from typing import Any

from mpips.core.machine import Effect, Send
from mpips.core.succession import NEWS_S, PATIENCE_S, RETRY_S, Succession
from mpips.wire.types import View, make_epoch
from mpips.wire.voting import Accepted, Begun, Claim, Promise, Propose
from tests.core.votes import view_of

SILENCE_S = 1.0
FIRST = view_of(1, 0, (0, 1, 2))


def answers(effects: list[Effect], kind: type[Any]) -> list[int]:
    """Return to whom messages of a kind are sent."""
    return [e.dest for e in effects if isinstance(e, Send) and isinstance(e.message, kind)]


def follower(node: int = 1) -> Succession:
    """Return an acceptor of the first view, whose scheduler has been heard."""
    found = Succession(node, SILENCE_S)
    found.install(0.0, FIRST)
    entries = [Begun(FIRST, {}, [])]
    beat = Propose(ballot=make_epoch(1, 0), start=0, entries=entries)
    assert answers(found.step(0.0, 0, beat), Accepted) == [0]
    return found


def wait(one: Succession, begin: float, end: float) -> list[Effect]:
    """Let time pass, and return what follows."""
    steps = range(int(begin * 20) + 1, int(end * 20) + 1)
    return [effect for step in steps for effect in one.tick(step / 20)]


def elect(one: Succession, now: float) -> None:
    """Let the other acceptor promise to a candidate."""
    assert one.acceptor.log
    ballot = make_epoch(2, 1)
    one.step(now, 2, Promise(ballot=ballot, log=list(one.acceptor.log)))
    assert one.leader is not None
    assert one.leader.ballot == ballot


def follow(view: View, counter: int, scheduler: int, acceptors: tuple[int, ...]) -> View:
    """Return a later view."""
    assert counter > view.epoch // make_epoch(1, 0)
    return view_of(counter, scheduler, acceptors)


def test_acceptor_stands_when_its_scheduler_is_silent() -> None:
    one = follower()
    assert wait(one, 0.0, SILENCE_S) == []
    assert answers(wait(one, SILENCE_S, 2.0), Claim) == [0, 2]
    assert one.is_hopeless(1.5 + PATIENCE_S)


def test_who_is_no_acceptor_any_more_waits_for_no_sign_of_life() -> None:
    one = follower()
    # The scheduler shows its acceptors alone that it is alive.
    one.install(0.1, follow(FIRST, 2, 0, (0, 2, 3)))
    assert wait(one, 0.1, SILENCE_S + NEWS_S) == []
    assert one.gone_since is None
    assert not one.is_hopeless(2 * PATIENCE_S)
    # Nor does one that follows another scheduler, which it is no acceptor of.
    one.lose(12.0, [0])
    one.install(12.1, follow(FIRST, 3, 2, (2, 3, 4)))
    assert wait(one, 12.1, 30.0) == []
    assert not one.is_hopeless(2 * PATIENCE_S)


def test_who_is_no_acceptor_any_more_promises_at_once_since_it_hears_no_scheduler() -> None:
    one, other = follower(), follower()
    one.install(0.1, follow(FIRST, 2, 0, (0, 2, 3)))
    # A candidate that knows the first view alone needs this promise; others still hear.
    claim = Claim(ballot=make_epoch(2, 2))
    assert answers(one.step(0.2, 2, claim), Promise) == [2]
    assert answers(other.step(0.2, 2, claim), Promise) == []


def test_elected_node_that_hears_its_scheduler_again_is_elected_anew_later() -> None:
    one = follower()
    wait(one, 0.0, 2.0)
    elect(one, 2.0)
    # Before it takes over its scheduler wakes, and later there is yet another one.
    one.heard(2.01)
    one.install(2.5, follow(FIRST, 2, 2, (2, 1, 3)))
    one.lose(3.0, [2])
    # What it was elected with is out of date: it stands again.
    assert one.leader is None
    assert answers(wait(one, 3.0, 3.0 + RETRY_S), Claim) != []
