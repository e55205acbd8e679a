"""A whole job in one process and virtual time, with faults, all from a seed."""

import heapq
import math
from typing import Any, Final

import numpy as np

from mpips.config import Config
from mpips.core.machine import Machine
from mpips.core.moving import Move
from mpips.errors import ProtocolError, RanksLostError, UsageError
from mpips.node.app import App, check_model
from mpips.node.folder import RunFolder
from mpips.node.local import make_nodes, stalled_pulls
from mpips.node.loop import Node
from mpips.node.member import Member
from mpips.node.scheduler import ACCEPTORS_MAX, SchedulerNode
from mpips.node.server import ServerNode
from mpips.node.spare import SpareNode
from mpips.node.worker import WorkerNode
from mpips.testing.faults import CALM, Faults
from mpips.testing.network import Network

STEP_S: Final = 0.05
STEP_S_OF_SLEEPERS: Final = 1.0
SILENCE_S_MAX: Final = 300.0
STORY_LINES: Final = 5

# What comes as long as nodes live, whether the job gets on or not.
BEATS: Final = ("Beat", "Propose", "Accepted")

# What machines count of those who wait.
WAITING: Final = ("open_tasks", "open_requests", "waiting")


class Simulation:
    """The nodes of a job on a simulated network; they are the same ones as over MPI.

    Until `faults.heal_s` there are faults; after it there are none, and the job has to end. Who is
    killed stays dead.

    Args:
        kind: the app.
        config: the effective config.
        seed: of delays and of the order in which nodes get their turn.
        faults: what goes wrong.
        folder: of the run; None: nothing is written.

    Attributes:
        refusals: of orders, by their names.
        pauses: how often a node was given no turn for a while.
        is_healed: whether there are no faults any more.
        dead: the nodes that were killed.
    """

    def __init__(
        self,
        kind: type[App],
        config: Config,
        seed: int,
        faults: Faults = CALM,
        folder: RunFolder | None = None,
    ) -> None:
        check_model(kind, config)
        config = config.sized(max(1, config.run.workers))
        self._random = np.random.default_rng(seed)
        self._faults = faults
        size = 1 + config.run.servers + config.run.workers + config.run.spares
        self.network = Network(size, self._random, faults)
        self.nodes = make_nodes(
            self.network.transports(), self.network.clock, kind, config, folder,
            acceptors=ACCEPTORS_MAX,
        )  # fmt: skip
        self._is_over = False
        self.pauses = 0
        self.is_healed = faults == CALM
        self.dead: set[int] = set()
        # Reversed: the next one is the last.
        self._kills = sorted(faults.kills, reverse=True)
        self._killable: dict[int, bool] = {}
        self._stops = sorted(faults.stops, reverse=True)
        self._cuts = sorted(faults.isolations, reverse=True)
        self._orders = sorted(faults.orders, reverse=True)
        self._transfers = sorted(faults.transfers, reverse=True)
        self.refusals: dict[str, str] = {}
        self._given = 0
        self._has_begun = not faults.after_begin
        for number, node in enumerate(self.nodes):
            if isinstance(node, Member | SchedulerNode):
                node.pulse = _SimulatedPulse(self, number)
        # By node: when it may act again. The heap has the nodes that have something left to do.
        self._free = [0.0] * size
        self._wakes: list[tuple[float, int]] = []
        # By node: the time in the heap at which it is due by itself.
        self._due = [math.inf] * size

    @property
    def scheduler(self) -> SchedulerNode:
        """Return the scheduler, or whoever has followed it last."""
        found = {at: one for at, node in enumerate(self.nodes) if (one := office_of(node))}
        alive = [one for at, one in found.items() if at not in self.dead and not one.is_fenced]
        # Who was cut off at the stop may have ended the job all the same.
        ended = [one for one in alive if one.result]
        return max(ended or alive or found.values(), key=lambda one: one.machine.ballot)

    def run(self, deadline_s: float = SILENCE_S_MAX) -> dict[str, Any]:
        """Run the job to its end, all machines validated after every turn.

        Args:
            deadline_s: how long nothing may arrive, once everything is healed.

        Returns:
            The result, as result.json has it.

        Raises:
            ProtocolError: nothing happens any more, but the job has not ended.
            MpipsError: whatever ended the job.
        """
        network, heard, next_round = self.network, 0.0, 0.0
        while not self._is_over:
            # Everybody sees the time pass now and then, in an order of chance.
            if network.now >= next_round:
                # Sleepers get their turn in time, and may sleep long: the others see it less often.
                has_sleepers = self.is_healed and self._wakes
                next_round = network.now + (STEP_S_OF_SLEEPERS if has_sleepers else STEP_S)
                self._begin_round()
            until = min(next_round, self._wakes[0][0]) if self._wakes else next_round
            mishaps_of_all = (self._kills, self._stops, self._cuts, self._orders, self._transfers)
            for mishaps in mishaps_of_all:
                if mishaps and self._has_begun:
                    until = min(until, max(network.now, mishaps[-1][0]))
            dest = network.advance(until)
            # Nodes beat for as long as they live, whether the job gets on or not.
            is_beat = dest is not None and network.trace[-1].message in BEATS
            if dest is None and self._wakes and self._wakes[0][0] <= network.now:
                _, dest = heapq.heappop(self._wakes)
            self._let_mishaps_happen()
            if dest is not None:
                self._turn(dest)
            if dest is not None and not is_beat:
                heard = network.now
            elif self.is_healed and not self._wakes and network.now - heard > deadline_s:
                lines = stalled_pulls(self.nodes) + self.story()
                raise ProtocolError(self._tell_who_waits(), "\n".join(lines))
        if self.scheduler.machine.error is not None:
            raise self.scheduler.machine.error
        if not self.scheduler.result:
            raise RanksLostError("the job has ended without a result", "\n".join(self.story()))
        return self.scheduler.result

    def story(self, node: int | None = None) -> list[str]:
        """Return what the machines of all nodes, or of one, wait for and tell."""
        lines = []
        for number, at in enumerate(self.nodes):
            machine = machine_of(at)
            if machine is None or node not in (None, number):
                continue
            counts = machine.statistics()
            waits = [
                f"{counts[name]} {name.replace('_', ' ')}" for name in WAITING if counts.get(name)
            ]
            if isinstance(at, SchedulerNode) and at.exit_code is None:
                waits.append(f"{at.machine.state}, waits for {', '.join(at.machine.waiting_for())}")
            told = machine.story()[-STORY_LINES:]
            lines += [f"{self.name(number)}: {line}" for line in (*waits, *told)]
        return lines

    def name(self, node: int) -> str:
        """Return what people call a node."""
        return getattr(self.nodes[node], "role", "scheduler") + f" {node}"

    def _tell_who_waits(self) -> str:
        waiting = ", ".join(self.scheduler.machine.waiting_for())
        return f"the simulated job stands still, waiting for {waiting}"

    def _begin_round(self) -> None:
        """Heal, or let some nodes pause, and give all others a turn."""
        now, random = self.network.now, self._random
        for node in self.network.overdue():
            self.kill(node)
        if not self.is_healed and now >= self._faults.heal_s:
            self._heal()
        for node in random.permutation(len(self.nodes)).tolist():
            if not self.is_healed and random.random() < self._faults.pauses:
                self.pauses += 1
                self._sleep(node, random.exponential(self._faults.pause_s))
            self._turn(node)

    def _let_mishaps_happen(self) -> None:
        """Let nodes die or stop whose time has come; it may count from when the job begins."""
        now = self.network.now
        if not self._has_begun:
            if not self.scheduler.machine.is_begun:
                return
            self._has_begun = True
            self._kills = [(now + at, node) for at, node in self._kills]
            self._stops = [(now + at, node, seconds) for at, node, seconds in self._stops]
            self._cuts = [(now + at, node, seconds) for at, node, seconds in self._cuts]
            self._orders = [(now + at, name, node) for at, name, node in self._orders]
            self._transfers = [(now + at, t, s, node) for at, t, s, node in self._transfers]
        if self._kills and self._kills[-1][0] <= now:
            self.kill(self._kills.pop()[1])
        if self._stops and self._stops[-1][0] <= now:
            _, node, seconds = self._stops.pop()
            if not self.is_healed:
                self._sleep(node, seconds)
        if self._cuts and self._cuts[-1][0] <= now:
            _, node, seconds = self._cuts.pop()
            if not self.is_healed:
                self.network.isolate(node, seconds)
        if self._orders and self._orders[-1][0] <= now:
            self._give_order(*self._orders.pop()[1:])
        if self._transfers and self._transfers[-1][0] <= now:
            self.scheduler.machine.steering.wish(Move(*self._transfers.pop()[1:]))

    def _give_order(self, command: str, node: int) -> None:
        """Order something; where it cannot be followed, nothing happens."""
        self._given += 1
        name = str(self._given)
        try:
            self.scheduler.order(name, command, None if node < 0 else node)
        except UsageError as error:
            self.refusals[name] = str(error)

    def kill(self, node: int) -> None:
        """Let a node die, wherever it is."""
        if self.nodes[node].exit_code is None and node not in self.dead:
            self.dead.add(node)
            self.network.kill(node)
            self._is_over = self._is_over or self._is_deserted()

    def is_awake(self, node: int) -> bool:
        """Return whether a node neither is dead nor has stopped."""
        return node not in self.dead and self._free[node] <= self.network.now

    def try_to_kill(self, node: int) -> bool:
        """Let a node die if its mates manage to, and return whether they have."""
        if node not in self._killable:
            self._killable[node] = bool(self._random.random() < self._faults.kill_works)
        if works := self._killable[node]:
            self.kill(node)
        return works

    def _heal(self) -> None:
        """End all faults; what still flies arrives when it would."""
        self.is_healed, self.network.faults = True, CALM
        self._free = [0.0] * len(self.nodes)

    def _sleep(self, node: int, seconds: float) -> None:
        """Give a node no turn for a while, then one."""
        self._free[node] = max(self._free[node], self.network.now) + seconds
        heapq.heappush(self._wakes, (self._free[node], node))

    def _turn(self, number: int) -> None:
        """Let a node do all that it can, unless it sleeps, and check its machine."""
        node = self.nodes[number]
        is_over = node.exit_code is not None or number in self.dead
        is_over = is_over or self.network.is_blocked(number)
        if is_over or self._free[number] > self.network.now:
            return
        cost = 0.0 if self.is_healed else self._faults.stragglers.get(number, 0.0)
        while node.exit_code is None and node.turn() and not self.network.is_blocked(number):
            node = self.nodes[number] = node.latest
            if cost:
                self._sleep(number, cost)
                break
        # Who sleeps gets a turn at the very time.
        if node.exit_code is None and node.due not in (math.inf, self._due[number]):
            self._due[number] = node.due
            heapq.heappush(self._wakes, (node.due, number))
        machine = machine_of(node)
        if machine is not None:
            machine.validate()
        self._is_over = self._is_over or self._has_ended(number)

    def _has_ended(self, number: int) -> bool:
        """Return whether the job is over, since a node has left: mpirun ends the others then."""
        node = self.nodes[number]
        if node.exit_code is None:
            return False
        # Who is fenced kills itself, and the others go on.
        if node.is_fenced:
            self.dead.add(number)
        self.network.leave(number)
        is_last = not node.is_fenced and bool(node.exit_code or office_of(node))
        return is_last or self._is_deserted()

    def _is_deserted(self) -> bool:
        """Return whether nobody is there any more."""
        left = [one for at, one in enumerate(self.nodes) if at not in self.dead]
        return all(one.exit_code is not None for one in left)


class _SimulatedPulse:
    """Sees which nodes are awake."""

    def __init__(self, simulation: Simulation, node: int) -> None:
        self._simulation, self._node = simulation, node

    def moved(self) -> list[int]:
        """Return the nodes that are awake, as if all shared one host."""
        nodes = range(len(self._simulation.nodes))
        return [node for node in nodes if self._simulation.is_awake(node)]

    def kill(self, node: int) -> bool:
        """Try to kill a node."""
        return self._simulation.try_to_kill(node)

    def remove(self) -> None:
        """Leave nothing behind."""


def office_of(node: Node) -> SchedulerNode | None:
    """Return the scheduler that a node is, or that is on it."""
    if isinstance(node, SchedulerNode):
        return node
    return node.office if isinstance(node, Member) else None


def machine_of(node: Node) -> Machine | None:
    """Return the machine of a node; None if it has none yet."""
    match node:
        case SchedulerNode() | ServerNode():
            return node.machine
        case WorkerNode():
            return node.client
        case SpareNode():
            return None
    raise TypeError(node)
