"""A whole job in one process and virtual time, from a seed."""

from typing import Any, Final

import numpy as np

from mpips.config import Config
from mpips.core.machine import Machine
from mpips.errors import ProtocolError
from mpips.node.app import App, check_model
from mpips.node.local import make_nodes
from mpips.node.loop import Node
from mpips.node.scheduler import SchedulerNode
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.testing.network import Network

STEP_S: Final = 0.05
SILENCE_S_MAX: Final = 300.0


class Simulation:
    """The nodes of a job on a simulated network; they are the same ones as over MPI.

    Args:
        kind: the app.
        config: the effective config.
        seed: of delays and of the order in which nodes get their turn.
    """

    def __init__(self, kind: type[App], config: Config, seed: int) -> None:
        check_model(kind, config)
        config = config.sized(max(1, config.run.workers))
        self._random = np.random.default_rng(seed)
        self.network = Network(1 + config.run.servers + config.run.workers, self._random)
        transports = self.network.transports()
        self.nodes = make_nodes(transports, self.network.clock, kind, config)

    @property
    def scheduler(self) -> SchedulerNode:
        """Return the scheduler's node."""
        first = self.nodes[0]
        assert isinstance(first, SchedulerNode)
        return first

    def run(self) -> dict[str, Any]:
        """Run the job to its end, all machines validated after every turn.

        Returns:
            The result, as result.json has it.

        Raises:
            ProtocolError: nothing happens any more, but the job has not ended.
            MpipsError: whatever ended the job.
        """
        heard = next_turn = 0.0
        while self.scheduler.exit_code is None:
            # Everybody sees the time pass now and then, in an order of chance.
            if self.network.now >= next_turn:
                next_turn = self.network.now + STEP_S
                for node in self._random.permutation(len(self.nodes)).tolist():
                    self._turn(self.nodes[node])
            dest = self.network.advance(next_turn)
            if dest is not None:
                heard = self.network.now
                self._turn(self.nodes[dest])
            elif self.network.now - heard > SILENCE_S_MAX:
                waiting = ", ".join(self.scheduler.machine.waiting_for())
                raise ProtocolError(f"the simulated job stands still, waiting for {waiting}")
        if self.scheduler.machine.error is not None:
            raise self.scheduler.machine.error
        return self.scheduler.result

    def _turn(self, node: Node) -> None:
        """Let a node do all that it can, and check its machine."""
        while node.exit_code is None and node.turn():
            pass
        machine = machine_of(node)
        if machine is not None:
            machine.validate()


def machine_of(node: Node) -> Machine | None:
    """Return the machine of a node; None if it has none yet."""
    match node:
        case SchedulerNode() | ServerNode():
            return node.machine
        case WorkerNode():
            return node.client
    raise TypeError(node)
