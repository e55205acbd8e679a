"""Whom a call is for: the nodes of a group, or a single one and whoever comes after it."""

from mpips.core.task import parse_group
from mpips.wire.types import NOBODY, View, make_epoch


class Targets:
    """Finds the nodes of a group in a view, or a single one by its name, such as "server 2".

    A node that has died, or has become a spare, is no error, since nobody can know of it in time:
    the next one of its role is as good, in the order of ids, the first coming after the last.
    """

    def __init__(self) -> None:
        self._last = 0

    def know(self, view: View) -> None:
        """Note which ids there are."""
        self._last = max(self._last, *(member.node for member in view.members))

    def find(self, group: str, view: View) -> tuple[str, list[int]]:
        """Return the role of those who are called, and their nodes, ascending.

        Workers are those that act for somebody.

        Raises:
            ValueError: there is no such group, or there never was such a node.
        """
        self.know(view)
        role, node = parse_group(group)
        acting = sorted(set(view.actors) - {NOBODY})
        nodes = acting if role == "worker" else view.nodes("server")
        if node is None:
            return role, nodes
        member = view.member(node)
        # Whoever has had another role since the job began never had this one.
        is_first = member is not None and member.incarnation < make_epoch(2, 0)
        is_other = is_first and member is not None and member.role != role
        if not 0 < node <= self._last or is_other:
            there = f"servers {view.nodes('server')}, workers {acting}"
            raise ValueError(f"there is no {group} to be called: there are {there}")
        return role, [next((other for other in nodes if other >= node), nodes[0])]
