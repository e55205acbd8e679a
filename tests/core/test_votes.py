"""What is decided stays decided, whatever is lost, repeated or late; broken builds are caught."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mpips.core import leader as leading
from mpips.core.acceptor import Acceptor
from mpips.core.leader import Candidate, Group, Leader
from mpips.core.machine import Effect, Send
from mpips.core.renewal import Renewal
from mpips.wire.types import PROPOSERS_MAX, make_epoch
from mpips.wire.voting import Accepted, Claim, Entry, Kept, Promise, Propose, Refused
from tests.core.votes import SplitBrain, World, contested_world, explore, run_schedule

FEW, SOME, MANY = 100, 2_000, 10_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_all_orders_of_three_acceptors_and_two_proposers_agree() -> None:
    assert explore(World.begin(3, (0, 1, 2)), entries=1) > 10_000


@pytest.mark.slow
def test_all_orders_of_a_leader_that_claims_a_higher_ballot_and_another_one_agree() -> None:
    assert explore(contested_world(), entries=1, renewals=1) > 5_000


def test_schedules_with_candidates_and_other_acceptors_agree() -> None:
    worlds = [run_schedule(seed) for seed in range(FEW)]
    # They are no empty ones: many decide a lot, under two leaders or more.
    leaders = [sum(peer.leader is not None for peer in world.peers.values()) for world in worlds]
    assert sum(count > 1 for count in leaders) > FEW // 4
    assert sum(len(world.decided) > 4 for world in worlds) > FEW // 4
    risen = [one for world in worlds for one in world.peers.values() if one.has_risen]
    assert len(risen) > FEW // 20


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("first", "last"), [
    (FEW, SOME), pytest.param(SOME, MANY, marks=pytest.mark.soak),
])  # fmt: skip
def test_ten_thousand_schedules_agree(first: int, last: int) -> None:
    for seed in range(first, last):
        run_schedule(seed)


def run_all(seeds: int) -> None:
    """Run the schedules of many seeds."""
    for seed in range(seeds):
        run_schedule(seed)


def count_one(nodes: Sequence[int], group: Group) -> bool:
    """Take any acceptor for a majority."""
    return bool(set(nodes).intersection(group))


def refuse_nothing(acceptor: Acceptor, message: Claim | Propose) -> Any:
    """Forget what was promised."""
    acceptor.promised = 0
    return STEP(acceptor, message)


def take_own_log(candidate: Candidate) -> list[Entry]:
    """Propose nothing anew of what others have stored."""
    return [one.entry for one in candidate._promised.get(candidate._node, [])]


def take_lowest(candidate: Candidate) -> list[Entry]:
    """Take the entries of the lowest ballots."""
    logs = [*candidate._promised.values()]
    length = max(map(len, logs), default=0)
    found = [[log[at] for log in logs if at < len(log)] for at in range(length)]
    return [min(stored, key=lambda one: one.ballot).entry for stored in found]


def need_the_last_alone(leader: Leader, index: int) -> list[Group]:
    """Let a view count that its own acceptors may not know."""
    return NEEDED(leader, index)[:1]


def need_the_next_alone(leader: Leader, index: int) -> list[Group]:
    """Let a view's own acceptors decide it."""
    return NEEDED(leader, index)[-1:]


def rise_unasked(renewal: Renewal) -> list[Effect]:
    """Go on in a higher ballot without asking a majority."""
    leader = renewal._leader
    leader.highest = make_epoch(leader.highest // PROPOSERS_MAX + 1, renewal._node)
    return leader.rise(leader.highest)


STEP, NEEDED = Acceptor.step, Leader._needed


@pytest.mark.parametrize(("place", "name", "broken"), [
    (leading, "is_majority", count_one),
    (Acceptor, "step", refuse_nothing),
    (Candidate, "_merge", take_own_log),
    pytest.param(Candidate, "_merge", take_lowest, marks=pytest.mark.slow),
    pytest.param(Leader, "_needed", need_the_last_alone, marks=pytest.mark.slow),
    (Leader, "_needed", need_the_next_alone),
    (Renewal, "begin", rise_unasked),
    (Candidate, "latest", 0),
], ids=lambda value: getattr(value, "__name__", str(value)))  # fmt: skip
def test_broken_build_splits_the_brain(
    place: Any, name: str, broken: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, name, broken)
    with pytest.raises(SplitBrain):
        run_all(SOME)


def test_leader_of_one_acceptor_decides_at_once() -> None:
    world = World.begin(1, (0,))
    world.propose(0, Kept(1))
    leader = world.peers[0].leader
    assert leader is not None
    assert leader.is_settled
    assert world.flying == []


def test_slow_acceptor_gets_each_entry_once_and_all_at_last() -> None:
    world = World.begin(3, (0, 1, 2))
    for number in range(3):
        world.propose(0, Kept(number))
        # The first acceptor answers; what is on its way to the second stays there.
        while letters := [at for at, (_, dest, _) in enumerate(world.flying) if dest != 2]:
            world.deliver(letters[0])
    waiting = [message for _, dest, message in world.flying if dest == 2]
    assert [len(m.entries) for m in waiting if isinstance(m, Propose)] == [1, 0, 0]
    while world.flying:
        world.deliver(0)
    assert len(world.peers[2].acceptor.log) == 4


def test_refusal_by_a_majority_ends_a_leader() -> None:
    world = World.begin(3, (0, 1, 2))
    leader = world.peers[0].leader
    assert leader is not None
    for node in (1, 2):
        world.peers[node].acceptor.step(Claim(ballot=make_epoch(2, 1)))
    world.propose(0, Kept(1))
    world.deliver(0)
    assert leader.can_decide(leader.refused)
    while world.flying:
        world.deliver(0)
    assert leader.refused == {1, 2}
    assert not leader.can_decide(leader.refused)


def test_what_was_stored_in_a_lower_ballot_does_not_count_in_the_next_one() -> None:
    world = World.begin(5, (0, 1, 2, 3, 4))
    leader = world.peers[0].leader
    assert leader is not None
    world.propose(0, Kept(1))
    leader.take(2, Accepted(ballot=leader.ballot, stored=2))
    letters = leader.rise(make_epoch(3, 0))
    # Who has only what was stored before may be overruled by a ballot between the two.
    leader.take(3, Accepted(ballot=leader.ballot, stored=2))
    assert not leader.is_settled
    leader.take(4, Accepted(ballot=leader.ballot, stored=2))
    assert leader.is_settled
    # What was decided is not sent again.
    sent = [one.message for one in letters if isinstance(one, Send)]
    assert [one.start for one in sent if isinstance(one, Propose)] == [1] * 4


def test_candidate_that_nobody_hears_promises_nothing_itself() -> None:
    world = World.begin(3, (0, 1, 2))
    world.post(1, world.peers[1].stand(2))
    world.flying.clear()
    world.propose(0, Kept(1))
    world.deliver(0)
    (answer,) = [message for _, _, message in world.flying if isinstance(message, Accepted)]
    assert answer.stored == 2


def test_acceptor_answers_by_its_promise() -> None:
    acceptor = Acceptor()
    assert acceptor.step(Claim(ballot=5)) == Promise(ballot=5, log=[])
    refused = acceptor.step(Propose(ballot=4, start=0, entries=[Kept(1)]))
    assert refused == Refused(ballot=4, promised=5)
    assert acceptor.log == []
    for _ in range(2):
        accepted = acceptor.step(Propose(ballot=5, start=0, entries=[Kept(1)]))
        assert accepted == Accepted(ballot=5, stored=1)
    assert [one.entry for one in acceptor.log] == [Kept(1)]
