"""A spare: waits until it is needed, and then takes a role."""

from typing import Any, final

from mpips.node.member import Member
from mpips.wire.messages import Call, Drop, Message
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
        """Do nothing: there is nothing to do yet."""

    def call(self, call: Call) -> None:
        """Refuse: no task is for spares."""
        raise AssertionError(f"a call of {call.function} for a spare")

    def take(self, source: int, message: Message) -> None:
        """Refuse: nobody asks a spare for anything, but a worker's call may be called off late.

        What comes late for a role that it has had is nobody's: others do that work anew.
        """
        is_late = isinstance(message, Drop) or self.has_served
        assert is_late, f"a {type(message).__name__} from {source} for a spare"

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}
