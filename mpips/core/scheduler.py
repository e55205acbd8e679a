"""The scheduler: forms the group, runs the app's plan task by task, and stops the job.

It is OSDI's task scheduler and server manager in one: it learns of deaths, and makes the views.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from mpips.core.calling import Calling
from mpips.core.forming import agree_on_facts, first_members
from mpips.core.machine import Effect, End, Keep, Machine, Prepare, Report, Send
from mpips.core.news import least_copies, tell_of_change, tell_of_deaths
from mpips.core.planning import Planning
from mpips.core.progress import Latest
from mpips.core.saving import Resume, Saver, When
from mpips.core.steering import Steering
from mpips.core.task import Plan, SetDelay
from mpips.core.views import Views
from mpips.core.watch import Watch
from mpips.errors import MpipsError, ProtocolError, RanksLostError
from mpips.wire.messages import (
    Beat,
    Copied,
    Failed,
    Handed,
    Hello,
    Joined,
    Kill,
    Message,
    Progress,
    Ready,
    Return,
    Save,
    Saved,
    Start,
    Stop,
    Stopped,
)
from mpips.wire.types import Table, View

FORMING_S_MAX: Final = 120.0
STOPPING_S_MAX: Final = 30.0
STOPPED_AT_CHECKPOINT: Final = 75


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
        when: checkpoints are taken.
        resume: the checkpoint to begin with; None: the job is new.
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
        when: When = When(),  # noqa: B008
        resume: Resume | None = None,
    ) -> None:
        super().__init__(node)
        self.state = "forming"
        self.is_begun = False
        self.summary: dict[str, Any] = {}
        self.error: MpipsError | None = None
        self._expected, self._logical_workers, self._prepare = expected, logical_workers, prepare
        self._hellos: dict[int, Hello] = {}
        self._ready: set[int] = set()
        self._stopped: dict[int, dict[str, int]] = {}
        self._plan: Planning | None = None
        self._saver, self._resume = Saver(when), resume
        self._views = Views(node, replicas, policy)
        self._calling = Calling()
        self._dead: set[int] = set()
        self._recovered = self._exit_code = 0
        self._watch, self._host = Watch(silence_s), host
        self._progress = Latest()
        self.steering = Steering(self._views, self._calling, self._saver, expected)
        self._deadline: float | None = None

    @property
    def view(self) -> View | None:
        """Return the newest view; None before the first."""
        return self._views.view

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
                self._progress.note(source, message)
                return []
            case Failed():
                error = MpipsError(message.what, message.where, message.remedy)
                error.exit_code = message.exit_code
                return self.fail(now, error)
            case Stopped() if self.state == "stopping":
                self._stopped[source] = message.statistics
                return self._end() if self._all(set(self._stopped)) else []
            case Joined():
                self._views.note_joined(source, message)
                return []
            case Handed() if self.state == "running":
                self._views.note_handed(source, message)
                return self.steering.tick(now)
            case Copied() | Saved() if self.state == "running":
                return self._step_saved(now, source, message)
            case Beat():
                self.see(now, message.moved)
                return []
            case Hello() | Ready() | Return() | Stopped() | Copied() | Saved() | Handed():
                return []
        raise ProtocolError(f"scheduler: no step for {type(message).__name__}")

    def tick(self, now: float) -> list[Effect]:
        """Give up on nodes that do not come, or do not go, in time; admit copies; watch."""
        if self.state == "running":
            assert self.view is not None
            effects = self.steering.tick(now)
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
            "checkpoints": self._saver.saved,
            **self._views.statistics(),
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
        return self._progress.total()

    def waiting_for(self) -> list[str]:
        """Return who has not answered yet: nodes by their ids, workers in tasks by logical ones."""
        if self.state == "running" and self._saver.saving and self._saver.is_pausing:
            return [f"{self._expected[n]} {n}" for n in sorted(self._saver.saving.missing)]
        if self.state == "running":
            return self._calling.waiting_for()
        here: dict[str, Any] = {"forming": self._hellos, "starting": self._ready}
        here["stopping"] = self._stopped
        found = here.get(self.state, self._expected)
        return [f"{role} {node}" for node, role in self._expected.items() if node not in found]

    # -- Forming ---------------------------------------------------------------------------------

    def _step_hello(self, now: float, source: int, hello: Hello) -> list[Effect]:
        assert hello.role == self._expected[source], (source, hello.role)
        self._hellos[source] = hello
        if not self._all(self._hellos):
            return []
        try:
            facts = agree_on_facts(self._hellos)
            tables, plan = self._prepare(facts)
        except MpipsError as error:
            return self.fail(now, error)
        self._plan = Planning(plan)
        members = first_members(self.node, self._host, self._hellos)
        resume, workers = self._resume, self._logical_workers
        view = self._views.begin(members, tables, workers, resume.dropped if resume else ())
        self.state, self._deadline = "starting", now + FORMING_S_MAX
        self.tell(now, "view", f"all are here; epoch {view.epoch}")
        checkpoint = resume.path if resume else ""
        start = Start(epoch=view.epoch, view=view, facts=facts, checkpoint=checkpoint)
        return [Send(node, start) for node in sorted(self._expected)]

    def _all(self, nodes: set[int] | dict[int, Any]) -> bool:
        return len(nodes) == len(self._expected)

    # -- Running ---------------------------------------------------------------------------------

    def _begin(self, now: float) -> list[Effect]:
        """Watch all nodes, and run the plan."""
        assert self.view is not None
        pulses = {node: hello.has_pulse for node, hello in self._hellos.items()}
        self._watch.begin(now, self.view.members, {self.node: True, **pulses})
        self.state, self.is_begun = "running", True
        assert self._plan is not None
        if (resume := self._resume) is not None:
            self._calling.restore(resume.tasks, resume.takeovers, resume.path)
        hosts = len({member.host for member in self.view.members})
        self._saver.begin(now, self._calling.iterations, hosts)
        return self._follow(now, self._plan.begin(resume.results if resume else ()))

    def _advance(self, now: float, results: list[Any]) -> list[Effect]:
        """Run the plan up to its next task."""
        assert self._plan is not None
        return self._follow(now, self._plan.go_on(results))

    def _follow(self, now: float, says: Iterable[Report | SetDelay]) -> list[Effect]:
        """Do what the plan says until its next task, and then that, or stop."""
        assert self._plan is not None
        effects: list[Effect] = []
        try:
            for said in says:
                if isinstance(said, SetDelay):
                    said = self._calling.set_delay(said, self._views.tables)
                    what = "{table} {max_delay} from task {from_task} on"
                    self.tell(now, "delay", what.format(**said.facts))
                effects.append(said)
        except MpipsError as error:
            return effects + self.fail(now, error)
        if self._plan.task is None:
            self.summary = self._plan.summary
            return effects + self._stop(now, 0)
        return effects + self._go_on(now)

    def _go_on(self, now: float) -> list[Effect]:
        """Do the plan's next task, or what comes before it: a checkpoint, or the stop at one."""
        assert self._plan is not None
        is_due, done = self._saver.is_due(now, self._calling.iterations), len(self._plan.results)
        is_new = done > (self._resume.tasks if self._resume else 0)
        if is_due and is_new and self._calling.is_settled(self.view):
            return [Prepare()]
        # Where nothing has happened since the last checkpoint, that one will do.
        if self._saver.stop and not is_new:
            return self._stop(now, STOPPED_AT_CHECKPOINT)
        return [] if self._saver.hold() else self._give_out(now)

    def _give_out(self, now: float) -> list[Effect]:
        """Give the plan's task out."""
        assert self._plan is not None
        task = self._plan.task
        assert task is not None
        assert self.view is not None
        self.tell(now, "task", f"{task.function} on {task.group}")
        return [*self.steering.settle(), *self._calling.begin(now, task, self.view)]

    def _step_return(self, now: float, source: int, message: Return) -> list[Effect]:
        assert self.view is not None
        effects, moved = self._calling.take(source, message)
        if moved:
            effects += self._views.reassign(moved)
        results = self._calling.results()
        return effects if results is None else effects + self._advance(now, results)

    # -- Checkpoints -----------------------------------------------------------------------------

    def stop_soon(self, reason: str) -> None:
        """Stop at a checkpoint before the next task."""
        self._saver.stop = self._saver.stop or reason

    def save_in(self, now: float, folder: str) -> list[Effect]:
        """Have all servers and workers write their parts of a checkpoint to a folder."""
        assert self._plan is not None
        assert self.view is not None
        resume = self._plan.point(folder, self._calling.takeovers, self._views.dropped)
        nodes = self.view.nodes("server") + self.view.nodes("worker")
        self._saver.start(now, nodes, resume)
        self.tell(now, "save", f"checkpoint {resume.tasks}")
        save = Save(epoch=self.view.epoch, number=resume.tasks, folder=folder)
        return [Send(node, save) for node in nodes]

    def _step_saved(self, now: float, source: int, message: Copied | Saved) -> list[Effect]:
        saver = self._saver
        # Go on once all have their parts in memory; it is whole when all have written them.
        effects = self._give_out(now) if saver.copy(now, source, message.number) else []
        if isinstance(message, Copied) or not saver.take(source, message):
            return effects
        saving = saver.finish(now)
        effects += [Keep(saving.parts, saving.resume), Report("saved", saver.facts(saving))]
        if saver.stop and not saving.goes_on:
            effects.append(Report("stop", {"reason": saver.stop}))
            effects += self._stop(now, STOPPED_AT_CHECKPOINT)
        return effects + (self._go_on(now) if saving.holds else [])

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
        change = self._views.fail_over(now, dead)
        places = [f"{n} on {self._hellos[d].host}" for n, d in zip(names, dead, strict=True)]
        effects: list[Effect] = [tell_of_deaths(places)]
        if error := self._views.find_loss(change, names):
            return effects + self.fail(now, error)
        effects += self._views.announce(change.view)
        self.tell(now, "view", f"epoch {self._views.number}")
        effects.append(tell_of_change(change))
        self._recovered += len(dead)
        self._expected.update({member.node: member.role for member in change.hired})
        # The next task was waiting for a checkpoint, which is taken after that one.
        if self._saver.call_off():
            return effects + self._give_out(now)
        calls, results = self._calling.move(change.view)
        effects += calls
        return effects if results is None else effects + self._advance(now, results)

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
