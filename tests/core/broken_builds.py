"""Builds with one promise of fail-over broken each, for schedules and for whole simulated jobs."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec

from mpips.core.client import ClientMachine
from mpips.core.machine import Effect, Send
from mpips.core.server import ServerMachine
from mpips.core.slicing import Request, split
from mpips.core.stream import Task
from mpips.wire.messages import Push

STREAMS = 16


class ClockAsMaximum(ServerMachine):
    """Keeps the latest clock of each logical worker: what is not later counts as a duplicate."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._latest: dict[tuple[int, int, int], int] = defaultdict(int)

    def _step_push(self, now: float, source: int, push: Push) -> list[Effect]:
        accepted = self._held[push.table].accepted
        if self._held[push.table].is_mine(push):
            for segment, mark, _, _ in push.slices:
                at = push.table, segment, push.stream
                if push.clock > self._latest[at]:
                    self._latest[at] = push.clock
                    accepted[segment][push.stream] = mark
                else:
                    accepted[segment][push.stream] = max(
                        push.number, accepted[segment][push.stream]
                    )
        return super()._step_push(now, source, push)

    def validate(self) -> None:
        """Hide what is broken."""


class NumbersAfterFilters(ClientMachine):
    """Numbers what is left of a push when it is sent, and so once more when it is sent again."""

    def _number(self, task: Task) -> None:
        super()._number(task)
        stream = self._stream(task.table, task.stream)
        stream.number = self._sent.get((task.table, task.stream), stream.base)

    @property
    def _sent(self) -> dict[tuple[int, int], int]:
        """By table and stream: the last number that was sent."""
        return self.__dict__.setdefault("_sent_numbers", {})

    @property
    def _marks(self) -> dict[tuple[int, int, int], int]:
        """By table, stream and segment: the last number that was sent there."""
        return self.__dict__.setdefault("_sent_marks", {})

    def _message(self, task: Task, request: Request) -> Send:
        if task.values is not None:
            at, stream = (task.table, task.stream), self._stream(task.table, task.stream)
            number = self._sent[at] = self._sent.get(at, stream.base) + 1
            stream.number = task.number = number
            shape = self.tables[task.table]
            marks = [self._marks.get((*at, s), stream.base) for s in range(shape.segments)]
            request.pieces = split(request.pieces, marks, shape.segment_size)
            for piece in request.pieces:
                piece.mark = marks[piece.segment]
            self._marks.update({(*at, segment): number for segment in request.segments()})
        return super()._message(task, request)


class BaseForgotten(ClientMachine):
    """Begins a call that is done again with number 1, as if nothing had been before."""

    def take_over(self, stream: int, positions: Sequence[tuple[int, int]]) -> None:
        """Forget the numbers, not the clocks."""
        super().take_over(stream, [(0, clock) for _, clock in positions])


class NumbersContinued(ClientMachine):
    """Numbers a call that is done again after what the dead one may have begun."""

    def take_over(self, stream: int, positions: Sequence[tuple[int, int]]) -> None:
        """Leave room for as many pushes as nobody begins in a call."""
        begins = positions or [(0, 0)] * len(self.tables)
        super().take_over(stream, [(number + 1000, clock) for number, clock in begins])


class StreamOfItsOwn(ClientMachine):
    """Does a call again under a new stream, of which servers know nothing.

    Sums are spared: they have a place for each logical worker, and none for strangers.
    """

    def take_over(self, stream: int, positions: Sequence[tuple[int, int]]) -> None:
        """Note that numbers begin anew."""
        super().take_over(stream, positions)
        for table, shape in enumerate(self.tables):
            if not shape.aggregate:
                taken = self._stream(table, stream)
                taken.base = taken.number = 0
                taken.numbers = [0] * shape.segments
        self.__dict__.setdefault("_renamed", set()).add(stream)

    def _message(self, task: Task, request: Request) -> Send:
        send = super()._message(task, request)
        is_renamed = task.stream in self.__dict__.get("_renamed", ())
        is_summed = self.tables[task.table].aggregate
        if is_renamed and not is_summed and isinstance(send.message, Push):
            stream = task.stream + STREAMS
            return Send(send.dest, msgspec.structs.replace(send.message, stream=stream))
        return send


class RoomForStreams(ServerMachine):
    """Has room for the streams of `StreamOfItsOwn`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        for held in self._held:
            more = [0] * STREAMS
            held.bases += more
            for numbers in (*held.accepted, *held.applied):
                numbers += more
