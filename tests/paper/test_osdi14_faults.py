"""OSDI 2014 on replication and on who joins, leaves or dies; its section in each docstring.

Rules that are not built yet: 4.4 and 4.5 a server that joins a running job and takes ranges from
others, in two stages; a worker that joins; a server manager that is replaced when it dies.
"""

import pytest

from mpips.core.membership import WORKER_POLICIES
from mpips.testing.checkers import Expected, check_sums
from mpips.testing.cluster import Simulation
from mpips.testing.faults import Faults
from mpips.testing.ledger import Ledger, Settings
from mpips.wire.messages import NewView, Push, PushAck, Replicate, Replicated, Snapshot
from mpips.wire.types import NOBODY
from tests.core.replicas import ALL, CLIENT, DENSE, SUMS, Group, make_group, make_view
from tests.core.views import join_all, lose, real, rows
from tests.core.views import make_view as make_job
from tests.sim.jobs import job

# -- 4.4 Replication and consistency ---------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 2])
def test_each_range_is_on_its_master_and_on_k_slaves(k: int) -> None:
    """Section 4.4: each server node stores replicas of k neighbours' ranges."""
    view = make_job(k, servers=4, hosts=4)
    host_of = {member.node: member.host for member in view.members}
    for _, _, owner, copies, _ in rows(view):
        assert len({owner, *copies}) == k + 1
        # The paper does not say so: a machine that dies takes all of its virtual servers with it.
        assert len({host_of[node] for node in (owner, *copies)}) == k + 1


def test_clients_talk_to_the_master_alone() -> None:
    """Section 4.4: workers push to the master and pull from it; slaves get copies from it."""
    group = make_group(copies=2)
    group.push(ALL, 1.0)
    group.pull(ALL)
    assert {dest for source, dest, _ in group.letters if source == CLIENT} == {1}
    group.deliver(*group.find(Push))
    assert {source for source, _, _ in group.find(Replicate)} == {1}


def test_modification_is_copied_with_its_timestamp() -> None:
    """Section 4.4: any modification of data is copied with its timestamp to the slaves."""
    group = make_group(copies=2)
    group.push(ALL, 1.0, clock=7)
    group.deliver_all()
    assert all(group.servers[node]._held[0].applied[0] == [1, 0] for node in (1, 2, 3))
    group.push(ALL, 1.0, clock=8)
    group.deliver(*group.find(Push))
    for _, _, message in group.find(Replicate):
        assert isinstance(message, Replicate)
        assert (message.clock, message.parts) == (8, [(0, 2)])


def test_push_is_finished_only_once_the_slaves_have_what_it_made() -> None:
    """Section 4.4, figure 8, left: the ack comes after f(x) has been copied."""
    group = make_group(copies=1)
    push = group.push(ALL, 1.0)
    kinds = []
    while group.letters:
        kinds.append(type(group.letters[0][2]))
        group.deliver(group.letters[0])
    assert kinds == [Push, Replicate, Replicated, PushAck]
    assert push in group.finished


@pytest.mark.parametrize("workers", [2, 5])
def test_replication_after_aggregation_copies_the_sum_once(workers: int) -> None:
    """Section 4.4, figure 8, right: x and y are added, f(x + y) is copied, then both are acked."""
    group = make_group(SUMS, 1, workers)
    for worker in range(workers):
        group.push(ALL, 1.0 + worker, worker)
    group.deliver(*group.find(Push))
    ((_, _, message),) = group.find(Replicate)
    assert isinstance(message, Replicate)
    assert message.values[0, 0] == sum(1.0 + worker for worker in range(workers))
    assert group.acks == 0
    group.deliver_all()
    assert len(group.finished) == group.acks == workers


# -- 4.5 Server management -------------------------------------------------------------------------


def test_slave_takes_over_a_dead_master_s_range_without_copying() -> None:
    """Sections 4.3 and 4.5: the one that has the range already becomes its master."""
    group = make_group(copies=1)
    group.push(ALL, 3.0)
    group.deliver_all()
    group.announce(group.kill(1, keep=False))
    assert group.view.owners[0].tolist() == [2, 2]
    assert group.find(Snapshot) == []
    pull = group.pull(ALL)
    group.deliver_all()
    assert group.finished[pull].tolist() == [[3.0]] * 8


def test_ranges_of_the_others_stay_where_they_are() -> None:
    """Section 4.3: only the dead node's ranges get another master."""
    view = make_job(1, servers=4)
    for old, new in zip(rows(view), rows(lose(view, 4).view), strict=True):
        assert old[2] == 4 or new[2] == old[2]


def test_missing_slaves_get_all_pairs_while_the_master_serves() -> None:
    """Section 4.5: pairs and clocks are fetched while the master goes on; then what has changed."""
    group = Group(DENSE, make_view([1, 1], [[2], [2]]))
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(group.kill(2))
    (snapshot,) = group.find(Snapshot)
    # It is on its way; a push and a pull come meanwhile.
    group.push(ALL, 2.0)
    pull = group.pull(ALL)
    group.deliver(*(one for one in group.letters if one is not snapshot and one[1] == 1))
    group.deliver(*(one for one in group.letters if one[1] == CLIENT))
    assert group.finished[pull].tolist() == [[33.0]] * 8
    group.deliver_all()
    group.announce(group.admit())
    assert group.view.copies[0][:, 0].tolist() == [3, 3]
    group.check_copies()


def test_newcomer_that_dies_while_it_fetches_changes_nothing() -> None:
    """Section 4.5: if the newcomer fails in the first stage, the one it fetches from goes on."""
    group = Group(DENSE, make_view([1, 1], [[2], [2]], servers=[1, 2, 3]))
    group.push(ALL, 1.0)
    group.deliver_all()
    group.announce(group.kill(2))
    group.announce(group.kill(3))
    push = group.push(ALL, 2.0)
    group.deliver_all()
    assert push in group.finished
    assert group.values(1, 0) == [33.0] * 4


def test_unanswered_messages_are_sent_again_where_the_range_has_moved_and_only_there() -> None:
    """Section 4.5: who has sent to a range that has moved, and has no reply, sends it again."""
    group = Group(DENSE, make_view([1, 3], [[2], [2]]))
    group.push(ALL, 1.0)
    assert sorted(dest for _, dest, _ in group.find(Push)) == [1, 3]
    view = group.kill(1)
    group.announce(view, CLIENT)
    again = [(dest, message) for _, dest, message in group.find(Push)]
    assert sorted(dest for dest, _ in again) == [2, 3]
    assert group.client.statistics()["repeated_requests"] == 1
    (moved,) = [message for dest, message in again if dest == 2]
    assert isinstance(moved, Push)
    assert [segment for segment, _, _, _ in moved.slices] == [0]


def test_message_is_split_again_where_its_range_has_several_new_masters() -> None:
    """Section 4.2: messages are split by range when the owner of a part has changed."""
    group = Group(DENSE, make_view([1, 1], [[2], [3]]))
    push = group.push(ALL, 1.0)
    ((_, _, whole),) = group.find(Push)
    group.announce(group.kill(1))
    parts = group.find(Push)
    assert [dest for _, dest, _ in parts] == [2, 3]
    assert isinstance(whole, Push)
    for (_, _, part), expected in zip(parts, whole.slices, strict=True):
        assert isinstance(part, Push)
        # The number is the message's: whoever has had a part of it does not take that again.
        assert (part.number, part.clock, part.slices) == (whole.number, whole.clock, [expected])
    group.deliver_all()
    assert push in group.finished


def test_data_sent_to_the_old_and_to_the_new_master_count_once() -> None:
    """Section 4.5 with 4.1: duplicates are rejected by the numbers that have moved along."""
    group = make_group(copies=1)
    push = group.push(ALL, 5.0)
    group.deliver(*group.find(Push))
    # The old master's copy arrives, its ack never does.
    group.deliver(*group.find(Replicate))
    group.announce(group.kill(1, keep=False))
    assert len(group.find(Push)) == 1
    group.deliver_all()
    assert push in group.finished
    assert group.values(2, 0) == [5.0] * 4


def test_all_slaves_are_there_again_after_each_death_in_turn() -> None:
    """Section 4.5: a new node is tasked with what a dead one had, again and again."""
    view = make_job(2, servers=6, hosts=6)
    for dead in (3, 4, 5):
        view = join_all(lose(view, dead).view)
        assert all(len(copies) == 2 for _, _, _, copies, _ in rows(view))
    assert set(real(view.owners[0].tolist())) <= {6, 7, 8}
    # With three servers and two copies each, one more death leaves one copy fewer.
    assert all(len(copies) == 1 for _, _, _, copies, _ in rows(lose(view, 6).view))


# -- 4.5 Worker management -------------------------------------------------------------------------


@pytest.mark.parametrize("policy", WORKER_POLICIES)
def test_user_chooses_what_becomes_of_a_dead_worker_s_part(policy: str) -> None:
    """Section 4.5: replace it, or go on without it: its owner chooses."""
    view = make_job(1, servers=2, workers=2, spares=1, logical_workers=4)
    actors = lose(view, 1, policy=policy).view.actors
    expected = {"replace": 5, "spread": 2, "drop": NOBODY}[policy]
    assert actors == (expected, expected, 2, 2)


@pytest.mark.parametrize("moment", [0.015, 0.03])
@pytest.mark.parametrize("node", [1, 3], ids=["server", "worker"])
def test_job_with_a_death_gives_the_result_of_one_thread(node: int, moment: float) -> None:
    """Section 4.5 with 3.4: sequential, with a server or a worker dead on the way, bit for bit."""
    config = job("model.steps=4", "run.spares=1", "replicas=1", servers=2, workers=2, logical=3)
    simulation = Simulation(Ledger, config, 1, Faults(kills=((moment, node),)))
    result = simulation.run()
    assert simulation.dead == {node}
    assert any(arrival.message == NewView.__name__ for arrival in simulation.network.trace)
    assert check_sums(Expected(Settings(steps=4), config), result) == []
