"""What servers and workers have in common: they come, get tables, answer calls, and go."""

import logging
import os
import socket
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from mpips.config import Config
from mpips.core.held import NEVER
from mpips.core.machine import Effect
from mpips.errors import MpipsError, ProtocolError, RanksLostError
from mpips.filters.chain import make_chains
from mpips.node import surroundings
from mpips.node.app import App, Job
from mpips.node.calls import Calls
from mpips.node.failure import tell_failure
from mpips.node.follower import FLUSH_S, ORDERS, TIMELESS, Follower
from mpips.node.log import introduce, open_log
from mpips.node.loop import KINDS
from mpips.node.writing import Parts, Writing
from mpips.transport.base import Transport
from mpips.wire.messages import (
    Beat,
    Call,
    Copied,
    Drop,
    Failed,
    Hello,
    Kill,
    Message,
    NewView,
    Pull,
    Push,
    Ready,
    Return,
    Save,
    Saved,
    Start,
    Stop,
    Stopped,
)
from mpips.wire.types import Table, View, make_epoch

log = logging.getLogger(__name__)


class Member(Follower):
    """A node that takes part in a scheduler's job.

    Args:
        transport: carries its frames.
        clock: seconds that never go back.
        kind: the app.
        config: the effective config.

    Attributes:
        has_stopped: whether it has nothing left to send.
        past: the counters of the roles that it has had before, if it `has_served` in any.
    """

    role: str
    kinds: ClassVar[dict[str, type["Member"]]] = {}

    def __init_subclass__(cls) -> None:
        """Note the class of each role."""
        super().__init_subclass__()
        cls.kinds[cls.role] = cls

    def __init__(
        self, transport: Transport, clock: Callable[[], float], kind: type[App], config: Config
    ) -> None:
        super().__init__(transport, clock, kind, config)
        self.tables: list[Table] = []
        self._is_greeted = self._has_failed = self.has_stopped = False
        self._failure: Failed | None = None
        # Of this view, and the first whose messages are for this role.
        self._epoch = self._oldest = 0
        self._calls = Calls()
        # Who is in the job, with the epoch that appointed them; what comes from later views.
        self._members: dict[int, int] = {}
        self._parked: list[tuple[int, Message]] = []
        self._refused = self._parkings = self._parked_elsewhere = 0
        self.past, self.has_served = dict[str, int](), False
        self._writing = Writing(self, self._tell_saved)

    def turn(self) -> bool:
        """Take what has come, and tell the scheduler if that fails."""
        try:
            if not self._is_greeted:
                self._is_greeted = True
                self._greet()
            is_busy = self._writing.look() or super().turn()
            self.look_at_office()
            return is_busy
        except RanksLostError as error:
            log.warning("%s", error)
            self.exit_code = error.exit_code
        except Exception as error:
            self.fail(error)
        return True

    def receive(self, source: int, message: Message) -> None:
        """Take a message: the scheduler's here, others go to the machine.

        Each may come again: a node starts once, runs a call once, and stops once.
        """
        if self.exit_code is not None:
            return
        # Nearly all messages are the machine's.
        is_data, epoch = type(message) in KINDS, message.epoch
        if not is_data and self.is_about_scheduler(source, message):
            return
        if self._has_failed and not isinstance(message, Stop | NewView):
            return
        # What belongs to a later view waits for it; the views themselves do not.
        if epoch > self._epoch and (is_data or not isinstance(message, TIMELESS)):
            self._parkings += 1
            self._parked.append((source, message))
        elif is_data:
            if epoch < self._oldest or message.incarnation < self._members.get(source, NEVER):
                self._refused += 1
            else:
                self.take(source, message)
        elif self._is_of_others(source, message) or self._is_of_before(message):
            self._refused += 1
        else:
            self._obey(source, message)

    def _obey(self, source: int, message: Message) -> None:
        """Do what the scheduler wants, or give the message to the machine."""
        match message:
            case Start(view=view):
                if view.epoch > self._epoch:
                    self._start(view, message)
            case Save():
                self._writing.begin(message.number, Path(message.folder))
            case NewView(view=view):
                if view.epoch > self._epoch:
                    self._change_view(view)
            case Kill(node=node):
                done = self.pulse is not None and self.pulse.kill(node)
                log.warning("node %d is silent; killed here: %s", node, done)
            case Call() if self._calls.take(message):
                self._begin(message)
            case Call():
                answer = self._calls.answer(message)
                if answer is not None:
                    self.send(self.scheduler, answer)
            case Stop(exit_code=code, stays=stays):
                self._stop(source, code, stays)
            case _:
                self.take(source, message)

    def _is_of_others(self, source: int, message: Message) -> bool:
        """Return whether a message is from a former scheduler, or a former self of its source."""
        if isinstance(message, ORDERS):
            return source != self.scheduler
        is_old = message.incarnation < self._members.get(source, NEVER)
        return is_old and not isinstance(message, TIMELESS)

    def _is_of_before(self, message: Message) -> bool:
        """Return whether a message is for what this node was before it got its role by a view."""
        is_for_all = isinstance(message, (*TIMELESS, Drop, Kill))
        return message.epoch < self._oldest and not is_for_all

    def _begin(self, call: Call) -> None:
        """Run a call, unless an earlier scheduler has asked for the same already."""
        log.info("call %d: %s", call.request, call.function)
        if call.takeover is None or not call.takeover.is_known:
            self.call(call)
        elif (answer := self._calls.answer_again(call)) is not None:
            self.send(self.scheduler, answer)
        elif not self.adopt(call):
            self.call(call)

    def adopt(self, call: Call) -> bool:
        """Go on with a call under another number, if it runs here, and return whether it does."""
        return False

    # -- What this node tells the scheduler ------------------------------------------------------

    def fail(self, error: Exception) -> None:
        """Tell the scheduler that this node cannot go on, and wait for the stop."""
        if self._has_failed:
            return
        self._has_failed = True
        log.error("cannot go on", exc_info=error)
        self._failure = tell_failure(error, self.name(), self._epoch)
        self.send(self.scheduler, self._failure)

    def name(self) -> str:
        """Return what people call this node."""
        return f"{self.role} {self.transport.node} on {socket.gethostname()}"

    def tick(self, now: float) -> None:
        """Tell the scheduler who is alive on this host, now and then."""
        if self.pulse is not None and self._epoch and self.is_beat_due(now):
            self.send(self.scheduler, self.beat(self.pulse.moved()))
        self.watch_scheduler(now)

    def beat(self, moved: list[int]) -> Beat:
        """Return what to tell the scheduler now and then: who is alive on this host."""
        return Beat(epoch=self._epoch, moved=moved)

    def answer(self, request: int, result: Any, streams: Sequence[tuple[int, int]] = ()) -> None:
        """Send a call's result to the scheduler, and how far its logical worker's streams are."""
        answer = Return(epoch=self._epoch, request=request, result=result, streams=list(streams))
        self._calls.note(answer)
        self.send(self.scheduler, answer)

    @abstractmethod
    def know(self) -> dict[str, Any]:
        """Return the facts of the data that this node sees."""

    @abstractmethod
    def prepare(self, view: View) -> None:
        """Make the machine, and whatever calls will need, for the first view."""

    @abstractmethod
    def install(self, view: View) -> None:
        """Go on in a new view."""

    def restore(self, checkpoint: Path) -> None:
        """Take what a checkpoint has for this node."""

    def weigh(self) -> int:
        """Return how many bytes a copy of this node's part of a checkpoint takes, at most."""
        return 0

    def save(self, folder: Path, later: bool) -> Callable[[], Parts]:
        """Return what writes this node's part of a checkpoint, and returns its files.

        Args:
            folder: of the checkpoint.
            later: whether it is called later, in a thread, and has to write what there is now.
        """
        return list

    def forget_part(self) -> None:
        """Let go of what is kept for a part: it is written, or called off."""

    def _tell_saved(self, number: int, parts: Parts | None) -> None:
        """Tell the scheduler that nothing can change a part, or in which files it is."""
        head: dict[str, Any] = {"epoch": self._epoch, "number": number}
        self.send(self.scheduler, Copied(**head) if parts is None else Saved(**head, parts=parts))

    @property
    def due(self) -> float:
        """Return when to look whether a part is written; never: infinity."""
        return self._writing.due(self.clock())

    @abstractmethod
    def call(self, call: Call) -> None:
        """Run a function of the app, and answer sooner or later."""

    @abstractmethod
    def take(self, source: int, message: Message) -> None:
        """Take a message for the machine."""

    @abstractmethod
    def counters(self) -> dict[str, int]:
        """Return the machine's counters."""

    def perform(self, effect: Effect) -> None:
        """Refuse effects that this role's machine cannot have."""
        raise ProtocolError(f"{self.role} {self.transport.node}: no effect {effect}")

    def _greet(self) -> None:
        try:
            facts = self.know()
        except MpipsError as error:
            self.fail(error)
            return
        self.send(self.scheduler, Hello(
            role=self.role, host=socket.gethostname(), process=os.getpid(), facts=facts,
            has_pulse=self.pulse is not None,
        ))  # fmt: skip

    def _start(self, view: View, start: Start) -> None:
        self.enter(view, start.facts)
        if start.checkpoint:
            self.restore(Path(start.checkpoint))
        # All have found the shared memory: what is left of it goes with the processes.
        if self.pulse is not None:
            self.pulse.remove()
        self.send(self.scheduler, Ready(epoch=self._epoch))
        self._unpark()

    def enter(self, view: View, facts: dict[str, Any]) -> None:
        """Take the part in the job that a view gives this node."""
        self._is_greeted = True
        self._know_view(view)
        if "folder" in facts and surroundings.under_mpi():
            open_log(Path(facts["folder"]), self.transport.node, self.config.run.debug)
        introduce(self.name(), os.getpid())
        self.job = Job(self.config, facts)
        # The segments are those that the job began with, however many servers there are now.
        tables = self.kind(self.job).tables()
        self.tables = [
            msgspec.structs.replace(table, segments=len(owners))
            for table, owners in zip(tables, view.owners, strict=True)
        ]
        self.chains = make_chains(self.config.filters.compress, len(tables))
        self.prepare(view)

    def _know_view(self, view: View) -> None:
        self._epoch = view.epoch
        self._members = {member.node: member.incarnation for member in view.members}
        own = self._members.get(self.transport.node, 0)
        self._oldest = own if own >= make_epoch(2, 0) else 0
        # What the one before was told of is lost.
        if view.scheduler != self.scheduler and self._failure is not None:
            self.send(view.scheduler, self._failure)
        self.follow(view)

    def _change_view(self, view: View) -> None:
        """Go on in a new view, with what has waited for it."""
        old = set(self._members)
        self._parked_elsewhere += self._count_elsewhere(view)
        self._know_view(view)
        log.info("view %d", view.epoch)
        # The others have gone on without this node: whatever it does, nobody may see it.
        if self.transport.node not in self._members:
            log.error("declared dead by view %d", view.epoch)
            self.is_fenced, self.exit_code = True, RanksLostError.exit_code
            return
        for node in sorted(old.difference(self._members)):
            log.warning("node %d has died", node)
            self.transport.forget(node)
        member = view.member(self.transport.node)
        assert member is not None
        if member.role == self.role:
            self.install(view)
        else:
            self._succeed(view, member.role)
        self._unpark()

    def _succeed(self, view: View, role: str) -> None:
        """Go on in another role, as another object."""
        log.info("a %s from now on", role)
        self._writing.finish()
        node = self.kinds[role](self.transport, self.clock, self.kind, self.config)
        node.inherit(self)
        node.pulse = self.pulse
        node.bytes_sent, node.past, node.has_served = self.bytes_sent, self.all_counters(), True
        # An acceptor that has stopped may hear of a view late.
        node.has_stopped = self.has_stopped
        node.enter(view, dict(self.job.facts))
        self.successor = node

    def all_counters(self) -> dict[str, int]:
        """Return the machine's counters, and those of the roles before."""
        total = Counter(self.past)
        total.update(self.counters())
        return dict(total)

    def _count_elsewhere(self, view: View) -> int:
        """Return how many parked requests are about nothing that a view gives to others."""
        return sum(
            all(view.since[message.table][s] <= self._epoch for s in message.slices.segments())
            for _, message in self._parked
            if isinstance(message, Push | Pull)
        )

    def _unpark(self) -> None:
        """Take what has waited for this view."""
        parked, self._parked = self._parked, []
        for source, message in parked:
            self.latest.receive(source, message)

    def _stop(self, scheduler: int, exit_code: int, stays: bool) -> None:
        views = {
            "refused_messages": self._refused,
            "parked_messages": self._parkings,
            "parked_elsewhere": self._parked_elsewhere,
        }
        statistics = {**self.statistics(), **views, **self.all_counters()}
        log.info("stop with exit code %d: %s", exit_code, statistics)
        # That one may be new, and its view still on its way.
        self.send(scheduler, Stopped(epoch=self._epoch, statistics=statistics))
        self.has_stopped = True
        if not stays:
            self.leave()

    def leave(self) -> None:
        """End this node's part in the job; who is the scheduler, too, leaves with that."""
        if self.office is not None:
            return
        self.transport.flush(FLUSH_S)
        # The scheduler alone ends with the job's code: mpirun kills all that are left when the
        # first rank ends with an error, and the result would never be written.
        self.exit_code = 0
