"""Plays golden scripts: commands to the real machines in, a line for each of their effects out."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, End, Finished, Machine, Report, Send
from mpips.core.membership import admit, fail_over, first_view
from mpips.core.scheduler import SchedulerMachine
from mpips.core.server import ServerMachine
from mpips.core.task import Plan, Task
from mpips.errors import MpipsError
from mpips.store.table import make_store
from mpips.wire.messages import Failed, Hello, Joined, Message, Ready, Return, Stopped
from mpips.wire.slices import Slices
from mpips.wire.types import NOBODY, Member, Table, View, make_epoch

HIDDEN = ("epoch", "incarnation", "coding", "view", "process", "checkpoint")


class Stage:
    """The machines of one script, and the messages that they have sent, as m1, m2, and so on.

    A message can be delivered in any order, and more than once.
    """

    def __init__(self) -> None:
        self.machines: dict[int, Machine] = {}
        self.names: dict[int, str] = {}
        self.sent: list[tuple[int, int, Message]] = []
        self.table = Table(name="w", size=1, segments=1)
        self.view = View(0, (), (), ())
        self.joined: dict[tuple[int, int], set[int]] = {}

    def play(self, command: str) -> list[str]:
        """Carry out a command and return the effects, a line each."""
        name, *words = command.split()
        play: Callable[..., list[str]] = getattr(self, f"play_{name}")
        settings = dict(word.split("=", 1) for word in words if "=" in word)
        lines = play(*(word for word in words if "=" not in word), **settings)
        for machine in self.machines.values():
            machine.validate()
        return lines or ["nothing"]

    # -- Push and pull ---------------------------------------------------------------------------

    def play_world(
        self,
        *flags: str,
        servers: str = "1",
        workers: str = "1",
        size: str = "8",
        segments: str = "2",
        mode: str = "eventual",
        replicas: str = "0",
    ) -> list[str]:
        """Make servers and workers, each for one stream, and one table."""
        self.table = Table(
            name="w",
            size=int(size),
            segments=int(segments),
            mode=mode,
            aggregate="aggregate" in flags,
        )
        nodes, epoch = range(1, int(servers) + 1), make_epoch(1, 0)
        clients = range(len(nodes) + 1, len(nodes) + int(workers) + 1)
        members = [Member(0, "scheduler", "", epoch)]
        members += [Member(node, "server", f"host{node}", epoch) for node in nodes]
        members += [Member(node, "worker", f"host{node}", epoch) for node in clients]
        self.names = {member.node: f"{member.role} {member.node}" for member in members}
        self.names[0] = "scheduler"
        self.view = first_view(epoch, members, [self.table], int(workers), int(replicas))
        for node in nodes:
            self.machines[node] = ServerMachine(node, [make_store(self.table)], int(workers))
        for node in clients:
            self.machines[node] = ClientMachine(node, [self.table], [(1, 1)])
        self.play_view(*map(str, self.machines))
        return self.show_view()

    def play_die(self, *nodes: str) -> list[str]:
        """Let servers die; the view that follows has yet to come to the others."""
        dead = [int(node) for node in nodes]
        for node in dead:
            del self.machines[node]
        change = fail_over(self.view, self.view.epoch + make_epoch(1, 0), dead, "replace")
        self.view = change.view
        return self.show_view()

    def play_admit(self) -> list[str]:
        """Put what has joined in sync; the view has yet to come to the others."""
        joined, self.joined = self.joined, {}
        self.view = admit(self.view, self.view.epoch + make_epoch(1, 0), joined)
        return self.show_view()

    def play_view(self, *nodes: str) -> list[str]:
        """Let the last view come to some nodes."""
        lines = []
        for node in map(int, nodes):
            machine = self.machines[node]
            assert isinstance(machine, ServerMachine | ClientMachine)
            lines += self.show(node, machine.install(self.view))
        return lines

    def show_view(self) -> list[str]:
        """Return a line for each segment of the last view."""
        lines = []
        parts = self.view.owners[0], self.view.copies[0], self.view.joining[0]
        for at, (owner, copies, joining) in enumerate(zip(*parts, strict=True)):
            who = [f"server {owner}"]
            for word, found in (("copy", copies), ("joins", joining)):
                who += [f"{word} {node}" for node in found.tolist() if node != NOBODY]
            lines.append(f"segment {at}, keys {self.span(at)}: {', '.join(who)}")
        return lines

    def play_push(self, node: str, where: str, value: str, **more: str) -> list[str]:
        """Start a push of one value to all keys."""
        return self.start(int(node), where, value, False, **more)

    def play_pull(self, node: str, where: str, **more: str) -> list[str]:
        """Start a pull."""
        return self.start(int(node), where, "", True, **more)

    def play_push_pull(self, node: str, where: str, value: str, **more: str) -> list[str]:
        """Start a push and a pull of the same keys."""
        return self.start(int(node), where, value, True, **more)

    def start(
        self, node: int, where: str, value: str, pull: bool, after: str = "", clock: str = "0"
    ) -> list[str]:
        """Start a task; `where` is BEGIN..END or a list of keys, `after` a list of tasks."""
        keys: Any
        if ".." in where:
            begin, end = map(int, where.split(".."))
            keys, count = (begin, end), end - begin
        else:
            keys = np.array(where.split(","), np.uint64)
            count = len(keys)
        values = np.full((count, 1), float(value)) if value else None
        client = self.machines[node]
        assert isinstance(client, ClientMachine)
        stream = node - min(n for n, name in self.names.items() if name.startswith("worker"))
        tasks = [int(task) for task in after.split(",") if task]
        timestamp, effects = client.start(
            0, stream, keys, values, pull=pull, clock=int(clock), after=tasks
        )
        return [f"task {timestamp} of worker {node}", *self.show(node, effects)]

    def play_deliver(self, *labels: str) -> list[str]:
        """Deliver messages that were sent, in this order."""
        lines = []
        for label in labels:
            source, dest, message = self.sent[int(label[1:]) - 1]
            if isinstance(message, Joined) and dest not in self.machines:
                self.joined.setdefault((message.table, message.copy), set()).update(
                    message.segments
                )
                continue
            if dest not in self.machines:
                lines.append(f"{label} is lost: {self.names[dest]} is dead")
                continue
            lines += self.show(dest, self.machines[dest].step(1.0, source, message))
        return lines

    def play_values(self, node: str = "") -> list[str]:
        """Show the table as the owners have it, or what a server has of it."""
        lines = []
        for segment, owner in enumerate(self.view.owners[0].tolist()):
            server = self.machines[int(node or owner)]
            assert isinstance(server, ServerMachine)
            if segment in server.stores[0].held:
                _, found = server.stores[0].snapshot(segment)
                lines.append(f"segment {segment}: {show(found)}")
        return lines

    def span(self, segment: int) -> str:
        """Return a segment's keys."""
        begin, end = self.table.segment_range(segment)
        return f"{begin}..{end}"

    # -- The scheduler ---------------------------------------------------------------------------

    def play_scheduler(
        self, servers: str = "1", workers: str = "2", spares: str = "0", replicas: str = "0"
    ) -> list[str]:
        """Make a scheduler whose plan is a task for the workers, a report, one for servers."""

        def plan() -> Plan:
            gradients = yield Task(group="workers", function="compute", arguments={"block": 3})
            yield Report("progress", {"gradients": gradients})
            keys = yield Task(group="servers", function="count")
            return {"keys": keys}

        first = 1 + int(servers)
        roles = dict.fromkeys(range(1, first), "server")
        roles |= dict.fromkeys(range(first, first + int(workers)), "worker")
        roles |= dict.fromkeys(range(len(roles) + 1, len(roles) + 1 + int(spares)), "spare")
        self.names = {0: "scheduler", **{node: f"{roles[node]} {node}" for node in roles}}
        table = Table(name="w", size=8, segments=2)
        tables = [table]
        machine = SchedulerMachine(
            0, roles, int(workers), lambda facts: (tables, plan()), int(replicas)
        )
        self.machines[0] = machine
        return [f"{machine.state}, waits for {', '.join(machine.waiting_for())}"]

    def play_hello(self, node: str, **facts: str) -> list[str]:
        """Let a node come."""
        role = self.names[int(node)].split()[0]
        return self.say(node, Hello(role=role, host=f"host{node}", process=1, facts=dict(facts)))

    def play_ready(self, node: str) -> list[str]:
        """Let a node be ready."""
        return self.say(node, Ready())

    def play_return(self, node: str, request: str, result: str, pushed: str = "") -> list[str]:
        """Let a node answer a call; `pushed` is the number of its last push."""
        streams = [(int(pushed), int(pushed))] if pushed else []
        return self.say(node, Return(request=int(request), result=int(result), streams=streams))

    def play_lose(self, *nodes: str) -> list[str]:
        """Let the scheduler learn of deaths."""
        machine = self.machines[0]
        assert isinstance(machine, SchedulerMachine)
        return [*self.show(0, machine.lose(2.0, [int(node) for node in nodes])), *self.state()]

    def play_stopped(self, node: str) -> list[str]:
        """Let a node say that it has stopped."""
        return self.say(node, Stopped(statistics={}))

    def play_failed(self, node: str, what: str) -> list[str]:
        """Let a node tell an error."""
        return self.say(node, Failed(exit_code=65, what=what, where="", remedy=""))

    def play_tick(self, now: str) -> list[str]:
        """Let time pass."""
        return [*self.show(0, self.machines[0].tick(float(now))), *self.state()]

    def say(self, node: str, message: Message) -> list[str]:
        """Let a node say something to the scheduler."""
        return [*self.show(0, self.machines[0].step(1.0, int(node), message)), *self.state()]

    def state(self) -> list[str]:
        """Return what the scheduler is doing."""
        machine = self.machines[0]
        assert isinstance(machine, SchedulerMachine)
        waiting = ", ".join(machine.waiting_for())
        return [f"{machine.state}, waits for {waiting}" if waiting else machine.state]

    # -- What comes out --------------------------------------------------------------------------

    def show(self, node: int, effects: list[Effect]) -> list[str]:
        """Return a line for each effect of a node, and keep what it sends."""
        lines = []
        for effect in effects:
            match effect:
                case Send(dest=dest, message=message):
                    self.sent.append((node, dest, message))
                    label = f"m{len(self.sent)} {self.names[node]} > {self.names[dest]}:"
                    lines.append(f"{label} {show(message)}")
                case Finished(timestamp=timestamp, result=result):
                    got = "" if result is None else f" with {show(result)}"
                    lines.append(f"task {timestamp} of {self.names[node]} is finished{got}")
                case Report(kind=kind, facts=facts):
                    lines.append(f"report {kind} {facts}")
                case End(exit_code=code):
                    lines.append(f"end with {code}")
        return lines


def show(value: Any) -> str:
    """Return a message with the fields that say something, or an array, on one line."""
    if isinstance(value, np.ndarray):
        return " ".join(f"{number:g}" for number in value.ravel().tolist())
    if isinstance(value, Message):
        given = {field.name: getattr(value, field.name) for field in msgspec.structs.fields(value)}
        shown = [f"{name} {show(item)}" for name, item in given.items() if says(name, item)]
        return f"{type(value).__name__} {', '.join(shown)}".strip()
    if isinstance(value, list | tuple | Slices):
        return " ".join(str(item) for item in value)
    return str(value)


def says(name: str, item: Any) -> bool:
    """Return whether a field of a message says something."""
    if isinstance(item, np.ndarray):
        return True
    return name not in HIDDEN and item not in (None, (), [], {}, False)


def play_script(text: str) -> str:
    """Return a script with what its commands now give; comments and blank lines stay."""
    stage, lines = Stage(), []
    for line in text.splitlines():
        if line.startswith("#") or not line:
            lines.append(line)
        elif line.startswith("> "):
            try:
                effects = stage.play(line[2:])
            except (MpipsError, ValueError) as error:
                effects = [f"{type(error).__name__}: {error}"]
            lines += [line, *(f"  {effect}" for effect in effects)]
    return "\n".join(lines) + "\n"
