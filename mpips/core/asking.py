"""Calls of logical workers to the servers: a function runs on each, and all results come back."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mpips.core.machine import Effect, Finished, Send
from mpips.wire.messages import Ask, Told
from mpips.wire.types import View


@dataclass(slots=True)
class Question:
    """A call on its way: who has not answered, by request, and what the others have."""

    worker: int
    function: str
    arguments: dict[str, Any]
    epoch: int = 0
    open: dict[int, int] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)


class Asking:
    """Asks all servers, and again if a segment has changed hands before all have answered.

    What a server has found before it took over from another one is not the whole. Functions that
    are called like this change nothing, so that they may run more than once. Timestamps are
    negative, since those of pushes and pulls are not.
    """

    def __init__(self, node: int) -> None:
        self._node = node
        self._timestamp = self._request = 0
        self._open: dict[int, Question] = {}

    def begin(
        self, worker: int, function: str, arguments: dict[str, Any], view: View
    ) -> tuple[int, list[Effect]]:
        """Ask all servers for a logical worker, and return the call's timestamp."""
        self._timestamp -= 1
        question = self._open[self._timestamp] = Question(worker, function, arguments)
        return self._timestamp, self._ask(question, view)

    def install(self, view: View) -> list[Effect]:
        """Ask again what is open, where servers have taken over segments since."""
        effects: list[Effect] = []
        for question in self._open.values():
            if any((since > question.epoch).any() for since in view.since):
                effects += self._ask(question, view)
        return effects

    def take(self, source: int, message: Told) -> list[Effect]:
        """Take an answer, and finish the call if it was the last one."""
        for timestamp, question in self._open.items():
            if question.open.get(message.request) != source:
                continue
            del question.open[message.request]
            question.results[source] = message.result
            if question.open:
                return []
            del self._open[timestamp]
            results = [question.results[server] for server in sorted(question.results)]
            return [Finished(timestamp, results)]
        return []

    def abandon(self, worker: int) -> None:
        """Forget the calls of a logical worker: another node acts for it."""
        mine: Iterable[int] = [t for t, q in self._open.items() if q.worker == worker]
        for timestamp in mine:
            del self._open[timestamp]

    def _ask(self, question: Question, view: View) -> list[Effect]:
        question.open, question.results, question.epoch = {}, {}, view.epoch
        member = view.member(self._node)
        effects: list[Effect] = []
        for server in view.nodes("server"):
            self._request += 1
            question.open[self._request] = server
            ask = Ask(
                epoch=view.epoch,
                incarnation=member.incarnation if member else 0,
                request=self._request,
                function=question.function,
                arguments=question.arguments,
            )
            effects.append(Send(server, ask))
        return effects
