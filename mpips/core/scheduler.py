"""The scheduler: forms the group, runs the app's plan task by task, and stops the job."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from mpips.core.machine import Effect, End, Machine, Report, Send
from mpips.core.ring import place
from mpips.core.task import Plan, Task
from mpips.errors import MpipsError, ProtocolError
from mpips.wire.messages import (
    Call,
    Failed,
    Hello,
    Message,
    Progress,
    Ready,
    Return,
    Start,
    Stop,
    Stopped,
)
from mpips.wire.types import Member, Table, View, make_epoch

FORMING_S_MAX: Final = 120.0
STOPPING_S_MAX: Final = 30.0


@dataclass(slots=True)
class Open:
    """The task that is running: who has not answered, and what the others have."""

    task: Task
    places: dict[int, int]
    names: dict[int, str]
    results: list[Any] = field(default_factory=list)


class SchedulerMachine(Machine):
    """Forming, then starting, then running, then stopping.

    Args:
        node: its own id.
        expected: the role of every other node.
        logical_workers: their number.
        prepare: gives the tables and the plan, once the facts of the data are known.
    """

    def __init__(
        self,
        node: int,
        expected: dict[int, str],
        logical_workers: int,
        prepare: Callable[[dict[str, Any]], tuple[Sequence[Table], Plan]],
    ) -> None:
        super().__init__(node)
        self.state = "forming"
        self.view: View | None = None
        self.summary: dict[str, Any] = {}
        self.error: MpipsError | None = None
        self._expected, self._logical_workers, self._prepare = expected, logical_workers, prepare
        self._hellos: dict[int, Hello] = {}
        self._ready: set[int] = set()
        self._stopped: dict[int, dict[str, int]] = {}
        self._plan: Plan | None = None
        self._open: Open | None = None
        self._request = 0
        self._progress: dict[int, Progress] = {}
        self._deadline: float | None = None
        self._exit_code = 0

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take a message of a node and return what follows."""
        if source not in self._expected:
            raise ProtocolError(f"a {type(message).__name__} from node {source}, which is unknown")
        match message:
            case Hello() if self.state == "forming":
                return self._step_hello(now, source, message)
            case Ready() if self.state == "starting":
                self._ready.add(source)
                return self._advance(now, None, first=True) if self._all(self._ready) else []
            case Return() if self.state == "running":
                return self._step_return(now, message)
            case Progress():
                latest = self._progress.get(message.worker)
                if latest is None or message.number > latest.number:
                    self._progress[message.worker] = message
                return []
            case Failed():
                error = MpipsError(message.what, message.where, message.remedy)
                error.exit_code = message.exit_code
                return self.fail(now, error)
            case Stopped() if self.state == "stopping":
                self._stopped[source] = message.statistics
                return self._end() if self._all(set(self._stopped)) else []
            case Hello() | Ready() | Return() | Stopped():
                return []
        raise ProtocolError(f"scheduler: no step for {type(message).__name__}")

    def tick(self, now: float) -> list[Effect]:
        """Give up on nodes that do not come, or do not go, in time."""
        if self._deadline is None:
            self._deadline = now + FORMING_S_MAX
        if now < self._deadline or self.state in ("running", "ended"):
            return []
        if self.state == "stopping":
            # The job has its result; who is still missing cannot change it.
            return [Report("silent", {"at the stop": ", ".join(self.waiting_for())}), *self._end()]
        here = self._hellos if self.state == "forming" else self._ready
        missing = [f"{role} {node}" for node, role in self._expected.items() if node not in here]
        what = f"{', '.join(missing)} did not answer within {FORMING_S_MAX:g} s of the start"
        return self.fail(now, MpipsError(what, f"The job was {self.state}."))

    def fail(self, now: float, error: MpipsError) -> list[Effect]:
        """End the job because of `error`; the first one is what the user sees."""
        if self.state in ("stopping", "ended"):
            return []
        self.error = error
        return self._stop(now, error.exit_code)

    def validate(self) -> None:
        """Assert that a running task has somebody to wait for."""
        assert self.state in ("forming", "starting", "running", "stopping", "ended")
        assert self._open is None or self._open.places

    def statistics(self) -> dict[str, int]:
        """Return counters, by name; those of the nodes are summed when they have stopped."""
        total = {"calls": self._request}
        for counters in self._stopped.values():
            for name, count in counters.items():
                total[name] = total.get(name, 0) + count
        return total

    def progress(self) -> dict[str, float]:
        """Return the workers' latest facts, summed."""
        total: dict[str, float] = {}
        for latest in self._progress.values():
            for name, value in latest.facts.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def waiting_for(self) -> list[str]:
        """Return who has not answered yet: nodes by their ids, workers in tasks by logical ones."""
        if self.state == "running" and self._open is not None:
            return [self._open.names[request] for request in self._open.places]
        here: dict[str, Any] = {
            "forming": self._hellos,
            "starting": self._ready,
            "stopping": self._stopped,
        }
        known = here.get(self.state, self._expected)
        return [f"{role} {node}" for node, role in self._expected.items() if node not in known]

    # -- Forming ---------------------------------------------------------------------------------

    def _step_hello(self, now: float, source: int, hello: Hello) -> list[Effect]:
        assert hello.role == self._expected[source], (source, hello.role)
        self._hellos[source] = hello
        if not self._all(self._hellos):
            return []
        # All must see the same data.
        facts: dict[str, Any] = {}
        for node, other in sorted(self._hellos.items()):
            for name, value in other.facts.items():
                if facts.setdefault(name, value) != value:
                    what = f"node {node} sees {name} = {value}, another sees {facts[name]}"
                    where = f"Node {node} runs on {other.host}."
                    remedy = "All hosts must see the same files: use a shared file system."
                    return self.fail(now, MpipsError(what, where, remedy))
        try:
            tables, self._plan = self._prepare(facts)
        except MpipsError as error:
            return self.fail(now, error)
        self.view = self._first_view(tables)
        self.state, self._deadline = "starting", now + FORMING_S_MAX
        self.tell(now, "view", f"all are here; epoch {self.view.epoch}")
        start = Start(epoch=self.view.epoch, view=self.view, facts=facts)
        return [Send(node, start) for node in sorted(self._expected)]

    def _first_view(self, tables: Sequence[Table]) -> View:
        epoch = make_epoch(1, self.node)
        members = [Member(self.node, "scheduler", "", epoch)]
        for node, hello in self._hellos.items():
            members.append(Member(node, hello.role, hello.host, epoch))
        members.sort(key=lambda member: member.node)
        servers = [m.node for m in members if m.role == "server"]
        workers = [m.node for m in members if m.role == "worker"]
        owners = tuple(place(i, table.segments, servers) for i, table in enumerate(tables))
        count = self._logical_workers
        actors = tuple(workers[i * len(workers) // count] for i in range(count))
        return View(epoch, tuple(members), owners, actors)

    def _all(self, nodes: set[int] | dict[int, Any]) -> bool:
        return len(nodes) == len(self._expected)

    # -- Running ---------------------------------------------------------------------------------

    def _advance(self, now: float, results: list[Any] | None, first: bool = False) -> list[Effect]:
        """Run the plan up to its next task."""
        assert self._plan is not None
        self.state = "running"
        effects: list[Effect] = []
        try:
            asked = next(self._plan) if first else self._plan.send(results)
            while isinstance(asked, Report):
                effects.append(asked)
                asked = self._plan.send(None)
        except StopIteration as stop:
            self.summary = stop.value or {}
            return effects + self._stop(now, 0)
        except MpipsError as error:
            return effects + self.fail(now, error)
        self.tell(now, "task", f"{asked.function} on {asked.group}")
        return effects + self._call(asked)

    def _call(self, task: Task) -> list[Effect]:
        assert self.view is not None
        # Say who runs it, and where the result goes.
        if task.group == "servers":
            targets = [(node, -1) for node in self.view.nodes("server")]
        elif task.only is None:
            targets = [(node, worker) for worker, node in enumerate(self.view.actors)]
        else:
            targets = [(self.view.actors[task.only], task.only)]
        self._open = Open(task, {}, {}, [None] * len(targets))
        effects: list[Effect] = []
        for at, (node, worker) in enumerate(targets):
            self._request += 1
            self._open.places[self._request] = at
            name = f"worker {worker}" if worker >= 0 else f"server {node}"
            self._open.names[self._request] = name
            call = Call(
                epoch=self.view.epoch,
                request=self._request,
                worker=worker,
                function=task.function,
                arguments=task.arguments,
            )
            effects.append(Send(node, call))
        return effects

    def _step_return(self, now: float, message: Return) -> list[Effect]:
        if self._open is None or message.request not in self._open.places:
            return []
        at = self._open.places.pop(message.request)
        self._open.results[at] = message.result
        if self._open.places:
            return []
        results, self._open = self._open.results, None
        return self._advance(now, results)

    # -- Stopping --------------------------------------------------------------------------------

    def _stop(self, now: float, exit_code: int) -> list[Effect]:
        self.state, self._exit_code, self._open = "stopping", exit_code, None
        self.tell(now, "stop", f"exit code {exit_code}")
        self._deadline = now + STOPPING_S_MAX
        epoch = self.view.epoch if self.view else 0
        return [Send(node, Stop(epoch=epoch, exit_code=exit_code)) for node in self._expected]

    def _end(self) -> list[Effect]:
        self.state = "ended"
        return [End(self._exit_code)]
