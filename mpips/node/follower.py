"""A node that follows the scheduler of its view, stores its decisions, and may follow after it."""

import logging
from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from mpips.config import Config
from mpips.core.leader import Leader
from mpips.core.past import read_log
from mpips.core.succession import Succession
from mpips.errors import FileError, RanksLostError
from mpips.node.app import App, Job
from mpips.node.console import Console
from mpips.node.loop import Node
from mpips.transport.base import Transport
from mpips.wire.messages import (
    Beat,
    Call,
    Copied,
    Drop,
    Failed,
    Handed,
    Joined,
    Kill,
    Message,
    NewView,
    Progress,
    Return,
    Save,
    Saved,
    Start,
    Stop,
    Stopped,
)
from mpips.wire.quiet import Drained, GoOn, Halt, Shrink, Shrunk
from mpips.wire.types import View
from mpips.wire.voting import VOTES, Accepted, Claim, Leave, Promise, Propose, Refused

if TYPE_CHECKING:
    from mpips.node.scheduler import SchedulerNode

log = logging.getLogger(__name__)

FIRST_SCHEDULER: Final = 0
FLUSH_S: Final = 10.0
BEATS_IN_A_SILENCE: Final = 8
REPORTS: Final = (
    *(Return, Progress, Failed, Stopped, Joined, Handed),
    *(Copied, Saved, Beat, Drained, Shrunk),
)
"""What is for the scheduler, wherever it is."""
ORDERS: Final = (Call, Drop, Save, Kill)
"""What only the scheduler of one's view may ask for."""
TIMELESS: Final = (Start, NewView, Stop)
"""What waits for no view, and may come from anybody."""


class Follower(Node):
    """A node with a scheduler, which may become one beside what else it is.

    Args:
        transport: carries its frames.
        clock: seconds that never go back.
        kind: the app.
        config: the effective config.

    Attributes:
        scheduler: the node that it is of the view.
        roles: by node, of the view.
        office: the scheduler, if it is on this node.
        console: where an office shows the job's progress; None: nowhere.
        began: when this node did.
    """

    def __init__(
        self, transport: Transport, clock: Callable[[], float], kind: type[App], config: Config
    ) -> None:
        super().__init__(transport, clock)
        self.kind, self.config = kind, config
        self.job = Job(config, {})
        self.scheduler = FIRST_SCHEDULER
        self.roles: dict[int, str] = {}
        self.office: SchedulerNode | None = None
        self.console: Console | None = None
        self.began = clock()
        self._succession = Succession(transport.node, config.recovery.silence_s)
        self._has_heirs = False
        self._next_beat = 0.0
        self._stop_reason = ""

    def is_about_scheduler(self, source: int, message: Message) -> bool:
        """Take a message that is for a scheduler, or about who it is, and return whether it was."""
        if source == self.scheduler:
            self._succession.heard(self.clock())
        if isinstance(message, VOTES):
            self._vote(source, message)
        elif isinstance(message, REPORTS):
            if self.office is not None:
                self.office.attend(source, message)
        elif isinstance(message, Halt | GoOn | Shrink):
            # Not even those who wait for a view may miss that: all have to answer.
            if source == self.scheduler:
                self.stillness.take(self, source, message)
        else:
            return False
        return True

    def is_beat_due(self, now: float) -> bool:
        """Return whether it is time to say who is alive; where all stand still it never is."""
        if self.stillness.is_on or now < self._next_beat:
            return False
        self._next_beat = now + beat_s(self.config)
        return True

    def stop_soon(self, reason: str) -> None:
        """Stop the job at a checkpoint, now or when this node becomes the scheduler."""
        latest = self.latest
        assert isinstance(latest, Follower)
        latest._stop_reason = reason
        if latest.office is not None:
            latest.office.machine.stop_soon(reason)

    def follow(self, view: View) -> None:
        """Follow the scheduler of a view."""
        self.roles = {member.node: member.role for member in view.members}
        self._has_heirs = len(view.acceptors) > 1
        self._succession.install(self.clock(), view)
        if view.scheduler != self.scheduler:
            self.stillness.end()
        self.scheduler = view.scheduler

    def lose(self, nodes: frozenset[int]) -> None:
        """Go on without other nodes; if the scheduler is one of them, somebody will take over.

        Raises:
            RanksLostError: the scheduler is dead, and there is nobody who could.
        """
        # Who leaves before this node looks the same: whether it is a death is said by a view.
        log.info("node %s is gone", ", ".join(map(str, sorted(nodes))))
        self._succession.lose(self.clock(), nodes)
        # Whoever follows it has to hear of this node.
        if self.scheduler in nodes:
            self.stillness.end()
        if self.office is not None:
            self.office.lose(nodes)
        elif self.scheduler in nodes and not self._has_heirs:
            raise RanksLostError("the scheduler has died", self.name())

    @abstractmethod
    def name(self) -> str:
        """Return what people call this node."""

    @abstractmethod
    def leave(self) -> None:
        """End this node's part in the job; who is the scheduler, too, leaves with that."""

    def _vote(self, source: int, message: Message) -> None:
        """Take a message about the scheduler's decisions, or about who it is."""
        if isinstance(message, Leave):
            self.leave()
            return
        is_answer = isinstance(message, Accepted | Promise | Refused)
        if self.office is not None and is_answer:
            self.office.attend(source, message)
        elif isinstance(message, Claim | Propose | Promise | Refused) and not (
            self.office is not None and isinstance(message, Claim)
        ):
            self.carry_out(self._succession.step(self.clock(), source, message))

    def watch_scheduler(self, now: float) -> None:
        """Stand as a candidate when it is time, and take over once elected.

        While all stand still nobody is silent.

        Raises:
            RanksLostError: nobody can take over any more.
        """
        if self.stillness.is_too_long(now):
            self.stillness.end()
        if self.office is not None:
            self.office.attend_to_time(now)
            return
        succession = self._succession
        if not self.stillness.is_on:
            self.carry_out(succession.tick(now))
        since = succession.gone_since
        if succession.leader is not None and since is not None:
            self._take_over(succession.leader, now - since)
        elif succession.is_hopeless(now):
            raise RanksLostError("the scheduler has died, and nobody can take over", self.name())

    def _take_over(self, leader: Leader, after_s: float) -> None:
        """Become the scheduler, unless the one before has left this node behind.

        Raises:
            RanksLostError: the job had not begun, or what it has written cannot be gone on with.
        """
        past = read_log(leader.log)
        if past is not None and past.view.member(self.transport.node) is None:
            log.error("declared dead by view %d", past.view.epoch)
            self.is_fenced, self.exit_code = True, RanksLostError.exit_code
            return
        from mpips.node.scheduler import make_office

        log.warning("node %d is the scheduler now", self.transport.node)
        try:
            self.office = make_office(self)
        except FileError as error:
            what = f"the scheduler has died, and nobody can take over: {error.what}"
            raise RanksLostError(what, self.name()) from None
        self.office.take_over(self, leader, after_s)
        # The one before has perhaps not lived to do it.
        if self._stop_reason:
            self.office.machine.stop_soon(self._stop_reason)

    def look_at_office(self) -> None:
        """End with the office, if it is on this node."""
        if self.office is None or self.office.exit_code is None or self.exit_code is not None:
            return
        self.transport.flush(FLUSH_S)
        self.is_fenced, self.exit_code = self.office.is_fenced, self.office.exit_code

    def inherit(self, other: "Follower") -> None:
        """Go on in another one's place."""
        self.reach, self.console = other.reach, other.console
        self.office, self.began = other.office, other.began
        self.stillness = other.stillness
        self._succession, self._stop_reason = other._succession, other._stop_reason


def beat_s(config: Config) -> float:
    """Return how often nodes say who is alive, in seconds: every second if silence may last."""
    return min(1.0, config.recovery.silence_s / BEATS_IN_A_SILENCE)
