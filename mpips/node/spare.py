"""A spare: waits until somebody has died, and then takes a role."""

from typing import Any, final

from mpips.node.member import Member
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.wire.messages import Call, Message
from mpips.wire.types import View


@final
class SpareNode(Member):
    """A node without a part in the job, for now."""

    role = "spare"

    def know(self) -> dict[str, Any]:
        """Return nothing: a spare does not read the data yet."""
        return {}

    def prepare(self, view: View) -> None:
        """Do nothing until there is something to do."""

    def install(self, view: View) -> None:
        """Become what the view says."""
        member = view.member(self.transport.node)
        assert member is not None
        if member.role == "spare":
            return
        make = ServerNode if member.role == "server" else WorkerNode
        node = make(self.transport, self.clock, self.kind, self.config)
        node.pulse, node.reach = self.pulse, self.reach
        node.enter(view, dict(self.job.facts))
        self.successor = node

    def call(self, call: Call) -> None:
        """Refuse: no task is for spares."""
        raise AssertionError(f"a call of {call.function} for a spare")

    def take(self, source: int, message: Message) -> None:
        """Refuse: nobody asks a spare for anything."""
        raise AssertionError(f"a {type(message).__name__} from node {source} for a spare")

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}
