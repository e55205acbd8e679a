"""The scheduler's node: runs the plan, shows it to the user, and writes the result."""

import logging
import socket
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, final

from mpips.config import Config
from mpips.core.leader import Leader
from mpips.core.machine import Answer, Effect, End, Keep, Prepare, Report
from mpips.core.predicate import find_predicate
from mpips.core.saving import Resume, When
from mpips.core.scheduler import STOPPED_AT_CHECKPOINT, SchedulerMachine
from mpips.core.task import Plan
from mpips.errors import ProtocolError, RanksLostError
from mpips.node import surroundings
from mpips.node.app import App, Job
from mpips.node.console import Console, show
from mpips.node.control import LOOK_S, Control
from mpips.node.failure import explain_failure
from mpips.node.folder import RunFolder
from mpips.node.follower import FLUSH_S, Follower, beat_s
from mpips.node.loop import Node
from mpips.node.resume import fit_tables, keep_resume, make_room, when_to_save
from mpips.transport.base import Transport
from mpips.wire.messages import Hello, Kill, Message
from mpips.wire.quiet import GoOn, Halt, Shrink
from mpips.wire.types import Table
from mpips.wire.voting import Claim

log = logging.getLogger(__name__)

STALL_S = 60.0
ACCEPTORS_MAX = 5
STOP_FILE = "stop"
STATUS = {STOPPED_AT_CHECKPOINT: "stopped"}


@final
class SchedulerNode(Node):
    """A `SchedulerMachine` on a transport.

    Args:
        transport: carries its frames.
        clock: seconds that never go back.
        kind: the app.
        config: the effective config.
        roles: the role of each node, by id; this one's is "scheduler".
        folder: the run folder; None: nothing is written.
        console: where progress goes; None: nowhere.
        resume: the checkpoint to begin with; None: the job is new.
        acceptors: how many nodes store its decisions at most: then it may die.

    Attributes:
        answers: those to the user's orders, by the orders' names.
        is_told: whether the user knows of the error, or will be told by who started the ranks.
    """

    def __init__(
        self,
        transport: Transport,
        clock: Callable[[], float],
        kind: type[App],
        config: Config,
        roles: Sequence[str],
        folder: RunFolder | None = None,
        console: Console | None = None,
        resume: Resume | None = None,
        acceptors: int = 1,
    ) -> None:
        super().__init__(transport, clock)
        self._kind, self._config = kind, config
        self._folder, self._console = folder, console
        self._began = self._heard = clock()
        expected = {node: role for node, role in enumerate(roles) if node != transport.node}
        self.machine = SchedulerMachine(
            transport.node,
            expected,
            config.logical_workers,
            self._prepare,
            min(config.replicas, config.run.servers + config.run.spares - 1),
            config.recovery.worker,
            config.recovery.silence_s,
            socket.gethostname(),
            when_to_save(config) if folder is not None else When(),
            resume,
            acceptors if config.recovery.mode == "in-place" else 1,
            config.recovery.shrink == "quiet",
            config.run.relief_s,
        )
        self._next_look = self._next_orders = 0.0
        self._control = Control(folder.path, folder.is_new) if folder is not None else None
        self._resume = resume
        if resume is not None:
            told: dict[str, Any] = {"from": resume.path, "tasks": resume.tasks}
            told |= {"passed over": "; ".join(resume.skipped)} if resume.skipped else {}
            told |= {"left out": ", ".join(map(str, resume.dropped))} if resume.dropped else {}
            self._report("resume", told)
        self.result: dict[str, Any] = {}
        self.answers: dict[str, str] = {}
        self.is_told = False
        self._app: App | None = None
        self._shown: dict[str, float] = {}
        self._roles, self._hosts = roles, dict[int, str]()

    def turn(self) -> bool:
        """Take what has come; an error ends the job for all."""
        try:
            is_busy = super().turn()
            self._complain()
            if self.exit_code is not None:
                self.transport.flush(FLUSH_S)
            return is_busy
        except Exception as error:
            self._suffer(error)
        return True

    def attend(self, source: int, message: Message) -> None:
        """Take a message that came to the node where this office is."""
        try:
            if self.exit_code is None:
                self.receive(source, message)
        except Exception as error:
            self._suffer(error)

    def attend_to_time(self, now: float) -> None:
        """Let this office see the time."""
        try:
            if self.exit_code is None:
                self.tick(now)
                self._complain()
        except Exception as error:
            self._suffer(error)

    def _suffer(self, error: Exception) -> None:
        """End the job because of an error."""
        explained = explain_failure(error, "scheduler")
        if self.machine.state in ("stopping", "ended"):
            # Too late to tell the others, but not to tell the user.
            self.machine.error = self.machine.error or explained
        if self.machine.state == "ended" and self.machine.error is not None:
            # All have left, but the result could not be written.
            self.exit_code = self.machine.error.exit_code
        self.carry_out(self.machine.fail(self.clock(), explained))
        self._complain()

    def give_up(self, pulls: Iterable[str] = ()) -> None:
        """End the job because nobody can go on, and name who is waited for, and by which pulls."""
        waiting = ", ".join(self.machine.waiting_for())
        what = f"the job stands still, waiting for {waiting}"
        remedy = "Do all logical workers push the same clocks to tables that aggregate?"
        error = ProtocolError(what, "\n".join(pulls), remedy)
        self.carry_out(self.machine.fail(self.clock(), error))

    def order(self, name: str, command: str, node: int | None) -> None:
        """Follow a user's order; the answer comes when that is decided.

        Raises:
            UsageError: it cannot be followed.
        """
        self.carry_out(self.machine.order(self.clock(), name, command, node))

    def receive(self, source: int, message: Message) -> None:
        """Step the machine."""
        if isinstance(message, Halt | GoOn | Shrink):
            # They come from this node itself: where it is not a member, nobody else does it.
            if source == self.transport.node:
                self.stillness.take(self, source, message)
            return
        if isinstance(message, Kill):
            if self.pulse is not None:
                self.pulse.kill(message.node)
            return
        # Nobody else is followed while this one is here.
        if isinstance(message, Claim):
            return
        self._heard = self.clock()
        if isinstance(message, Hello):
            self._hosts[source] = message.host
        self.carry_out(self.machine.step(self._heard, source, message))

    def tick(self, now: float) -> None:
        """Let the machine see the time, and show what the workers report."""
        if self.pulse is not None and now >= self._next_look:
            self._next_look = now + beat_s(self._config)
            self.machine.see(now, self.pulse.moved())
        if self._folder is not None and (self._folder.path / STOP_FILE).exists():
            self.machine.stop_soon(f"{STOP_FILE} is there")
        if self._control is not None and now >= self._next_orders:
            self._next_orders = now + LOOK_S
            self._control.serve(self.order)
        if self.stillness.is_too_long(now):
            self.stillness.end()
        self.carry_out(self.machine.tick(now))
        if self.machine.is_deposed:
            log.error("others decide what becomes of the job")
            self.is_fenced, self.exit_code = True, RanksLostError.exit_code
            return
        if self._console is None or self.machine.state != "running":
            return
        progress = self.machine.progress()
        if progress != self._shown and self._app is not None:
            self._shown = progress
            self._console.row(now, self._app.progress(progress))
        if now - self._heard > STALL_S:
            self._heard = now
            waiting = ", ".join(self.machine.waiting_for())
            self._console.say(f"         no answer for {STALL_S:.0f} s; waiting for {waiting}")

    def take_over(self, member: Follower, leader: Leader, after_s: float) -> None:
        """Go on with the job of another scheduler, on the node of a member."""
        self._began = member.began
        now, lost = self.clock(), self.transport.lost
        try:
            self.carry_out(self.machine.succeed(now, self._began, leader, lost, after_s))
        except RanksLostError:
            # The job had not begun: there is nothing to end.
            raise
        except Exception as error:
            self._suffer(error)
            # Nobody waits for them at the stop.
            self.carry_out(self.machine.lose(now, lost | {member.scheduler}))

    def carry_out(self, effects: Iterable[Effect]) -> None:
        """Do what the machine wants done, also what comes after something that fails.

        The machine believes that all of it happens: proposals are not sent twice.
        """
        failure: Exception | None = None
        for effect in effects:
            try:
                super().carry_out((effect,))
            except Exception as error:
                failure = failure or error
        if failure is not None:
            raise failure

    def perform(self, effect: Effect) -> None:
        """Report, or end."""
        match effect:
            case Report(kind=kind, facts=facts):
                self._report(kind, facts)
            case Answer(order=name, text=text):
                self.answers[name] = text
                if self._control is not None:
                    self._control.answer(name, text)
            case Prepare():
                assert self._folder is not None
                folder = make_room(self._folder.path)
                self.carry_out(self.machine.save_in(self.clock(), str(folder)))
            case Keep(parts=parts, resume=resume):
                keep_resume(Path(resume.path), self._config, self.machine.tables, resume, parts)
            case End(exit_code=code):
                self._finish(code)
            case _:
                raise ProtocolError(f"scheduler: no effect {effect}")

    def _prepare(self, facts: dict[str, Any]) -> tuple[Sequence[Table], Plan]:
        if self._folder is not None:
            facts["folder"] = str(self._folder.path)
        app = self._app = self._kind(Job(self._config, facts))
        servers = self._config.run.servers
        tables = [table.cut(servers) for table in app.tables()]
        if self._resume is not None:
            tables = fit_tables(tables, self._resume)
        for table in tables:
            if table.predicate is not None:
                find_predicate(table)
        return tables, app.plan()

    def _report(self, kind: str, facts: dict[str, Any]) -> None:
        now = self.clock()
        if self._folder is not None:
            self._folder.note(now - self._began, kind, facts)
        if self._console is None:
            return
        if kind == "progress":
            self._console.row(now, facts)
        else:
            parts = [f"{name.replace('_', ' ')} {show(value)}" for name, value in facts.items()]
            self._console.flush_row(now)
            self._console.say(f"{kind:<7}{facts.get('text', '   '.join(parts))}")

    def lose(self, nodes: frozenset[int]) -> None:
        """Go on without nodes that have died, or end the job, if it cannot go on."""
        now, machine = self.clock(), self.machine
        is_begun = machine.state not in ("forming", "starting")
        if machine.state != "ended" and (not is_begun or self._config.recovery.mode == "restart"):
            self.carry_out(machine.fail(now, self._explain_loss()))
        effects = machine.lose(now, nodes)
        # Say where the dead were, and where to look.
        if isinstance(machine.error, RanksLostError) and not machine.error.where.endswith("."):
            error, explained = machine.error, self._explain_loss()
            error.where = f"{error.where}\n{explained.where}.".lstrip()
            error.remedy = explained.remedy
        self.carry_out(effects)

    def _explain_loss(self) -> RanksLostError:
        """Return an error that names the dead ranks, and where they may have said why."""
        lost = sorted(self.transport.lost)
        logs = self._folder.path / "log" if self._folder is not None else "log"
        names = [f"{self._roles[rank]}, rank {rank}" for rank in lost]
        names = [name + (f", on {self._hosts[rank]}" if rank in self._hosts else "")
                 for rank, name in zip(lost, names, strict=True)]  # fmt: skip
        what = "a rank was lost: its process has died" if len(lost) == 1 else "ranks were lost"
        files = ", ".join(f"rank-{rank:04d}.log" for rank in lost)
        remedy = (
            f"Run again. What it did last is in {logs}/{files}; dmesg shows whether the system"
            " killed it for memory."
        )
        return RanksLostError(what, "\n".join(names), remedy)

    def _complain(self) -> None:
        """Tell the user of an error at once: what a rank prints in its last moment may be lost."""
        error = self.machine.error
        if error is None or self.is_told or self._console is None:
            return
        # Who started the ranks reads the result, and who called a job in one process gets it.
        if surroundings.under_mpi() and not surroundings.started_by_mpips():
            self._console.complain(error)
            self.is_told = True

    def _finish(self, exit_code: int) -> None:
        """Write the result, then leave."""
        error, seconds = self.machine.error, self.clock() - self._began
        # Something may have failed after it was decided how the job ends.
        exit_code = error.exit_code if error is not None else exit_code
        counters = {**self.machine.statistics(), "shrinks": self.transport.shrinks}
        for name, count in self.statistics().items():
            counters[name] = counters.get(name, 0) + count
        self.result = {
            "status": "failed" if error else STATUS.get(exit_code, "done"),
            "exit_code": exit_code,
            "error": str(error) if error else None,
            "seconds": round(seconds, 3),
            **self.machine.summary,
            **self.machine.outcome(),
            "counters": counters,
        }
        # Without a majority nobody may say how the job has ended.
        if self._folder is not None and not self.machine.has_given_up:
            self._folder.finish(self.result)
            self.is_told = self.is_told or surroundings.started_by_mpips()
        if self._console is not None:
            folder = str(self._folder.path) if self._folder else ""
            outcome = self.machine.outcome()
            facts = {**self.machine.summary, **(outcome if outcome["failures"] else {})}
            self._console.close(self.clock(), error is not None, facts, folder)
        self.exit_code = exit_code


def make_office(member: Follower) -> SchedulerNode:
    """Return a scheduler on the node of a member, which can go on where another one has died."""
    folder = None
    if "folder" in member.job.facts:
        folder = RunFolder.reopen(Path(member.job.facts["folder"]))
    roles = ["rank"] * member.transport.size
    for node, role in member.roles.items():
        roles[node] = role
    office = SchedulerNode(
        member.transport,
        member.clock,
        member.kind,
        member.config,
        roles,
        folder,
        member.console,
        acceptors=ACCEPTORS_MAX,
    )
    # What comes in is received where the member wants it, as before.
    member.transport.place = member.place
    office.stillness = member.stillness
    return office
