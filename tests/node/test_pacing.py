"""A server answers pulls no faster than its answers leave."""

from mpips.config import parse
from mpips.core.load import Load
from mpips.node.app import App
from mpips.node.pacing import BACKLOG_MAX, Pacing
from mpips.node.server import ServerNode
from mpips.transport.loop import LoopTransport
from mpips.wire.messages import Pull
from mpips.wire.slices import Slices

SLOW, OTHER = 1, 2


class Leaving(LoopTransport):
    """A transport to a node that takes what the test says."""

    left = 0

    def backlog(self, dest: int) -> int:
        return self.left if dest == SLOW else 0


def make() -> tuple[Leaving, Pacing]:
    transport = Leaving.world(3)[0]
    return transport, Pacing(transport)


def pull(request: int) -> Pull:
    return Pull(request, 0, Slices(1, []), None)


def test_pull_waits_while_earlier_answers_have_not_left() -> None:
    transport, pacing = make()
    assert not pacing.holds(SLOW, pull(1))
    transport.left = BACKLOG_MAX + 1
    assert pacing.holds(SLOW, pull(2))
    assert list(pacing.release()) == []
    transport.left = BACKLOG_MAX
    assert [(source, one.request) for source, one in pacing.release()] == [(SLOW, 2)]
    assert len(pacing) == 0


def test_slow_node_holds_up_nobody_else() -> None:
    transport, pacing = make()
    transport.left = BACKLOG_MAX + 1
    assert pacing.holds(SLOW, pull(1))
    assert not pacing.holds(OTHER, pull(2))


def test_pulls_are_released_one_answer_at_a_time_and_in_order() -> None:
    transport, pacing = make()
    transport.left = BACKLOG_MAX + 1
    for request in range(4):
        assert pacing.holds(SLOW, pull(request))
    transport.left, released = 0, []
    for _, one in pacing.release():
        released.append(one.request)
        # Each answer is two parts.
        transport.left += 2
    assert released == [0, 1]
    # What comes now is behind those that wait.
    transport.left = -100
    assert pacing.holds(SLOW, pull(4))
    assert [one.request for _, one in pacing.release()] == [2, 3, 4]


class Steps:
    """A machine that notes what it is given."""

    def __init__(self) -> None:
        self.taken: list[int] = []

    def step(self, now: float, source: int, message: Pull) -> list[object]:
        self.taken.append(message.request)
        return []


def test_server_answers_a_pull_that_waited_when_there_is_room() -> None:
    transport, steps = Leaving.world(3)[0], Steps()
    server = ServerNode(transport, lambda: 0.0, App, parse("", "", []).sized(1))
    server.machine, server._load = steps, Load([1])  # type: ignore[assignment]
    server.take(SLOW, pull(1))
    transport.left = BACKLOG_MAX + 1
    server.take(SLOW, pull(2))
    assert (server.work(), steps.taken) == (False, [1])
    transport.left = 0
    assert (server.work(), steps.taken) == (True, [1, 2])
    assert not server.work()
