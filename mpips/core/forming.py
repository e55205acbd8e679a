"""What the nodes of a job say of themselves when they come."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from mpips.core.attendance import Attendance
from mpips.errors import MpipsError
from mpips.wire.messages import Hello
from mpips.wire.types import Member, make_epoch

FORMING_S_MAX: Final = 120.0
"""How long all may take to come, and then to get ready."""

ORDER: Final = ("spare", "scheduler", "server", "worker")
"""Who takes an office first: whoever has the least to do."""


class Forming:
    """The time until a job runs: who has come, and how long the others may take.

    Args:
        nodes: of the job.
    """

    def __init__(self, nodes: Attendance) -> None:
        self._nodes = nodes
        self._deadline: float | None = None

    def take(self, source: int, hello: Hello) -> bool:
        """Note who has come, and return whether all are here."""
        nodes = self._nodes
        assert hello.role == nodes.expected[source], (source, hello.role)
        nodes.hellos[source] = hello
        return nodes.are_all(nodes.hellos)

    def start(self, now: float) -> None:
        """Wait for all to get ready."""
        self._deadline = now + FORMING_S_MAX

    def find_late(self, now: float, state: str) -> MpipsError | None:
        """Return the error that ends a job for which somebody has not come, or got ready, in time.

        Args:
            now: seconds that never go back.
            state: of the job.
        """
        if self._deadline is None:
            self.start(now)
        if self._deadline is None or now < self._deadline:
            return None
        missing, seconds = ", ".join(self._nodes.waiting_for(state)), f"{FORMING_S_MAX:g} s"
        what = f"{missing} did not answer within {seconds} of the start"
        return MpipsError(what, f"The job was {state}.")


def agree_on_facts(hellos: Mapping[int, Hello]) -> dict[str, Any]:
    """Return the facts of the data that the nodes see.

    Raises:
        MpipsError: they see different data.
    """
    facts: dict[str, Any] = {}
    for node, other in sorted(hellos.items()):
        for name, value in other.facts.items():
            if facts.setdefault(name, value) != value:
                what = f"node {node} sees {name} = {value}, another sees {facts[name]}"
                where = f"Node {node} runs on {other.host}."
                remedy = "All hosts must see the same files: use a shared file system."
                raise MpipsError(what, where, remedy)
    return facts


def first_members(scheduler: int, host: str, hellos: Mapping[int, Hello]) -> list[Member]:
    """Return all nodes as members of the first view: the scheduler, and who has come."""
    epoch = make_epoch(1, scheduler)
    others = [Member(node, hello.role, hello.host, epoch) for node, hello in hellos.items()]
    return [Member(scheduler, "scheduler", host, epoch), *others]


def choose_acceptors(
    members: Sequence[Member], scheduler: int, before: Sequence[int], most: int
) -> tuple[int, ...]:
    """Return the nodes that store decisions, in the order in which they follow the scheduler.

    There are five, so that two may die at once, or three, or the scheduler alone. Workers compute
    and answer late; so there are no more than three if a majority of five needed one of them.

    Args:
        members: of the view.
        scheduler: one of them.
        before: the acceptors of the view before; those that are left have the log already.
        most: at most so many.

    >>> roles = ["scheduler", "worker", "worker", "server", "server", "spare"]
    >>> nodes = [Member(node, role, "h", 1) for node, role in enumerate(roles)]
    >>> choose_acceptors(nodes, 0, (), 5), choose_acceptors(nodes[:4], 0, (), 5)
    ((0, 5, 3, 4, 1), (0, 3, 1))
    >>> choose_acceptors(nodes[:2], 0, (), 5)
    (0,)
    """
    quick = sum(member.role != "worker" for member in members)
    wanted = min(most, 5 if len(members) >= 5 and quick >= 3 else 3 if len(members) >= 3 else 1)
    hosts: set[str] = set()
    ranked = []
    for member in sorted(members, key=lambda m: (m.node != scheduler, ORDER.index(m.role))):
        # Hosts that have one already come later, but before workers.
        is_alone = member.host not in hosts
        hosts.add(member.host)
        key = (member.node != scheduler, member.node not in before, member.role == "worker",
               not is_alone, ORDER.index(member.role), member.node)  # fmt: skip
        ranked.append((key, member))
    chosen = [member for _, member in sorted(ranked, key=lambda one: one[0])[:wanted]]
    # Who follows first shall have the least to do besides.
    chosen.sort(key=lambda m: (m.node != scheduler, ORDER.index(m.role), m.node))
    return tuple(member.node for member in chosen)
