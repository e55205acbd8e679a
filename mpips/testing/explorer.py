"""Explores all interleavings of small clusters that lose nodes: real machines, every order.

A state of the whole is a tuple of states of the sites and the bag of frames in flight. Machines
are pure: what a site does with a frame is a function of its state, so that it is stepped once for
each state and frame, whatever the others do meanwhile, and states that are equal in every
attribute (`freeze`) are explored once. That loses nothing. Events are: the delivery of any frame,
the death of a node, that the scheduler learns of deaths, and that it sees the time pass. Frames of
the dead may arrive or not, in any state: an end is where only such frames are left.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from mpips.core.held import NEVER
from mpips.errors import ProtocolError, RanksLostError
from mpips.testing.cases import Case
from mpips.testing.sites import (
    SCHEDULER,
    SchedulerSite,
    ServerSite,
    Site,
    Violation,
    WorkerSite,
    digits,
)
from mpips.testing.states import clone, freeze
from mpips.wire.messages import Message, Stop
from mpips.wire.types import NOBODY

DEAD: Final = -1
DIES: Final = "dies"

class State(NamedTuple):
    """The whole cluster: states of sites by node, frames in flight, and what happened to it."""

    sites: tuple[int, ...]
    frames: tuple[int, ...]
    unknown: frozenset[int]
    lost: frozenset[int]
    acked: frozenset[tuple[int, int]]


class Event(NamedTuple):
    """What happens to a site: a frame, or what its name says."""

    site: int
    name: str
    frame: int = -1
    nodes: tuple[int, ...] = ()


class Outcome(NamedTuple):
    """What a site does when something happens: its new state, and what it sends."""

    site: int
    frames: tuple[int, ...]
    acked: tuple[tuple[int, int], ...]


@dataclass
class Found:
    """What an exploration has found.

    Attributes:
        states: how many different states of the whole there are.
        steps: how many steps of machines were computed.
        events: how many events lead from one state to another.
        ends: states in which nothing is left to happen.
        interleavings: how many orders of events lead from the begin to an end.
        losses: ends in which all copies of something had died, and the job said so.
        is_complete: whether all states were explored.
    """

    states: int = 0
    steps: int = 0
    events: int = 0
    ends: int = 0
    interleavings: int = 0
    losses: int = 0
    is_complete: bool = True
    acks: Counter[int] = field(default_factory=Counter)


class Facts(NamedTuple):
    """What is checked of a server: its view, what it owns, how often each push is where, clocks."""

    epoch: int
    owned: frozenset[int]
    counts: dict[int, list[int]]
    clocks: dict[int, list[int]]


class Explorer:
    """Explores a case, depth first.

    Invariants, checked in every state:

    - UniqueOwner: in one epoch, no two nodes own a segment.
    - AckedDurable: each push that was acknowledged is exactly once in the owner and in all copies
      in sync of its segments, as the scheduler's view has them, as far as they live.
    - AtMostOnce: no push is in any server twice.
    - MonotoneClock: an owner's clocks never go back, never say more than what it has applied, and
      nothing less than what was acknowledged.
    - OneSum: a segment that aggregates is updated at most once for each clock.

    And in every end: all live workers have got all answers, or all copies of some segment have
    died, and the job has ended because of that.
    """

    def __init__(self, case: Case, states_max: int = 10**9) -> None:
        self.case, self._states_max = case, states_max
        self.found = Found()
        self._locals: list[Site | SchedulerSite] = []
        self._facts: list[Facts | None] = []
        self._numbers: dict[Any, int] = {}
        self._frames: list[tuple[int, int, Message]] = []
        self._frame_numbers: dict[Any, int] = {}
        self._outcomes: dict[tuple[int, Event], Outcome] = {}
        self._paths: dict[State, int] = {}
        self._trace: list[Event] = []

    def run(self) -> Found:
        """Explore everything, or as much as the limit allows.

        Raises:
            Violation: a promise is broken; the text has the events that lead there.
        """
        found = self.found
        try:
            found.interleavings = self._explore(self._begin())
        except (AssertionError, ProtocolError) as error:
            events = "\n".join(self.describe(event) for event in self._trace)
            raise Violation(f"{type(error).__name__}: {error}\n{events}") from error
        found.states, found.steps = len(self._paths), len(self._outcomes)
        return found

    def describe(self, event: Event) -> str:
        """Return an event in words."""
        if event.frame < 0:
            return f"{event.name} {event.nodes}"
        source, dest, message = self._frames[event.frame]
        return f"{source} > {dest} {message}"

    # -- The begin ---------------------------------------------------------------------------------

    # -- The search --------------------------------------------------------------------------------

    def _begin(self) -> State:
        """Return the first state."""
        scheduler, sites, requests = self.case.begin()
        frames = [self._number_frame(*request) for request in requests]
        numbers = (self._intern(scheduler), *(self._intern(site) for site in sites.values()))
        nobody: frozenset[int] = frozenset()
        return State(numbers, tuple(sorted(frames)), nobody, nobody, frozenset())

    def _explore(self, state: State) -> int:
        """Return how many ways lead from a state to an end."""
        known = self._paths.get(state)
        if known is not None:
            return known
        found = self.found
        if len(self._paths) >= self._states_max:
            found.is_complete = False
            return 0
        self._paths[state] = 0
        self._check(state)
        scheduler = self._scheduler(state)
        ways, must_go_on = 0, False
        for event, is_due in () if scheduler.is_over else self._events(state):
            must_go_on |= is_due
            found.events += 1
            self._trace.append(event)
            ways += self._explore(self._follow(state, event))
            self._trace.pop()
        if not must_go_on:
            self._check_end(state)
            found.ends += 1
            ways += 1
        self._paths[state] = ways
        return ways

    def _events(self, state: State) -> Iterator[tuple[Event, bool]]:
        """Yield what may happen, and whether it must sooner or later."""
        for frame in sorted(set(state.frames)):
            source, dest, _ = self._frames[frame]
            yield Event(dest, "frame", frame), not {source, dest} & state.lost
        tick = Event(SCHEDULER, "tick")
        if self._outcome(state.sites[SCHEDULER], tick).site != state.sites[SCHEDULER]:
            yield tick, True
        for nodes in _subsets(sorted(state.unknown)):
            yield Event(SCHEDULER, "learns of the death of", nodes=nodes), True
        mortal = self.case.mortal or range(1, self.case.servers + 1)
        if len(state.lost) < self.case.deaths:
            for node in mortal:
                if node not in state.lost:
                    yield Event(node, DIES, nodes=(node,)), False

    def _follow(self, state: State, event: Event) -> State:
        """Return the state after an event."""
        return self._kill(state, event.site) if event.name == DIES else self._step(state, event)

    def _kill(self, state: State, node: int) -> State:
        """Return the state after a death: frames to the node are lost, those from it fly on."""
        sites, frames = state.sites, state.frames
        if not self.case.liars:
            sites = (*sites[:node], DEAD, *sites[node + 1 :])
            frames = tuple(frame for frame in frames if self._frames[frame][1] != node)
        dead = frozenset({node})
        return state._replace(
            sites=sites, frames=frames, unknown=state.unknown | dead, lost=state.lost | dead
        )

    def _step(self, state: State, event: Event) -> State:
        """Return the state after a step of one site."""
        at = event.site
        outcome = self._outcome(state.sites[at], event)
        sites = (*state.sites[:at], outcome.site, *state.sites[at + 1 :])
        frames = list(state.frames)
        if event.frame >= 0:
            frames.remove(event.frame)
        # What will never have an effect is as good as gone.
        frames = sorted(f for f in (*frames, *outcome.frames) if self._has_effect(sites, f))
        return state._replace(
            sites=sites,
            frames=tuple(frames),
            unknown=state.unknown.difference(event.nodes),
            acked=state.acked.union(outcome.acked) if outcome.acked else state.acked,
        )

    def _has_effect(self, sites: tuple[int, ...], frame: int) -> bool:
        source, dest, message = self._frames[frame]
        if sites[dest] == DEAD or isinstance(message, Stop):
            return False
        site = self._locals[sites[dest]]
        return not (isinstance(site, Site) and site.is_deaf_to(source, message))

    def _outcome(self, number: int, event: Event) -> Outcome:
        """Return what a site does; each site in each state is stepped once for each event."""
        known = self._outcomes.get((number, event))
        if known is not None:
            return known
        site = clone(self._locals[number])
        if event.frame >= 0:
            source, _, message = self._frames[event.frame]
            letters = site.receive(source, message)
        else:
            assert isinstance(site, SchedulerSite)
            letters = site.tick() if event.name == "tick" else site.lose(event.nodes)
        acked: tuple[tuple[int, int], ...] = ()
        if isinstance(site, Site):
            acked, site.acked = tuple(site.acked), []
        sent = tuple(self._number_frame(event.site, *letter) for letter in letters)
        outcome = Outcome(self._intern(site), sent, acked)
        self._check_clocks(self._facts[number], self._facts[outcome.site])
        self._outcomes[number, event] = outcome
        return outcome

    def _intern(self, site: Site | SchedulerSite) -> int:
        """Return the number of a site's state."""
        key = freeze(site)
        if key not in self._numbers:
            self._numbers[key] = len(self._locals)
            self._locals.append(site)
            self._facts.append(self._look(site))
        return self._numbers[key]

    def _number_frame(self, source: int, dest: int, message: Message) -> int:
        """Return the number of a frame; equal ones have the same."""
        key = source, dest, freeze(message)
        if key not in self._frame_numbers:
            self._frame_numbers[key] = len(self._frames)
            self._frames.append((source, dest, message))
        return self._frame_numbers[key]

    # -- The promises ------------------------------------------------------------------------------

    def _look(self, site: Site | SchedulerSite) -> Facts | None:
        """Return what is checked of a server, AtMostOnce already."""
        if not isinstance(site, ServerSite) or site.machine is None:
            return None
        (held,) = site.machine._held
        counts, clocks = {}, {}
        for segment in held.store.held:
            _, rows = held.store.snapshot(segment)
            counts[segment] = digits(float(rows[0, 0]), self.case.pushes * self.case.workers)
            if max(counts[segment]) > 1:
                raise Violation(f"AtMostOnce: node {site.node} has {counts[segment]}")
            clocks[segment] = [clock.least(segment, segment + 1) for clock in held.clocks.clocks]
            applied = held.applied[segment]
            if held.table.aggregate and held.logs[segment] > max(applied):
                raise Violation(f"OneSum: node {site.node} has {held.logs[segment]} of {applied}")
            for stream, clock in enumerate(clocks[segment]):
                # Each push has the clock of its number.
                if held.active[stream] and clock > applied[stream]:
                    raise Violation(
                        f"MonotoneClock: node {site.node} says {clocks[segment]} of {applied}"
                    )
        owned = frozenset(s for s, epoch in enumerate(held.reign) if epoch < NEVER)
        return Facts(site.epoch, owned, counts, clocks)

    def _check_clocks(self, before: Facts | None, after: Facts | None) -> None:
        if before is None or after is None:
            return
        for segment in before.owned & after.owned:
            old, new = before.clocks[segment], after.clocks[segment]
            if any(a > b for a, b in zip(old, new, strict=True)):
                raise Violation(f"MonotoneClock: from {old} to {new}")

    def _check(self, state: State) -> None:
        """Check what no single site can tell.

        Raises:
            Violation: a promise is broken.
        """
        owners: dict[tuple[int, int], int] = {}
        for node, number in enumerate(state.sites):
            facts = self._facts[number] if number != DEAD else None
            for segment in facts.owned if facts else ():
                assert facts is not None
                if owners.setdefault((facts.epoch, segment), node) != node:
                    raise Violation(f"UniqueOwner: {node} and another in {facts.epoch}")
        scheduler = self._scheduler(state).machine
        if scheduler.error is not None or scheduler.view is None:
            return
        for segment, owner in enumerate(scheduler.view.owners[0].tolist()):
            for node in (owner, *scheduler.view.copies[0][segment].tolist()):
                if node == NOBODY or node in state.lost:
                    continue
                facts = self._facts[state.sites[node]]
                assert facts is not None
                for stream, number in state.acked:
                    counts = facts.counts.get(segment)
                    if not counts or counts[stream * self.case.pushes + number - 1] != 1:
                        raise Violation(
                            f"AckedDurable: node {node} has {counts}, not {(stream, number)}"
                        )
                    is_told = segment in facts.owned and self.case.mode != "eventual"
                    if is_told and facts.clocks[segment][stream] < number:
                        raise Violation(f"MonotoneClock: node {node} is behind {number}")

    def _check_end(self, state: State) -> None:
        """Check that nobody waits, or that the job has said what it has lost."""
        machine = self._scheduler(state).machine
        if machine.error is not None:
            if not isinstance(machine.error, RanksLostError) or not self._has_lost(state):
                raise Violation(f"the job ends: {machine.error}")
            self.found.losses += 1
            return
        for node, number in enumerate(state.sites):
            site = self._locals[number] if number != DEAD else None
            if isinstance(site, WorkerSite) and node not in state.lost and not site.is_done:
                raise Violation(f"worker {node} waits for ever: {site.running}")
        if self.case.answers and machine.state not in ("stopping", "ended"):
            raise Violation(f"the job stands still, waiting for {machine.waiting_for()}")
        self.found.acks[len(state.acked)] += 1

    def _has_lost(self, state: State) -> bool:
        """Return whether all copies of something, or all workers, are dead."""
        view, case = self._scheduler(state).machine.view, self.case
        assert view is not None
        workers = range(case.servers + 1, case.servers + case.workers + 1)
        return state.lost.issuperset(workers) or any(
            state.lost.issuperset({owner, *copies} - {NOBODY})
            for owner, copies in zip(
                view.owners[0].tolist(), view.copies[0].tolist(), strict=True
            )
        )

    def _scheduler(self, state: State) -> SchedulerSite:
        site = self._locals[state.sites[SCHEDULER]]
        assert isinstance(site, SchedulerSite)
        return site


def _subsets(nodes: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Yield all subsets but the empty one."""
    for bits in range(1, 1 << len(nodes)):
        yield tuple(node for at, node in enumerate(nodes) if bits >> at & 1)
