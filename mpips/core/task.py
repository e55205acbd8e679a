"""The scheduler's tasks, and the plan that an app gives it."""

from collections.abc import Generator
from typing import Any, Final

import msgspec

from mpips.core.machine import Report

ROLES: Final = ("worker", "server")
"""The roles of nodes that can be called."""


def parse_group(group: str) -> tuple[str, int | None]:
    """Return the role of the nodes of a group, and the id of the node if it is a single one.

    Raises:
        ValueError: there is no such group.

    >>> parse_group("workers"), parse_group("server 2")
    (('worker', None), ('server', 2))
    """
    role, _, node = str(group).partition(" ")
    if role in ROLES and node.isdecimal():
        return role, int(node)
    if role.removesuffix("s") not in ROLES or role in ROLES or node:
        what = f"there is no group {group!r} to be called"
        raise ValueError(f'{what}: there are "servers", "workers", and nodes such as "server 2"')
    return role.removesuffix("s"), None


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """A function of the app that a group of nodes shall run (OSDI 2014, section 3.2).

    Attributes:
        group: "workers": once for each logical worker; "servers": once on each server; "server 2"
            or "worker 5": on this node, there for each logical worker that it acts for; workers
            know the names (`Worker.nodes`). If it has died, on the next one of its role.
        function: name of the app's method.
        arguments: its keyword arguments, the same for all; arrays may be among them.
        only: the one logical worker that runs it; None: all.
        reissue_s: after how many seconds the part of a logical worker that has not answered is
            given to another node too, and whoever answers first counts; None: never.
    """

    group: str
    function: str
    arguments: dict[str, Any] = {}
    only: int | None = None
    reissue_s: float | None = None

    def __post_init__(self) -> None:
        parse_group(self.group)
        assert self.only is None or self.group == "workers", "one logical worker, not one server"


class SetDelay(msgspec.Struct, frozen=True):
    """Change how stale the values of a bounded table may be, from the plan's next task on.

    It holds for all logical workers, whoever acts for them.

    Attributes:
        table: its name.
        max_delay: tau; see `mpips.Table`.
    """

    table: str
    max_delay: int


Plan = Generator[Task | Report | SetDelay, Any, dict[str, Any]]
"""The scheduler's half of an app.

It yields a `Task` and is sent the list of results, in the order of logical workers (or of server
nodes), or it yields a `Report` for the user, or a `SetDelay`; what it returns is the summary of the
run. It must be deterministic: the same results give the same tasks.
"""
