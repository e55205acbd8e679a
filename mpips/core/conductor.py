"""Conducts a job: forms the group, runs the app's plan task by task, and stops.

It is OSDI's task scheduler and server manager in one: it learns of deaths, and makes the views.
What it wants done waits for decisions where it depends on one; see `core/scheduler.py`.
"""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final

from mpips.core.attendance import Attendance
from mpips.core.calling import Calling
from mpips.core.farewell import Farewell
from mpips.core.forming import Forming, agree_on_facts, first_members
from mpips.core.machine import Decide, Effect, Keep, Machine, Prepare, Report, Send
from mpips.core.news import tell_of_change, tell_of_deaths
from mpips.core.planning import Planning
from mpips.core.quieting import Quieting
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
    Message,
    Progress,
    Ready,
    Return,
    Save,
    Saved,
    Start,
    Stopped,
)
from mpips.wire.types import Table, View
from mpips.wire.voting import Begun, Done, Kept, Over

STOPPED_AT_CHECKPOINT: Final = 75


class Conductor(Machine):
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
        acceptors: how many nodes store its decisions at most; see `core/leader.py`.
        shrinks: whether the communicator is made smaller after deaths; see `core/quieting.py`.
        relief_s: how long loads of servers are compared; see `core/relief.py`.
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
        acceptors: int = 1,
        shrinks: bool = False,
        relief_s: float = 0.0,
    ) -> None:
        super().__init__(node)
        self.state, self.is_begun, self._is_new_here = "forming", False, False
        self.summary: dict[str, Any] = {}
        self.error: MpipsError | None = None
        self._logical_workers, self._prepare = logical_workers, prepare
        self._nodes = Attendance(expected)
        self._plan: Planning | None = None
        self._saver, self._resume = Saver(when), resume
        self._views = Views(node, replicas, policy, acceptors)
        self._calling = Calling()
        self.steering = Steering(self._views, self._calling, self._saver, expected, relief_s)
        self._recovered = 0
        self._quieting = Quieting(shrinks)
        self._watch, self._host, self._silence_s = Watch(silence_s), host, silence_s
        self._forming = Forming(self._nodes)
        self._farewell: Farewell | None = None
        self._facts: dict[str, Any] = {}

    @property
    def view(self) -> View | None:
        """Return the newest view; None before the first."""
        return self._views.view

    @property
    def tables(self) -> Sequence[Table]:
        """Return the tables as they are cut."""
        return self._views.tables

    @property
    def dead(self) -> frozenset[int]:
        """Return the nodes that the job goes on without."""
        return frozenset(self._nodes.dead)

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take a message of a node and return what follows."""
        if source in self._nodes.dead:
            return []
        self.see(now, [source])
        if source not in self._nodes.expected:
            raise ProtocolError(f"a {type(message).__name__} from node {source}, which is unknown")
        return self._take(now, source, message)

    def see(self, now: float, alive: Collection[int]) -> None:
        """Note nodes that somebody has seen alive."""
        for node in alive:
            self._watch.heard(now, node)

    def _take(self, now: float, source: int, message: Message) -> list[Effect]:
        nodes = self._nodes
        match message:
            case Hello() if self.state == "forming":
                return self._step_hello(now, source, message)
            case Ready() if self.state == "starting":
                nodes.ready.add(source)
                return self._begin(now) if nodes.are_all(nodes.ready) else []
            case Return() if self.state == "running":
                return self._step_return(now, source, message)
            case Progress():
                nodes.progress.note(source, message)
            case Failed():
                error = MpipsError(message.what, message.where, message.remedy)
                error.exit_code = message.exit_code
                return self._fail(now, error)
            case Stopped() if self.state == "stopping":
                nodes.stopped[source] = message.statistics
                assert self._farewell
                return self._part(self._farewell.go_on())
            case Joined():
                self._views.note_joined(source, message)
            case Handed() if self.state == "running":
                self._views.note_handed(source, message)
                return self.steering.tick(now)
            case Copied() | Saved() if self.state == "running":
                return self._step_saved(now, source, message)
            case Beat():
                self.see(now, message.moved)
                self.steering.note_load(source, message)
            case Hello() | Ready() | Return() | Stopped() | Copied() | Saved() | Handed():
                pass
            case _:
                raise ProtocolError(f"scheduler: no step for {type(message).__name__}")
        return []

    def _look(self, now: float) -> list[Effect]:
        """Do what time demands."""
        if self.state == "running":
            assert self.view is not None
            effects = self.steering.tick(now) + self._suspect(now)
            return effects + self._calling.tick(now, self.view)
        if self._farewell is not None:
            return self._part(self._farewell.tick(now))
        error = self._forming.find_late(now, self.state)
        return self._fail(now, error) if error else []

    def _fail(self, now: float, error: MpipsError) -> list[Effect]:
        if self.state in ("stopping", "ended"):
            return []
        self.error = error
        return self._stop(now, error.exit_code)

    def validate(self) -> None:
        """Assert that a running task has somebody to wait for."""
        assert self.state in ("forming", "starting", "running", "stopping", "ended")
        assert self._calling.is_idle or self._calling.waiting_for()

    def waiting_for(self) -> list[str]:
        """Return who has not answered yet: nodes by their ids, workers in tasks by logical ones."""
        nodes = self._nodes
        if self.state == "running" and self._saver.saving and self._saver.is_pausing:
            return [nodes.name(node) for node in sorted(self._saver.saving.missing)]
        if self.state == "running":
            return self._calling.waiting_for()
        return nodes.waiting_for(self.state)

    # -- Forming ---------------------------------------------------------------------------------

    def _step_hello(self, now: float, source: int, hello: Hello) -> list[Effect]:
        nodes = self._nodes
        if not self._forming.take(source, hello):
            return []
        try:
            facts = self._facts = agree_on_facts(nodes.hellos)
            tables, plan = self._prepare(facts)
        except MpipsError as error:
            return self._fail(now, error)
        self._plan = Planning(plan)
        members = first_members(self.node, self._host, nodes.hellos)
        resume, workers = self._resume, self._logical_workers
        view = self._views.begin(members, tables, workers, resume.dropped if resume else ())
        self.state = "starting"
        self._forming.start(now)
        self.tell(now, "view", f"all are here; epoch {view.epoch}")
        checkpoint = resume.path if resume else ""
        start = Start(epoch=view.epoch, view=view, facts=facts, checkpoint=checkpoint)
        return [Send(node, start) for node in sorted(nodes.expected)]

    # -- Running ---------------------------------------------------------------------------------

    def _begin(self, now: float) -> list[Effect]:
        """Watch all nodes, and run the plan."""
        assert self.view is not None
        pulses = [node for node, hello in self._nodes.hellos.items() if hello.has_pulse]
        resume = self._resume or Resume(path="", tasks=0, results=[], takeovers={})
        begun = Begun(self.view, self._facts, [self.node, *pulses], resume.results,
                      resume.takeovers, resume.path)  # fmt: skip
        self._calling.meet(self.view)
        self._run(now, self.view, begun.pulses)
        if resume.path:
            self._calling.restore(resume.tasks, resume.takeovers, resume.path)
        hosts = len({member.host for member in self.view.members})
        self._saver.begin(now, self._calling.iterations, hosts)
        return [Decide(begun)]

    def _run(self, now: float, view: View, pulses: Sequence[int]) -> None:
        """Watch all nodes."""
        self._watch.begin(now, view.members, dict.fromkeys(pulses, True), self.node)
        self.state, self.is_begun = "running", True

    def _act_on(self, now: float, entry: Begun | Done) -> list[Effect]:
        """Run the plan up to its next task, after what is decided."""
        assert self._plan is not None
        go_on = self._plan.begin if isinstance(entry, Begun) else self._plan.go_on
        return self._follow(now, go_on(entry.results))

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
            return effects + self._fail(now, error)
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
        return [] if self._saver.hold() else self._halt_or_give_out(now)

    def _halt_or_give_out(self, now: float) -> list[Effect]:
        """Give the plan's task out, or first have the communicator shrunk if somebody has died.

        Nobody halts while segments move or a checkpoint is written: if that went wrong, the one
        before would be the last.
        """
        is_due = self._quieting.is_due(self._nodes.dead) and self._saver.saving is None
        if self.view and is_due and self._views.is_at_rest and self._calling.is_settled(self.view):
            return self._quieting.begin(now, self.view, self._nodes.dead)
        return self._give_out(now)

    def _give_out(self, now: float) -> list[Effect]:
        """Give the plan's task out."""
        assert self._plan is not None
        assert self.view is not None
        task = self._plan.task
        assert task is not None
        self.tell(now, "task", f"{task.function} on {task.group}")
        # What another scheduler has given out may be running still.
        settled = [] if self._is_new_here else self.steering.settle()
        self._is_new_here = False
        return [*settled, *self._calling.begin(now, task, self.view)]

    def _step_return(self, now: float, source: int, message: Return) -> list[Effect]:
        assert self.view is not None
        effects, moved = self._calling.take(source, message)
        if moved:
            # Who is called off forgets what it has: the others have to know before.
            effects = self._views.reassign(moved) + effects
        done = self._calling.results()
        return effects if done is None else [*effects, Decide(done)]

    # -- Checkpoints -----------------------------------------------------------------------------

    def stop_soon(self, reason: str) -> None:
        """Stop at a checkpoint before the next task."""
        self._saver.stop = self._saver.stop or reason

    def _save_in(self, now: float, folder: str) -> list[Effect]:
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
        # Go on once nothing can change any part; it is whole when all are written.
        effects = self._give_out(now) if saver.copy(now, source, message.number) else []
        if isinstance(message, Copied) or not saver.take(source, message):
            return effects
        saving = saver.finish(now)
        kept = Decide(Kept(saving.resume.tasks))
        effects += [kept, Keep(saving.parts, saving.resume), Report("saved", saver.facts(saving))]
        if saver.stop and not saving.goes_on:
            effects.append(Report("stop", {"reason": saver.stop}))
            effects += self._stop(now, STOPPED_AT_CHECKPOINT)
        return effects + (self._go_on(now) if saving.holds else [])

    # -- Membership ------------------------------------------------------------------------------

    def _lose(self, now: float, lost: Collection[int]) -> list[Effect]:
        nodes = self._nodes
        # Who has stopped may leave.
        dead = sorted(set(lost).intersection(nodes.expected).difference(nodes.stopped))
        if not dead or self.state == "ended":
            return []
        names = [nodes.name(node) for node in dead]
        for node in dead:
            self._watch.remove(node)
        if self._farewell is not None:
            return self._part(self._farewell.lose(dead))
        nodes.leave(dead)
        if self.state != "running" or self.view is None:
            what = f"{', '.join(names)} died while the job was {self.state}"
            return self._fail(now, RanksLostError(what, "", "Run again."))
        was_quiet = self._quieting.is_active
        effects = [*self._quieting.cancel(), tell_of_deaths(self.view, names, dead)]
        change = self._views.fail_over(now, dead)
        if error := self._views.find_loss(change, names):
            return effects + self._fail(now, error)
        effects += self._views.announce(change.view)
        self.tell(now, "view", f"epoch {self._views.number}")
        effects.append(tell_of_change(change))
        self._recovered += len(dead)
        nodes.expected.update({member.node: member.role for member in change.hired})
        # The next task was waiting for a checkpoint or a shrink, which come after that one.
        if self._saver.call_off() or was_quiet:
            return effects + self._give_out(now)
        calls, done = self._calling.move(change.view)
        return effects + calls + ([] if done is None else [Decide(done)])

    def _suspect(self, now: float) -> list[Effect]:
        """Have silent nodes killed, and go on without those that nobody could kill."""
        suspicions, given_up = self._watch.tick(now)
        epoch = self.view.epoch if self.view else 0
        effects: list[Effect] = []
        for suspicion in suspicions:
            name = self._nodes.name(suspicion.node)
            self.tell(now, "suspect", name)
            effects += suspicion.act(name, epoch)
        return effects + (self._lose(now, given_up) if given_up else [])

    # -- Stopping --------------------------------------------------------------------------------

    def _stop(self, now: float, exit_code: int) -> list[Effect]:
        """Decide that the job is over, and tell the nodes."""
        error, view = self.error, self.view
        told = (error.what, error.where, error.remedy) if error else None
        over = Over(exit_code, told, self.summary)
        self._calling.stop()
        self.tell(now, "stop", f"exit code {exit_code}")
        # Without them nobody could follow this scheduler, if it died now.
        needed = view.acceptors if view and self.is_begun else ()
        self._farewell = Farewell(self._nodes, over, view.epoch if view else 0, needed)
        decision: list[Effect] = [Decide(over)] if self.is_begun else []
        return [*self._quieting.cancel(), *decision, *self._part(self._farewell.begin(now))]

    def _part(self, effects: list[Effect]) -> list[Effect]:
        """Return what a farewell does, and note its end."""
        self.state = "ended" if self._farewell and self._farewell.is_over else "stopping"
        return effects
