"""The scheduler: forms the group, runs the app's plan task by task, and stops the job.

It is OSDI's task scheduler and server manager in one: it learns of deaths, and makes the views.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from mpips.core.calling import Calling
from mpips.core.machine import Effect, End, Machine, Report, Send
from mpips.core.membership import (
    Change,
    admit,
    fail_over,
    first_view,
    missing_copies,
    reassign,
)
from mpips.core.news import least_copies, tell_of_change, tell_of_copies, tell_of_deaths
from mpips.core.task import Plan, SetDelay
from mpips.core.watch import Watch
from mpips.errors import MpipsError, ProtocolError, RanksLostError
from mpips.wire.messages import (
    Beat,
    Failed,
    Hello,
    Joined,
    Kill,
    Message,
    NewView,
    Progress,
    Ready,
    Return,
    Start,
    Stop,
    Stopped,
)
from mpips.wire.types import NOBODY, Member, Table, View, make_epoch

FORMING_S_MAX: Final = 120.0
STOPPING_S_MAX: Final = 30.0


class SchedulerMachine(Machine):
    """Forming, then starting, then running, then stopping.

    Args:
        node: its own id.
        expected: the role of every other node.
        logical_workers: their number.
        prepare: gives the tables and the plan, once the facts of the data are known.
        replicas: copies wanted of each segment, beside its owner's.
        policy: what becomes of dead workers' logical workers; see `membership.fail_over`.
        silence_s: after which silence a node is suspected to have stopped.
        host: its own.
    """

    def __init__(
        self,
        node: int,
        expected: dict[int, str],
        logical_workers: int,
        prepare: Callable[[dict[str, Any]], tuple[Sequence[Table], Plan]],
        replicas: int = 0,
        policy: str = "replace",
        silence_s: float = math.inf,
        host: str = "",
    ) -> None:
        super().__init__(node)
        self.state = "forming"
        self.is_begun = False
        self.view: View | None = None
        self.summary: dict[str, Any] = {}
        self.error: MpipsError | None = None
        self._expected, self._logical_workers, self._prepare = expected, logical_workers, prepare
        self._hellos: dict[int, Hello] = {}
        self._ready: set[int] = set()
        self._stopped: dict[int, dict[str, int]] = {}
        self._plan: Plan | None = None
        self._replicas, self._policy = replicas, policy
        self._tables: Sequence[Table] = ()
        self._calling = Calling()
        self._dead: set[int] = set()
        self._recovered = 0
        self._watch, self._host = Watch(silence_s), host
        self._joins: dict[tuple[int, int], set[int]] = {}
        self._incomplete_since: float | None = None
        self._progress: dict[int, Progress] = {}
        self._deadline: float | None = None
        self._exit_code = 0

    @property
    def dead(self) -> frozenset[int]:
        """Return the nodes that the job goes on without."""
        return frozenset(self._dead)

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take a message of a node and return what follows."""
        if source in self._dead:
            return []
        self._watch.heard(now, source)
        if source not in self._expected:
            raise ProtocolError(f"a {type(message).__name__} from node {source}, which is unknown")
        match message:
            case Hello() if self.state == "forming":
                return self._step_hello(now, source, message)
            case Ready() if self.state == "starting":
                self._ready.add(source)
                return self._begin(now) if self._all(self._ready) else []
            case Return() if self.state == "running":
                return self._step_return(now, source, message)
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
            case Joined():
                self._step_joined(source, message)
                return []
            case Beat():
                self.see(now, message.moved)
                return []
            case Hello() | Ready() | Return() | Stopped():
                return []
        raise ProtocolError(f"scheduler: no step for {type(message).__name__}")

    def tick(self, now: float) -> list[Effect]:
        """Give up on nodes that do not come, or do not go, in time; admit copies; watch."""
        if self.state == "running":
            assert self.view is not None
            effects = self._admit(now) if self._joins else []
            return effects + self._suspect(now) + self._calling.tick(now, self.view)
        if self._deadline is None:
            self._deadline = now + FORMING_S_MAX
        if now < self._deadline or self.state == "ended":
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
        assert self._calling.is_idle or self._calling.waiting_for()

    def statistics(self) -> dict[str, int]:
        """Return counters, by name; those of the nodes are summed when they have stopped."""
        total = {
            "calls": self._calling.requests,
            "reissued_calls": self._calling.reissued,
            "deaths": len(self._dead),
        }
        for counters in self._stopped.values():
            for name, count in counters.items():
                total[name] = total.get(name, 0) + count
        return total

    def outcome(self) -> dict[str, int]:
        """Return how many nodes died, how many deaths were survived, and how many more could be."""
        redundancy = least_copies(self.view) if self.view else 0
        died = {"failures": len(self._dead), "recovered": self._recovered}
        return {**died, "redundancy": redundancy}

    def progress(self) -> dict[str, float]:
        """Return the workers' latest facts, summed."""
        total: dict[str, float] = {}
        for latest in self._progress.values():
            for name, value in latest.facts.items():
                total[name] = total.get(name, 0.0) + value
        return total

    def waiting_for(self) -> list[str]:
        """Return who has not answered yet: nodes by their ids, workers in tasks by logical ones."""
        if self.state == "running":
            return self._calling.waiting_for()
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
            self._tables, self._plan = self._prepare(facts)
        except MpipsError as error:
            return self.fail(now, error)
        self.view = self._first_view()
        self.state, self._deadline = "starting", now + FORMING_S_MAX
        self.tell(now, "view", f"all are here; epoch {self.view.epoch}")
        start = Start(epoch=self.view.epoch, view=self.view, facts=facts)
        return [Send(node, start) for node in sorted(self._expected)]

    def _first_view(self) -> View:
        epoch = make_epoch(1, self.node)
        members = [Member(self.node, "scheduler", self._host, epoch)]
        for node, hello in self._hellos.items():
            members.append(Member(node, hello.role, hello.host, epoch))
        return first_view(epoch, members, self._tables, self._logical_workers, self._replicas)

    def _all(self, nodes: set[int] | dict[int, Any]) -> bool:
        return len(nodes) == len(self._expected)

    # -- Running ---------------------------------------------------------------------------------

    def _begin(self, now: float) -> list[Effect]:
        """Watch all nodes, and run the plan."""
        assert self.view is not None
        pulses = {node: hello.has_pulse for node, hello in self._hellos.items()}
        self._watch.begin(now, self.view.members, {self.node: True, **pulses})
        return self._advance(now, None, first=True)

    def _advance(self, now: float, results: list[Any] | None, first: bool = False) -> list[Effect]:
        """Run the plan up to its next task."""
        assert self._plan is not None
        self.state, self.is_begun = "running", True
        effects: list[Effect] = []
        try:
            asked = next(self._plan) if first else self._plan.send(results)
            while isinstance(asked, Report | SetDelay):
                if isinstance(asked, SetDelay):
                    asked = self._calling.set_delay(asked, self._tables)
                    told = asked.facts
                    what = f"{told['table']} {told['max_delay']} from task {told['from_task']} on"
                    self.tell(now, "delay", what)
                effects.append(asked)
                asked = self._plan.send(None)
        except StopIteration as stop:
            self.summary = stop.value or {}
            return effects + self._stop(now, 0)
        except MpipsError as error:
            return effects + self.fail(now, error)
        self.tell(now, "task", f"{asked.function} on {asked.group}")
        assert self.view is not None
        return effects + self._calling.begin(now, asked, self.view)

    def _step_return(self, now: float, source: int, message: Return) -> list[Effect]:
        assert self.view is not None
        effects, moved = self._calling.take(source, message)
        if moved:
            effects += self._announce(now, reassign(self.view, self._next_epoch(), moved))
        results = self._calling.results()
        return effects if results is None else effects + self._advance(now, results)

    # -- Membership ------------------------------------------------------------------------------

    def lose(self, now: float, nodes: Collection[int]) -> list[Effect]:
        """Go on without some nodes, which are dead or as good as dead."""
        # Who has stopped may leave.
        dead = sorted(set(nodes).intersection(self._expected).difference(self._stopped))
        if not dead or self.state == "ended":
            return []
        names = [f"{self._expected[node]} {node}" for node in dead]
        for node in dead:
            del self._expected[node]
            self._watch.remove(node)
        self._dead.update(dead)
        if self.state == "stopping":
            return self._end() if self._all(self._stopped) else []
        if self.state != "running" or self.view is None:
            what = f"{', '.join(names)} died while the job was {self.state}"
            return self.fail(now, RanksLostError(what, "", "Run again."))
        # What has joined in time is in sync; what owners of before have said counts no more.
        if self._joins:
            self.view, self._joins = admit(self.view, self.view.epoch, self._joins), {}
        change = fail_over(self.view, self._next_epoch(), dead, self._policy)
        places = [f"{n} on {self._hellos[d].host}" for n, d in zip(names, dead, strict=True)]
        effects: list[Effect] = [tell_of_deaths(places)]
        if error := self._find_loss(change, names):
            return effects + self.fail(now, error)
        if self._incomplete_since is None:
            self._incomplete_since = now
        effects += self._announce(now, change.view)
        effects.append(tell_of_change(change))
        self._recovered += len(dead)
        self._expected.update({member.node: member.role for member in change.hired})
        calls, results = self._calling.move(change.view)
        effects += calls
        return effects if results is None else effects + self._advance(now, results)

    def _find_loss(self, change: Change, names: list[str]) -> MpipsError | None:
        """Return the error that ends the job if not all that it needs is left."""
        if change.lost:
            held = {t: [s for table, s in change.lost if table == t] for t, _ in change.lost}
            where = [
                f"table {self._tables[table].name}: {len(segments)} segments, the first with the"
                f" keys [{', '.join(map(str, self._tables[table].segment_range(segments[0])))})"
                for table, segments in held.items()
            ]
            what = f"all copies of a part of the model died: {', '.join(names)}"
            remedy = "Run again; more copies survive more deaths: --set replicas=2."
            return RanksLostError(what, "\n".join(where), remedy)
        if all(actor == NOBODY for actor in change.view.actors):
            return RanksLostError(f"no worker is left: {', '.join(names)} died", "", "Run again.")
        return None

    def see(self, now: float, alive: Collection[int]) -> None:
        """Note nodes whose processes somebody has seen alive."""
        for node in alive:
            self._watch.heard(now, node)

    def _suspect(self, now: float) -> list[Effect]:
        """Have silent nodes killed, and go on without those that nobody could kill."""
        suspicions, given_up = self._watch.tick(now)
        epoch = self.view.epoch if self.view else 0
        effects: list[Effect] = []
        for suspicion in suspicions:
            name = f"{self._expected[suspicion.node]} {suspicion.node}"
            self.tell(now, "suspect", name)
            effects.append(Report("silent", {"suspected": name}))
            order = Kill(epoch=epoch, node=suspicion.node)
            effects += [Send(mate, order) for mate in suspicion.mates]
        return effects + (self.lose(now, given_up) if given_up else [])

    def _step_joined(self, source: int, message: Joined) -> None:
        """Note the segments that a copy has, if their owner says so."""
        assert self.view is not None
        owners, since = self.view.owners[message.table], self.view.since[message.table]
        told = message.segments
        segments = [s for s in told if owners[s] == source and message.epoch >= since[s]]
        if segments:
            self._joins.setdefault((message.table, message.copy), set()).update(segments)

    def _admit(self, now: float) -> list[Effect]:
        """Put the copies that have joined in sync."""
        assert self.view is not None
        view = admit(self.view, self._next_epoch(), self._joins)
        self._joins = {}
        effects = self._announce(now, view)
        if not missing_copies(view, self._replicas) and self._incomplete_since is not None:
            seconds = now - self._incomplete_since
            self._incomplete_since = None
            effects.append(tell_of_copies(seconds))
        return effects

    def _announce(self, now: float, view: View) -> list[Effect]:
        """Tell all nodes of a view, servers first, since the others will send them requests."""
        self.view = view
        self.tell(now, "view", f"epoch {view.epoch // make_epoch(1, 0)}")
        members = sorted(view.members, key=lambda member: member.role != "server")
        nodes = [member.node for member in members if member.node != self.node]
        return [Send(node, NewView(epoch=view.epoch, view=view)) for node in nodes]

    def _next_epoch(self) -> int:
        assert self.view is not None
        return self.view.epoch + make_epoch(1, 0)

    # -- Stopping --------------------------------------------------------------------------------

    def _stop(self, now: float, exit_code: int) -> list[Effect]:
        self.state, self._exit_code = "stopping", exit_code
        self._calling.stop()
        self.tell(now, "stop", f"exit code {exit_code}")
        self._deadline = now + STOPPING_S_MAX
        epoch = self.view.epoch if self.view else 0
        sends = [Send(node, Stop(epoch=epoch, exit_code=exit_code)) for node in self._expected]
        # Nobody answers if all have died.
        return [*sends, *([] if sends else self._end())]

    def _end(self) -> list[Effect]:
        self.state = "ended"
        return [End(self._exit_code)]
