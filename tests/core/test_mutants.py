"""Broken builds of the protocol, one promise broken in each: the schedules must notice."""

from collections.abc import Callable, Sequence
from itertools import count
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
import pytest

from mpips.core import aggregation, held, server
from mpips.core.aggregation import Aggregation, Contribution
from mpips.core.client import ClientMachine
from mpips.core.held import Held, Pending
from mpips.core.machine import Effect, Send
from mpips.core.server import ServerMachine
from mpips.core.stream import Task
from mpips.errors import ProtocolError
from mpips.wire.messages import Pull, Push, PushAck, Values
from tests.core.schedules import FreeSchedule, SumSchedule

SEEDS = 600
"""At most: the first that catches ends the search, and where segments lie decides which does."""


class NoDuplicateCheck(ServerMachine):
    """Applies a push each time that it comes."""

    def _step_push(self, now: float, source: int, push: Push) -> list[Effect]:
        accepted = self._held[push.table].accepted
        for segment, mark, _, _ in push.slices:
            if push.number <= accepted[segment][push.stream]:
                accepted[segment][push.stream] = mark
        return super()._step_push(now, source, push)

    def validate(self) -> None:
        """Hide what is broken."""


class NoParking(ServerMachine):
    """Applies a push that comes early as if it were the next one."""

    def _step_push(self, now: float, source: int, push: Push) -> list[Effect]:
        accepted = self._held[push.table].accepted
        for segment, mark, _, _ in push.slices:
            accepted[segment][push.stream] = max(mark, accepted[segment][push.stream])
        return super()._step_push(now, source, push)


class DropsEarly(ServerMachine):
    """Forgets a push that comes early, and answers it as if it were applied."""

    def _park(self, held: Held, segment: int, stream: int, *rest: Any) -> None:
        held.unapplied[segment, stream][-1][1].open -= 1


class PullNotHeldBack(ServerMachine):
    """Answers pulls at once."""

    def _may_read(self, held: Held, pull: Push | Pull) -> bool:
        return True


class PullHeldForFirstSliceOnly(ServerMachine):
    """Answers a pull when its first slice is ready."""

    def _may_read(self, held: Held, message: Push | Pull) -> bool:
        segment, mark, _, _ = message.slices[0]
        if isinstance(message, Push):
            return super()._may_read(held, message)
        return held.clocks.least(segment, segment + 1) >= mark


class PullNeverReleased(ServerMachine):
    """Holds pulls back, and forgets them."""

    def _release_waiting(self, held: Held) -> list[Effect]:
        return []


class ClockBeforeSum(ServerMachine):
    """Moves the clock when the first push of it comes."""

    def _apply(self, held: Held, segment: int, stream: int, contribution: Contribution) -> Any:
        for other in range(len(held.applied[segment])):
            held.clocks.advance(other, segment, segment + 1, contribution.clock)
        return super()._apply(held, segment, stream, contribution)


class AckEarly(ServerMachine):
    """Acknowledges a push that waits for those of the other logical workers."""

    def _apply(self, held: Held, segment: int, stream: int, contribution: Contribution) -> Any:
        changes = super()._apply(held, segment, stream, contribution)
        held.applied[segment][stream] = contribution.number
        return changes


class AckAtOnce(ServerMachine):
    """Acknowledges every push as soon as it comes."""

    def _step_push(self, now: float, source: int, push: Push) -> list[Effect]:
        held, effects = self._held[push.table], super()._step_push(now, source, push)
        mine = [e for e in effects if isinstance(e, Send) and isinstance(e.message, PushAck)]
        if not push.pull and not any(e.message.request == push.request for e in mine):
            effects.append(self._answer(held, source, push))
        return effects


class AckOfOneSlice(ServerMachine):
    """Acknowledges a request when its first slice is applied."""

    def _count(self, held: Held, pending: Pending) -> list[Effect]:
        is_first = pending.open > 0
        pending.open = 0
        return self._answer_push(held, pending) if is_first else []


class DuplicateNotAnswered(ServerMachine):
    """Drops a push that was accepted before, with its answer."""

    def _step_push(self, now: float, source: int, push: Push) -> list[Effect]:
        accepted = self._held[push.table].accepted
        if all(push.number <= accepted[s][push.stream] for s, _, _, _ in push.slices):
            return []
        return super()._step_push(now, source, push)


class ParkedOnceOnly(ServerMachine):
    """Answers only the last of equal requests that came early, as an older build did."""

    def _park(self, held: Held, segment: int, stream: int, *rest: Any) -> None:
        super()._park(held, segment, stream, *rest)
        waiting = held.unapplied[segment, stream]
        number = waiting[-1][0]
        held.unapplied[segment, stream] = [w for w in waiting[:-1] if w[0] != number] + waiting[-1:]


class ParkedSliceStays(ServerMachine):
    """Never takes up what came early."""

    def _accept(self, held: Held, segment: int, stream: int, contribution: Contribution) -> Any:
        early = held.early.pop((segment, stream), {})
        changes = super()._accept(held, segment, stream, contribution)
        if early:
            held.early[segment, stream] = early
        return changes

    def validate(self) -> None:
        """Hide what is broken."""


class NumbersOfAllSegments(ClientMachine):
    """Gives the number of the push before on any segment, not on this one."""

    def _number(self, task: Task) -> None:
        super()._number(task)
        for piece in task.pieces:
            piece.mark = task.number - 1


class NoNumbers(ClientMachine):
    """Does not say which push was before."""

    def _number(self, task: Task) -> None:
        super()._number(task)
        for piece in task.pieces:
            piece.mark = 0


class NoNeeds(ClientMachine):
    """Does not say which clock a pull needs."""

    def _need(self, task: Task) -> None:
        return


class NoNotes(ClientMachine):
    """Sends nothing to segments without keys."""

    def _message(self, task: Task, request: Any) -> Send:
        request.pieces = [piece for piece in request.pieces if piece.count] or request.pieces[:1]
        return super()._message(task, request)


class IgnoresAfter(ClientMachine):
    """Starts what should wait for others."""

    def start(self, *arguments: Any, **more: Any) -> tuple[int, list[Effect]]:
        """Start a task at once."""
        return super().start(*arguments, **{**more, "after": ()})


class FinishesAtFirstAnswer(ClientMachine):
    """Takes the first answer of a task for all of them."""

    def step(self, now: float, source: int, message: Any) -> list[Effect]:
        """Forget the other requests of the task."""
        task = self._requests.get(message.request)
        for other in [r for r in (task.requests if task else ()) if r != message.request]:
            del self._requests[other], task.requests[other]
        return super().step(now, source, message)


class WrongRows(ClientMachine):
    """Gives the values of an answer to its keys in the wrong order."""

    def _take(self, task: Task, message: Values) -> None:
        values = np.ascontiguousarray(message.values[::-1])
        super()._take(task, msgspec.structs.replace(message, values=values))


FREE_SERVERS = (
    NoDuplicateCheck,
    NoParking,
    DropsEarly,
    DuplicateNotAnswered,
    ParkedOnceOnly,
    ParkedSliceStays,
    AckAtOnce,
    AckOfOneSlice,
)
FREE_CLIENTS = (NumbersOfAllSegments, NoNumbers, IgnoresAfter, FinishesAtFirstAnswer, WrongRows)
SUM_SERVERS = (
    NoDuplicateCheck,
    NoParking,
    DropsEarly,
    PullNotHeldBack,
    PullHeldForFirstSliceOnly,
    PullNeverReleased,
    ClockBeforeSum,
    AckEarly,
    AckAtOnce,
    DuplicateNotAnswered,
    ParkedOnceOnly,
    ParkedSliceStays,
)
SUM_CLIENTS = (NumbersOfAllSegments, NoNumbers, NoNeeds, NoNotes, FinishesAtFirstAnswer, WrongRows)


def is_caught(kind: type[FreeSchedule] | type[SumSchedule], **machines: Any) -> bool:
    """Return whether some schedule of a kind notices that a promise is broken."""
    for seed in range(SEEDS):
        try:
            kind(seed, **machines).run()
        except (AssertionError, ProtocolError):
            return True
    return False


@pytest.mark.parametrize("mutant", FREE_SERVERS, ids=lambda mutant: mutant.__name__)
def test_broken_server_is_caught_by_histories(mutant: type[ServerMachine]) -> None:
    assert is_caught(FreeSchedule, server=mutant)


@pytest.mark.parametrize("mutant", FREE_CLIENTS, ids=lambda mutant: mutant.__name__)
def test_broken_client_is_caught_by_histories(mutant: type[ClientMachine]) -> None:
    assert is_caught(FreeSchedule, client=mutant)


@pytest.mark.parametrize("mutant", SUM_SERVERS, ids=lambda mutant: mutant.__name__)
def test_broken_server_is_caught_by_sums(mutant: type[ServerMachine]) -> None:
    assert is_caught(SumSchedule, server=mutant)


@pytest.mark.parametrize("mutant", SUM_CLIENTS, ids=lambda mutant: mutant.__name__)
def test_broken_client_is_caught_by_sums(mutant: type[ClientMachine]) -> None:
    assert is_caught(SumSchedule, client=mutant)


class ArrivalOrder(Aggregation):
    """Adds the pushes of a clock in the order of their coming."""

    def __init__(self, streams: int) -> None:
        super().__init__(streams)
        self._serial, self._order = count(), dict[int, int]()

    def add(self, stream: int, contribution: Contribution) -> None:
        """Note when a push has come."""
        self._order[id(contribution)] = next(self._serial)
        super().add(stream, contribution)

    def take(self, active: Sequence[bool]) -> dict[int, Contribution] | None:
        """Return the pushes in the order of their coming."""
        taken = super().take(active)
        return taken and dict(sorted(taken.items(), key=lambda item: self._order[id(item[1])]))


def sum_backwards(parts: list[Contribution]) -> Any:
    """Add the pushes of a clock from the last logical worker to the first."""
    return aggregation.sum_contributions(parts[::-1])


@pytest.mark.parametrize(
    ("module", "name", "broken"),
    [
        (held, "Aggregation", ArrivalOrder),
        (server, "sum_contributions", sum_backwards),
    ],
    ids=["arrival order", "backwards"],
)
def test_sum_in_another_order_is_caught(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, broken: Callable[..., Any]
) -> None:
    monkeypatch.setattr(module, name, broken)
    assert is_caught(SumSchedule)
