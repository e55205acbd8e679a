"""A cluster that loses nodes: real machines, views that follow, each message one to three times.

There is no scheduler's machine and no time. Views come from `membership`, and are messages as all
others: they come late, in any order, or after the next one. Who dies may have sent what comes
afterwards, and who is left behind goes on until it sees the view without it.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Finished, Send
from mpips.core.membership import admit, fail_over, first_view, reassign
from mpips.core.server import ServerMachine
from mpips.filters.chain import FilterChain
from mpips.store.table import make_store
from mpips.wire.frame import Codec
from mpips.wire.messages import Joined, Message, Pull, Push
from mpips.wire.types import NOBODY, KeyArray, Member, Table, View, make_epoch
from tests.core.world import Violation

SCHEDULER: Final = 0
COPIES_MAX: Final = 3
NEVER: Final = 2**62


@dataclass(frozen=True)
class Sizes:
    """How many of everything a cluster has, and how bad it is to it.

    Attributes:
        late: the chance that a copy of a message waits until a later view, or the end.
        frames: whether messages travel as bytes, through a filter chain.
        mishaps: how many nodes die or are left behind.
        stale: how many of every ten of them are left behind: they go on for a while.
    """

    streams: int
    clients: int
    servers: int
    spares: int
    replicas: int
    policy: str
    late: float
    frames: bool
    mishaps: int
    stale: int


def draw_sizes(rng: np.random.Generator) -> Sizes:
    """Return a small cluster's sizes."""
    streams = int(rng.integers(1, 4))
    return Sizes(
        streams=streams,
        clients=int(rng.integers(1, 4)),
        servers=int(rng.integers(2, 5)),
        spares=int(rng.integers(0, 3)),
        replicas=int(rng.integers(1, 3)),
        policy=str(rng.choice(["replace", "spread"])),
        late=float(rng.choice([0.0, 0.2, 0.5])),
        frames=bool(rng.random() < 0.5),
        mishaps=int(rng.integers(1, 4)),
        stale=int(rng.choice([0, 3])),
    )


@dataclass
class Site:
    """A node: its machine, if it has one by now, its view, and what came from later views."""

    node: int
    machine: ServerMachine | ClientMachine | None = None
    epoch: int = 0
    members: dict[int, int] = field(default_factory=dict)
    later: list[tuple[int, Message]] = field(default_factory=list)


@dataclass
class Cluster:
    """One table on servers with copies, clients, spares, and a pool of messages.

    Attributes:
        view: the newest; nodes may have older ones.
        on_finish: called with node, timestamp and result of each task that is finished.
        counts: what happened, by name.
        has_stale: whether a server was left behind that may have answered since.
    """

    rng: np.random.Generator
    table: Table
    sizes: Sizes
    server: type[ServerMachine] = ServerMachine
    client: type[ClientMachine] = ClientMachine
    on_finish: Callable[[int, int, Any], None] = lambda node, timestamp, result: None
    counts: Counter[str] = field(default_factory=Counter)
    has_stale: bool = False

    def __post_init__(self) -> None:
        sizes, first = self.sizes, make_epoch(1, 0)
        roles = ["scheduler", *["server"] * sizes.servers, *["worker"] * sizes.clients]
        roles += ["spare"] * sizes.spares
        members = [Member(node, role, "", first) for node, role in enumerate(roles)]
        self.view = first_view(first, members, [self.table], sizes.streams, sizes.replicas)
        self.sites = {node: Site(node) for node in range(1, len(roles))}
        update = make_store(self.table).update
        self.widths = [(update.push_width, update.pull_width)]
        # Source, dest, message, and how often it will still come.
        self.pool: list[tuple[int, int, Message | View, int]] = []
        self.late: list[tuple[int, int, Message | View, int]] = []
        self.joins: dict[tuple[int, int], set[int]] = {}
        self._chain, self._codec = FilterChain(["lz4"]), Codec()
        for site in self.sites.values():
            self._enter(site, self.view)

    # -- What a schedule does --------------------------------------------------------------------

    def clients(self) -> dict[int, ClientMachine]:
        """Return the clients that are there, by node."""
        found = {node: site.machine for node, site in self.sites.items()}
        return {node: m for node, m in found.items() if isinstance(m, ClientMachine)}

    def carry_out(self, node: int, effects: Iterable[Effect]) -> None:
        """Send and tell what a machine wants."""
        for effect in effects:
            match effect:
                case Send(dest=dest, message=message):
                    self._post(node, dest, self._travel(message))
                case Finished(timestamp=timestamp, result=result):
                    self.on_finish(node, timestamp, result)

    def deliver(self) -> None:
        """Deliver one message of the pool, and perhaps keep it for another time."""
        at = int(self.rng.integers(len(self.pool)))
        source, dest, message, left = self.pool[at]
        if left > 1:
            self.pool[at] = source, dest, message, left - 1
        else:
            self.pool[at] = self.pool[-1]
            self.pool.pop()
        site = self.sites.get(dest)
        if dest == SCHEDULER:
            self._note_joined(source, message)
        elif site is not None:
            self._receive(site, source, message)

    def flush(self) -> None:
        """Let what is late come."""
        self.pool += self.late
        self.late = []

    def mishap(self) -> dict[int, int]:
        """Let a node die, or be left behind; return the logical workers that move, and to whom.

        Nothing happens if that one cannot be spared.
        """
        rng = self.rng
        able = [m.node for m in self.view.members if m.role in ("server", "worker")]
        node = able[int(rng.integers(len(able)))]
        epoch = self.view.epoch + make_epoch(1, 0)
        # Copies that have joined count, as the one who died may have been the only other one.
        view = admit(self.view, self.view.epoch, self.joins)
        change = fail_over(view, epoch, [node], self.sizes.policy)
        if change.lost or NOBODY in change.moved.values() or not change.view.nodes("worker"):
            return {}
        role = self.view.member(node).role  # type: ignore[union-attr]
        stale = bool(rng.integers(10) < self.sizes.stale)
        self.counts[f"{role}s {'left behind' if stale else 'killed'}"] += 1
        self.counts["promoted"] += change.promoted
        if stale:
            self.has_stale |= role == "server"
        else:
            del self.sites[node]
            # What the dead have sent still comes, or not.
            if rng.random() < 0.5:
                self.pool = [one for one in self.pool if one[0] != node]
        self.joins = {}
        self._announce(change.view)
        return change.moved

    def admit(self) -> None:
        """Put the copies that have joined in sync."""
        self.counts["admitted"] += 1
        joins, self.joins = self.joins, {}
        self._announce(admit(self.view, self.view.epoch + make_epoch(1, 0), joins))

    def reassign(self, stream: int, node: int) -> None:
        """Let another node act for a logical worker from now on."""
        epoch = self.view.epoch + make_epoch(1, 0)
        self._announce(reassign(self.view, epoch, {stream: node}))

    def peek(self, keys: KeyArray) -> np.ndarray:
        """Return the values that the newest view's owners have, `(n, pull width)`."""
        owners = self.view.owners[0][(keys // np.uint64(self.table.segment_size)).astype(int)]
        out = np.empty((len(keys), self.widths[0][1]))
        for owner in set(owners.tolist()):
            machine = self.sites[owner].machine
            assert isinstance(machine, ServerMachine)
            store = machine.stores[0]
            part = np.empty((int((owners == owner).sum()), out.shape[1]), store.dtype)
            store.read_keys(keys[owners == owner], part)
            out[owners == owner] = part
        return out

    def check_end(self) -> None:
        """Require that nothing is left over, and that copies have what their owners have."""
        for segment, owner in enumerate(self.view.owners[0].tolist()):
            for copy in self.view.copies[0][segment].tolist():
                if copy != NOBODY and self._state(copy, segment) != self._state(owner, segment):
                    raise Violation(f"copy {copy} of segment {segment} is not what {owner} has")
        for site in self.sites.values():
            if site.epoch != self.view.epoch:
                raise Violation(f"node {site.node} has an old view")
            statistics = site.machine.statistics() if site.machine else {}
            for name in ("waiting", "open_tasks"):
                if statistics.get(name):
                    raise Violation(f"node {site.node}: {statistics[name]} {name}")
            for name in ("duplicate_slices", "parked_slices", "refused", "repeated_requests"):
                self.counts[name] += statistics.get(name, 0)

    # -- Messages --------------------------------------------------------------------------------

    def _post(self, source: int, dest: int, message: Message | View) -> None:
        """Put a message into the pool, now and then copies for later, or for others too."""
        rng = self.rng
        self.pool.append((source, dest, message, int(rng.integers(1, COPIES_MAX + 1))))
        if rng.random() < self.sizes.late:
            self.late.append((source, dest, message, 1))
        if isinstance(message, Push | Pull) and rng.random() < 0.1:
            # Somebody who was its owner, or will be.
            self.late.append((source, int(rng.integers(1, self.sizes.servers + 1)), message, 1))

    def _travel(self, message: Message) -> Message:
        """Return what comes out at the other end."""
        if not self.sizes.frames:
            return message
        head, arrays = self._codec.encode(self._chain.encode(message))
        payload = [array.reshape(-1).view(np.uint8).copy() for array in arrays]
        return self._chain.decode(self._codec.decode(head, payload))

    def _announce(self, view: View) -> None:
        """Send a view to all that there are; those that it leaves behind learn it as well."""
        self.view = view
        for node in self.sites:
            self._post(SCHEDULER, node, view)

    def _receive(self, site: Site, source: int, message: Message | View) -> None:
        """Take a message as nodes do: later ones wait, those of strangers are refused."""
        if isinstance(message, View):
            if message.epoch > site.epoch:
                self._enter(site, message)
        elif message.epoch > site.epoch:
            site.later.append((source, message))
            self.counts["of later views"] += 1
        elif message.incarnation < site.members.get(source, NEVER):
            self.counts["of strangers"] += 1
        elif site.machine is not None:
            effects = site.machine.step(0.0, source, message)
            self.carry_out(site.node, effects)
            site.machine.validate()

    def _enter(self, site: Site, view: View) -> None:
        """Let a node go on in a new view, with what has waited for it."""
        site.epoch = view.epoch
        site.members = {member.node: member.incarnation for member in view.members}
        member = view.member(site.node)
        if member is None:
            del self.sites[site.node]
            return
        if site.machine is None and member.role == "server":
            site.machine = self.server(site.node, [make_store(self.table)], self.sizes.streams)
        elif site.machine is None and member.role == "worker":
            site.machine = self.client(site.node, [self.table], self.widths)
        if site.machine is not None:
            self.carry_out(site.node, site.machine.install(view))
            site.machine.validate()
        later, site.later = site.later, []
        for source, message in later:
            self._receive(site, source, message)
        if self.rng.random() < 0.3:
            self.flush()

    def _note_joined(self, source: int, message: Message | View) -> None:
        """Note the segments that a copy has, if their owner says so."""
        assert isinstance(message, Joined)
        owners = self.view.owners[0]
        # What was said before it was asked once more does not count, as in `Views.note_joined`.
        latest = np.maximum(self.view.since[0], self.view.asked[0])
        told = {s for s in message.segments if owners[s] == source and message.epoch >= latest[s]}
        if told:
            self.joins.setdefault((0, message.copy), set()).update(told)

    def _state(self, node: int, segment: int) -> tuple[Any, ...]:
        machine = self.sites[node].machine
        assert isinstance(machine, ServerMachine)
        held = machine._held[0]
        keys, rows = held.store.snapshot(segment)
        at = b"" if keys is None else keys.tobytes()
        return held.logs[segment], held.applied[segment], at + rows.tobytes()
