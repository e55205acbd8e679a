"""What a log of decisions tells a scheduler that takes over: where the job is."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mpips.wire.types import View
from mpips.wire.voting import Begun, Changed, Done, Entry, Over


@dataclass
class Past:
    """The decisions of a job so far.

    Attributes:
        begun: how it has begun.
        view: the newest.
        done: the tasks of the plan that are finished, in order, without those of a run before.
        over: that the job stops, if it does.
        orders: the answers to the user's orders that are decided, by the orders' names.
    """

    begun: Begun
    view: View
    done: list[Done] = field(default_factory=list)
    over: Over | None = None
    orders: dict[str, str] = field(default_factory=dict)

    @property
    def dead(self) -> set[int]:
        """Return the nodes that views have left behind."""
        left = {member.node for member in self.view.members}
        return {member.node for member in self.begun.view.members} - left


def read_log(log: Sequence[Entry]) -> Past | None:
    """Return what a log tells; None if the job has not begun."""
    if not log:
        return None
    begun = log[0]
    assert isinstance(begun, Begun), "the first decision is that the job runs"
    past = Past(begun, begun.view)
    for entry in log:
        match entry:
            case Changed(view=view, order=order, answer=answer):
                assert view.epoch > past.view.epoch, "views strictly increase"
                past.view = view
                past.orders.update({order: answer} if order else {})
            case Done():
                past.done.append(entry)
            case Over():
                past.over = past.over or entry
    return past
