"""Plays golden scripts: commands to the real machines in, a line for each of their effects out."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, End, Finished, Machine, Report, Send
from mpips.core.ring import place
from mpips.core.scheduler import SchedulerMachine
from mpips.core.server import ServerMachine
from mpips.core.task import Plan, Task
from mpips.errors import MpipsError
from mpips.store.table import make_store
from mpips.wire.messages import Failed, Hello, Message, Ready, Return, Stopped
from mpips.wire.types import Table, View, make_epoch

HIDDEN = ("epoch", "incarnation", "coding", "view", "process")


class Stage:
    """The machines of one script, and the messages that they have sent, as m1, m2, and so on.

    A message can be delivered in any order, and more than once.
    """

    def __init__(self) -> None:
        self.machines: dict[int, Machine] = {}
        self.names: dict[int, str] = {}
        self.sent: list[tuple[int, int, Message]] = []
        self.table = Table(name="w", size=1, segments=1)
        self.owners = np.zeros(0, np.int32)

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
    ) -> list[str]:
        """Make servers and workers, each for one stream, and one table."""
        self.table = Table(
            name="w",
            size=int(size),
            segments=int(segments),
            mode=mode,
            aggregate="aggregate" in flags,
        )
        nodes = list(range(1, int(servers) + 1))
        self.owners = place(0, self.table.segments, nodes)
        view = View(make_epoch(1, 0), (), (self.owners,), ())
        for node in nodes:
            server = ServerMachine(node, [make_store(self.table)], int(workers))
            server.install(view)
            self.machines[node], self.names[node] = server, f"server {node}"
        for node in range(len(nodes) + 1, len(nodes) + int(workers) + 1):
            client = ClientMachine(node, [self.table], [(1, 1)])
            client.install(view)
            self.machines[node], self.names[node] = client, f"worker {node}"
        owned = enumerate(self.owners.tolist())
        return [f"segment {at}, keys {self.span(at)}: server {owner}" for at, owner in owned]

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
            lines += self.show(dest, self.machines[dest].step(1.0, source, message))
        return lines

    def play_values(self) -> list[str]:
        """Show the table as the owners have it."""
        lines = []
        for segment, owner in enumerate(self.owners.tolist()):
            server = self.machines[owner]
            assert isinstance(server, ServerMachine)
            _, found = server.stores[0].read_range(*self.table.segment_range(segment))
            lines.append(f"segment {segment}: {show(found)}")
        return lines

    def span(self, segment: int) -> str:
        """Return a segment's keys."""
        begin, end = self.table.segment_range(segment)
        return f"{begin}..{end}"

    # -- The scheduler ---------------------------------------------------------------------------

    def play_scheduler(self, servers: str = "1", workers: str = "2") -> list[str]:
        """Make a scheduler whose plan is a task for the workers, a report, one for servers."""

        def plan() -> Plan:
            gradients = yield Task(group="workers", function="compute", arguments={"block": 3})
            yield Report("progress", {"gradients": gradients})
            keys = yield Task(group="servers", function="count")
            return {"keys": keys}

        first = 1 + int(servers)
        roles = dict.fromkeys(range(1, first), "server")
        roles |= dict.fromkeys(range(first, first + int(workers)), "worker")
        self.names = {0: "scheduler", **{node: f"{roles[node]} {node}" for node in roles}}
        table = Table(name="w", size=8, segments=2)
        machine = SchedulerMachine(0, roles, int(workers), lambda facts: ([table], plan()))
        self.machines[0] = machine
        return [f"{machine.state}, waits for {', '.join(machine.waiting_for())}"]

    def play_hello(self, node: str, **facts: str) -> list[str]:
        """Let a node come."""
        role = self.names[int(node)].split()[0]
        return self.say(node, Hello(role=role, host=f"host{node}", process=1, facts=dict(facts)))

    def play_ready(self, node: str) -> list[str]:
        """Let a node be ready."""
        return self.say(node, Ready())

    def play_return(self, node: str, request: str, result: str) -> list[str]:
        """Let a node answer a call."""
        return self.say(node, Return(request=int(request), result=int(result)))

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
    if isinstance(value, list | tuple):
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
