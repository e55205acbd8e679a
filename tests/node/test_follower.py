"""A member that is elected takes over, or ends if it cannot, and never tries again and again."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from mpips.core.acceptor import Acceptor
from mpips.core.leader import Leader
from mpips.core.machine import Effect
from mpips.core.membership import first_view
from mpips.core.task import Plan
from mpips.errors import AppError, FileError, RanksLostError
from mpips.node.app import Job
from mpips.node.loop import Node
from mpips.node.member import Member as MemberNode
from mpips.node.scheduler import SchedulerNode, make_office
from mpips.node.server import ServerNode
from mpips.node.spare import SpareNode
from mpips.node.worker import WorkerNode
from mpips.testing.cluster import Simulation
from mpips.testing.faults import Faults
from mpips.testing.ledger import Ledger
from mpips.transport.loop import LoopTransport
from mpips.wire.messages import Ready
from mpips.wire.types import Member, make_epoch
from mpips.wire.voting import Begun
from tests.core.votes import view_of
from tests.sim.jobs import job

CONFIG = job("replicas=1", "run.spares=1", "recovery.silence_s=0.5")
SCHEDULER_DIES = Faults(delay_s=0.002, heal_s=5.0, after_begin=True, kills=((0.02, 0),))


def worker(**facts: Any) -> WorkerNode:
    """Return a worker's node."""
    node = WorkerNode(LoopTransport.world(3)[2], lambda: 1.0, Ledger, CONFIG)
    node.job = Job(CONFIG, facts)
    return node


def leader_for(*members: int) -> Leader:
    """Return a leader whose log names some members in its view."""
    view = view_of(1, 0, (0, 1, 2))
    there = tuple(Member(node, "worker", "h", view.epoch) for node in members)
    begun = Begun(msgspec.structs.replace(view, members=there), {}, [])
    return Leader(2, make_epoch(2, 2), Acceptor(), [begun], 1)


def test_who_was_left_behind_gives_way_when_it_is_elected() -> None:
    node = worker()
    node._take_over(leader_for(0, 1), 0.5)
    assert node.office is None
    assert (node.is_fenced, node.exit_code) == (True, RanksLostError.exit_code)


def test_who_cannot_go_on_with_the_run_folder_says_so_once(tmp_path: Path) -> None:
    node = worker(folder=str(tmp_path / "nowhere"))
    with pytest.raises(RanksLostError, match="nobody can take over"):
        node._take_over(leader_for(0, 1, 2), 0.5)
    assert node.exit_code is None


def test_office_takes_over_the_member_s_orders_but_not_where_its_frames_are_received(
    tmp_path: Path,
) -> None:
    (tmp_path / "ctl").mkdir(mode=0o700)
    (tmp_path / "ctl" / "one.order").touch(0o600)
    node = worker(folder=str(tmp_path))
    office = make_office(node)
    assert office._folder is not None
    office._folder.finish({})
    assert node.transport.place == node.place
    assert (tmp_path / "ctl" / "one.order").exists()


def test_who_has_stopped_has_stopped_in_every_role() -> None:
    node = SpareNode(LoopTransport.world(3)[2], lambda: 1.0, Ledger, CONFIG)
    epoch = make_epoch(1, 0)
    members = [Member(at, role, "h", epoch) for at, role in enumerate(("server", "worker"))]
    tables = [table.cut(1) for table in Ledger(node.job).tables()]
    view = first_view(epoch, [*members, Member(2, "server", "h", epoch)], tables, 2, 0)
    node._stop(0, 0, stays=True)
    node._succeed(view, "server")
    assert isinstance(node.successor, ServerNode)
    assert node.successor.has_stopped


class Fickle(Ledger):
    """An app whose plan cannot be run a second time."""

    plans = 0

    def plan(self) -> Plan:
        """Fail where another scheduler has run it."""
        type(self).plans += 1
        if self.plans > 1:
            raise ZeroDivisionError("not again")
        return super().plan()


@pytest.mark.timeout(60)
def test_plan_that_fails_at_the_next_scheduler_ends_the_job(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Fickle, "plans", 0)
    simulation = Simulation(Fickle, CONFIG, 1, SCHEDULER_DIES)
    with pytest.raises(AppError, match="not again"):
        simulation.run()
    assert simulation.network.now < 5.0
    nodes = enumerate(simulation.nodes)
    left = [one for at, one in nodes if at not in simulation.dead and isinstance(one, MemberNode)]
    assert len(left) == len(simulation.nodes) - 1
    assert all(one.exit_code is not None or one.has_stopped for one in left)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("dead", [0, 3])
def test_report_that_cannot_be_written_keeps_nothing_from_being_decided(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def report(self: SchedulerNode, kind: str, facts: dict[str, Any]) -> None:
        if kind == "lost":
            raise FileError("the disk is full")

    monkeypatch.setattr(SchedulerNode, "_report", report)
    faults = Faults(delay_s=0.002, heal_s=5.0, after_begin=True, kills=((0.02, dead),))
    simulation = Simulation(Ledger, CONFIG, 1, faults)
    with pytest.raises(FileError, match="disk is full"):
        simulation.run()
    assert simulation.network.now < 5.0


class Caterpillar(Node):
    """Becomes another node when a message comes."""

    ticks = 0

    def receive(self, source: int, message: Any) -> None:
        """Go on as another object."""
        self.successor = Caterpillar(self.transport, self.clock)

    def perform(self, effect: Effect) -> None:
        """Note nothing."""

    def tick(self, now: float) -> None:
        """Count."""
        self.ticks += 1


def test_who_goes_on_as_another_node_does_nothing_beside_that_one() -> None:
    one, other = LoopTransport.world(2)
    node = Caterpillar(other, lambda: 1.0)
    Caterpillar(one, lambda: 1.0).send(1, Ready())
    assert node.turn()
    assert node.successor is not None
    assert node.ticks == 0
    node.successor.turn()
    assert isinstance(node.successor, Caterpillar)
    assert node.successor.ticks == 1


def test_who_changes_twice_in_a_turn_takes_the_rest_as_the_last_one() -> None:
    one, other = LoopTransport.world(2)
    node, sender = Caterpillar(other, lambda: 1.0), Caterpillar(one, lambda: 1.0)
    for _ in range(3):
        sender.send(1, Ready())
    node.turn()
    first = node.successor
    assert first is not None
    second = first.successor
    assert second is not None
    assert node.latest is second.successor
