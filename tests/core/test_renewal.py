"""A leader that claims a higher ballot waits for answers, unless it hears of a higher one yet."""

from mpips.core.acceptor import Acceptor
from mpips.core.leader import Leader
from mpips.core.machine import Send
from mpips.core.renewal import Renewal
from mpips.wire.types import make_epoch
from mpips.wire.voting import Accepted, Begun, Claim, Promise, Refused
from tests.core.votes import view_of

GROUP = (0, 1, 2, 3, 4)


def elected() -> Leader:
    """Return the first leader, whose view is decided."""
    leader = Leader(0, make_epoch(1, 0), Acceptor())
    leader.propose(Begun(view_of(1, 0, GROUP), {}, []))
    for node in GROUP[1:]:
        leader.take(node, Accepted(ballot=leader.ballot, stored=1))
    assert leader.is_settled
    return leader


def test_open_claim_is_waited_for_and_wins_however_late_its_promises_come() -> None:
    leader = elected()
    renewal = Renewal(0, leader)
    sent = renewal.begin()
    [ballot] = {e.message.ballot for e in sent if isinstance(e, Send)}
    # Many beats later nobody has answered yet.
    for _ in range(5):
        assert renewal.begin() == []
    for node in (1, 2):
        renewal.take(node, Promise(ballot=ballot, log=[]))
    assert leader.ballot == ballot > make_epoch(1, 0)


def test_claim_that_is_not_the_highest_any_more_is_made_anew() -> None:
    leader = elected()
    renewal = Renewal(0, leader)
    renewal.begin()
    first = leader.highest
    leader.take(3, Refused(ballot=leader.ballot, promised=make_epoch(9, 4)))
    sent = [e.message for e in renewal.begin() if isinstance(e, Send)]
    assert all(isinstance(m, Claim) and m.ballot > make_epoch(9, 4) > first for m in sent)
    assert len(sent) == 4


def test_refusal_by_ones_own_acceptor_is_heard_of() -> None:
    leader = elected()
    leader.acceptor.step(Claim(ballot=make_epoch(7, 3)))
    leader.beat()
    Renewal(0, leader).begin()
    assert leader.highest > make_epoch(7, 3)
