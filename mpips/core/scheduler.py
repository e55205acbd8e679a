"""The scheduler: a conductor whose decisions are stored by majorities before they act.

So it may die: an acceptor reads what a majority has stored, and conducts the job from there.
"""

from collections import deque
from collections.abc import Collection, Iterable
from typing import Any

from mpips.core.attendance import Attendance
from mpips.core.calling import Calling
from mpips.core.conductor import STOPPED_AT_CHECKPOINT, Conductor
from mpips.core.farewell import STOPPING_S_MAX
from mpips.core.forming import FORMING_S_MAX
from mpips.core.leader import Group, Leader
from mpips.core.machine import Answer, Decide, Effect, End, Send
from mpips.core.mandate import Mandate
from mpips.core.news import least_copies, tell_of_succession
from mpips.core.past import Past, read_log
from mpips.core.planning import Planning
from mpips.core.task import Plan, SetDelay
from mpips.errors import MpipsError, RanksLostError
from mpips.wire.messages import Message
from mpips.wire.quiet import Drained, GoOn, Shrink, Shrunk
from mpips.wire.types import make_epoch
from mpips.wire.voting import Accepted, Begun, Done, Entry, Over, Promise, Propose, Refused

__all__ = ["FORMING_S_MAX", "STOPPED_AT_CHECKPOINT", "STOPPING_S_MAX", "SchedulerMachine"]


class SchedulerMachine(Conductor):
    """A `Conductor` with a mandate, or after another scheduler.

    Args:
        silence_s: after which silence a node is suspected to have stopped.
        others: as of a `Conductor`.

    Attributes:
        has_given_up: whether it has ended without a decision, since none can be made any more.
    """

    def __init__(self, *others: Any, **named: Any) -> None:
        super().__init__(*others, **named)
        self._mandate = Mandate(self.node, self._silence_s)
        self.has_given_up = False
        # The orders that schedulers before have followed, and the answers.
        self._ordered: dict[str, str] = {}
        self._waiting: deque[Effect] = deque()
        self._passed: list[Effect] = []

    @property
    def ballot(self) -> int:
        """Return the ballot in which it decides."""
        return self._mandate.leader.ballot

    @property
    def decisions(self) -> list[Entry]:
        """Return what is decided, in order."""
        leader = self._mandate.leader
        return leader.log[: leader.decided]

    @property
    def groups(self) -> list[Group]:
        """Return the acceptors of whom majorities are needed."""
        return self._mandate.leader.groups()

    @property
    def is_deposed(self) -> bool:
        """Return whether others may go on without this scheduler: it must do nothing any more."""
        has_gone = self.state == "ended" and not self._mandate.is_waiting
        return not has_gone and not self._mandate.is_lost and self._mandate.is_over

    def step(self, now: float, source: int, message: Message) -> list[Effect]:
        """Take a message of a node and return what follows."""
        if isinstance(message, Accepted | Refused):
            self.see(now, [source])
            return self._continue(now, self._mandate.take(now, source, message))
        if isinstance(message, Propose):
            return [Send(source, self._mandate.answer(message))]
        if isinstance(message, Drained | Shrunk):
            self.see(now, [source])
            self._quieting.take(now, source, message)
            return []
        if isinstance(message, Promise):
            self.see(now, [source])
            return self._continue(now, self._mandate.promised(now, source, message))
        return self._pass_on(now, super().step(now, source, message))

    def tick(self, now: float) -> list[Effect]:
        """Do what time demands, and show the acceptors that this node is alive."""
        if not self._quieting.is_active:
            return [*self._mandate.tick(now), *self._pass_on(now, self._look(now))]
        # Where all stand still nobody beats, and nobody is silent for that.
        effects = self._quieting.tick(now)
        return self._pass_on(now, effects if self._quieting.is_active
                             else effects + self._give_out(now))  # fmt: skip

    def waiting_for(self) -> list[str]:
        """Return who has not answered yet."""
        return self._quieting.waiting_for() or super().waiting_for()

    def fail(self, now: float, error: MpipsError) -> list[Effect]:
        """End the job because of `error`; the first one is what the user sees."""
        return self._pass_on(now, self._fail(now, error))

    def lose(self, now: float, nodes: Collection[int]) -> list[Effect]:
        """Go on without some nodes, which are dead or as good as dead."""
        self._mandate.lose(nodes)
        return self._pass_on(now, self._lose(now, nodes))

    def save_in(self, now: float, folder: str) -> list[Effect]:
        """Have all servers and workers write their parts of a checkpoint to a folder."""
        if self.state != "running":
            return []
        # Somebody may have died while this was waiting for decisions before it: whoever acts now
        # in its place has nothing yet that could be kept.
        is_settled = self._calling.is_settled(self.view)
        effects = self._save_in(now, folder) if is_settled else self._give_out(now)
        return self._pass_on(now, effects)

    def order(self, now: float, name: str, command: str, node: int | None) -> list[Effect]:
        """Follow a user's order; what follows, and the answer, come once it is decided.

        Args:
            now: as in `step`.
            name: of the order; one that schedulers before have followed is not followed again.
            command: one of `orders.COMMANDS`.
            node: whom it is about; None: whoever fits best.

        Raises:
            UsageError: it cannot be followed.
        """
        if name in self._ordered:
            return []
        return self._pass_on(now, self.steering.order(name, command, node))

    def see(self, now: float, alive: Collection[int]) -> None:
        """Note nodes that somebody has seen alive."""
        super().see(now, alive)
        self._mandate.heard(now, alive)

    def _suspect(self, now: float) -> list[Effect]:
        """Suspect nobody while too few acceptors are heard: then it is this node that is cut off.

        The clock of who watches stands still meanwhile, as if this node had paused.
        """
        return super()._suspect(now) if self._mandate.hears(now) else []

    def statistics(self) -> dict[str, int]:
        """Return counters, by name; those of the nodes are summed when they have stopped."""
        own = {
            "calls": self._calling.requests,
            "reissued_calls": self._calling.reissued,
            "deaths": len(self._nodes.dead),
            "checkpoints": self._saver.saved,
            **self._views.statistics(),
        }
        return self._nodes.counters(own)

    def outcome(self) -> dict[str, int]:
        """Return how many nodes died, how many deaths were survived, and how many more could be."""
        redundancy = least_copies(self.view) if self.view else 0
        died = {"failures": len(self._nodes.dead), "recovered": self._recovered}
        return {**died, "redundancy": redundancy}

    def progress(self) -> dict[str, float]:
        """Return the workers' latest facts, summed."""
        return self._nodes.progress.total()

    def _pass_on(self, now: float, effects: Iterable[Effect]) -> list[Effect]:
        """Return what may happen now; what is behind a decision follows when that is made."""
        # Decisions wait for all to go on, which must not wait for them.
        urgent: list[Effect] = []
        others: list[Effect] = []
        for effect in effects:
            is_urgent = isinstance(effect, Send) and isinstance(effect.message, GoOn | Shrink)
            (urgent if is_urgent else others).append(effect)
        return [*urgent, *self._continue(now, self._mandate.pass_on(others))]

    def _continue(self, now: float, passed: Iterable[Effect]) -> list[Effect]:
        """Return what has passed, and what follows from decisions among it."""
        # Where the plan raises an error, what has passed is not lost.
        self._waiting.extend(passed)
        while self._waiting:
            effect = self._waiting.popleft()
            if not isinstance(effect, Decide):
                self._passed.append(effect)
            elif isinstance(effect.entry, Begun | Done) and self.state == "running":
                follows = self._act_on(now, effect.entry)
                self._waiting.extend(self._mandate.pass_on(follows))
        effects, self._passed = self._passed, []
        if self._mandate.is_lost and self._mandate.is_waiting and not self.has_given_up:
            return [*effects, *self._give_up(now)]
        return effects

    def _give_up(self, now: float) -> list[Effect]:
        """End at once, and tell nobody: without a majority there is nothing to be decided."""
        what = "too many of the nodes died that store the scheduler's decisions"
        self.error = self.error or RanksLostError(what, "", "Run again.")
        self.state, self.has_given_up = "ended", True
        self.tell(now, "stop", what)
        return [End(self.error.exit_code)]

    # -- Succession ------------------------------------------------------------------------------

    def succeed(
        self, now: float, began: float, leader: Leader, lost: Collection[int], after_s: float
    ) -> list[Effect]:
        """Take over from another scheduler, where its log ends.

        Whatever the app raises here, `fail` can end the job for all after it.

        Args:
            now: as in `step`.
            began: when the job did.
            leader: this node, which has read the log.
            lost: the nodes that are known to be dead.
            after_s: how long there was no scheduler.

        Raises:
            RanksLostError: the job had not begun.
        """
        past = read_log(leader.log)
        if past is None:
            raise RanksLostError("the scheduler died before the job had begun", "", "Run again.")
        old, self._facts = past.view.scheduler, past.begun.facts
        self._mandate = Mandate(self.node, self._silence_s, leader)
        self._mandate.lose({old, *lost})
        # Numbers of calls are beyond those of all schedulers before, however many they gave out.
        self._calling = Calling(make_epoch(leader.ballot, 0))
        self._nodes = Attendance({member.node: member.role for member in past.view.members})
        self._nodes.dead.update(past.dead)
        self._recovered = len(past.dead)
        self._views.view, self._is_new_here = past.view, True
        self._ordered = past.orders
        self.steering.begin_anew(self._calling, self._nodes.expected)
        self._run(now, past.view, past.begun.pulses)
        effects: list[Effect] = [tell_of_succession(self._nodes.name(self.node), old, after_s)]
        # Whoever has ordered something may wait still for the answer.
        effects += [Answer(name, text) for name, text in past.orders.items()]
        if past.over is not None:
            effects += self._stop_again(now, past.over, old, lost)
        else:
            effects += self._go_on_from(now, began, past, {old, *lost})
        return self._mandate.tick(now) + self._pass_on(now, effects)

    def _go_on_from(
        self, now: float, began: float, past: Past, lost: Collection[int]
    ) -> list[Effect]:
        """Bring the plan to its place, go on without the dead, and give its task out."""
        tables, plan = self._prepare(dict(past.begun.facts))
        self._views.go_on(now, past.view, tables)
        self._replay(plan, past)
        hosts = len({member.host for member in past.view.members})
        self._saver.begin(now, self._calling.iterations, hosts, began)
        effects = self._lose(now, lost)
        return effects + (self._follow(now, ()) if self.state == "running" else [])

    def _replay(self, plan: Plan, past: Past) -> None:
        """Bring the plan to its place by what is decided."""
        begun, calling = past.begun, self._calling
        self._plan = Planning(plan)
        if begun.checkpoint:
            calling.restore(len(begun.results), begun.takeovers, begun.checkpoint)
        says = [*self._plan.begin(begun.results)]
        for done in past.done:
            assert self._plan.task is not None, "a task is done that the plan does not want"
            calling.recall(self._plan.task, done)
            says += self._plan.go_on(done.results)
        # What it said is said; but nobody else knows the delays that it has set.
        for said in says:
            if isinstance(said, SetDelay):
                calling.set_delay(said, self._views.tables)
        calling.doubt(begun.view)

    def _stop_again(
        self, now: float, over: Over, old: int, lost: Collection[int]
    ) -> list[Effect]:
        """Stop a job of which it is decided that it stops; some may have left already."""
        change = self._views.fail_over(now, [old])
        self._nodes.leave([old])
        self._recovered += 1
        self.summary = over.summary
        if over.error is not None:
            is_loss = over.exit_code == RanksLostError.exit_code
            self.error = (RanksLostError if is_loss else MpipsError)(*over.error)
            self.error.exit_code = over.exit_code
        gone = set(lost).intersection(self._nodes.expected)
        self._nodes.stopped.update({node: {} for node in gone})
        return [*self._views.announce(change.view), *self._stop(now, over.exit_code)]
