"""A whole job in one process: the same nodes, turned one after the other."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from mpips.config import Config
from mpips.node.app import App, check_model
from mpips.node.console import Console
from mpips.node.folder import RunFolder
from mpips.node.loop import Node, run_together
from mpips.node.member import Member
from mpips.node.resume import find_resume
from mpips.node.scheduler import SchedulerNode
from mpips.node.server import ServerNode
from mpips.node.spare import SpareNode
from mpips.node.worker import WorkerNode
from mpips.transport.base import Transport
from mpips.transport.loop import LoopTransport

MEMBERS: dict[str, Callable[..., Member]] = {
    "server": ServerNode,
    "worker": WorkerNode,
    "spare": SpareNode,
}
"""The node of each role but the scheduler's."""


def make_nodes(
    transports: list[Transport],
    clock: Callable[[], float],
    kind: type[App],
    config: Config,
    folder: RunFolder | None = None,
    console: Console | None = None,
    acceptors: int = 1,
) -> list[Node]:
    """Return the nodes of a job: the scheduler, then servers, workers, and spares.

    With `acceptors` the scheduler may die; in one process nobody does.
    """
    run = config.run
    roles = ["scheduler"] + ["server"] * run.servers + ["worker"] * run.workers
    roles += ["spare"] * run.spares
    resume = find_resume(config, folder.path) if folder is not None else None
    first = SchedulerNode(
        transports[0], clock, kind, config, roles, folder, console, resume, acceptors
    )
    nodes: list[Node] = [first]
    for transport, role in zip(transports[1:], roles[1:], strict=True):
        nodes.append(MEMBERS[role](transport, clock, kind, config))
    return nodes


def stalled_pulls(nodes: Iterable[Node]) -> list[str]:
    """Return, for people, what all pulls that are held back wait for."""
    machines = [node.machine for node in nodes if isinstance(node, ServerNode)]
    return [line for machine in machines if machine for line in machine.stalled(math.inf)]


def run_local(
    kind: type[App],
    config: Config,
    folder: RunFolder | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run a job in this process and return its result.

    Raises:
        MpipsError: whatever ended the job.
    """
    config = check_model(kind, config).sized(max(1, config.run.workers))
    size = 1 + config.run.servers + config.run.workers + config.run.spares
    transports: list[Transport] = list(LoopTransport.world(size))
    nodes = make_nodes(transports, time.monotonic, kind, config, folder, console)
    scheduler = nodes[0]
    assert isinstance(scheduler, SchedulerNode)
    run_together(nodes, lambda: scheduler.give_up(stalled_pulls(nodes)))
    if scheduler.machine.error is not None:
        raise scheduler.machine.error
    return scheduler.result
