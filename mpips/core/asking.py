"""Calls of logical workers to other nodes: a function runs on each, and all results come back."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mpips.core.machine import Effect, Finished, Send
from mpips.core.targets import Targets
from mpips.wire.messages import Ask, Told
from mpips.wire.types import View


@dataclass(slots=True)
class Question:
    """A call on its way: who has not answered, by request, and what the others have."""

    worker: int
    group: str
    function: str
    arguments: dict[str, Any]
    epoch: int = 0
    role: str = ""
    open: dict[int, int] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)


class Asking:
    """Asks nodes, and all of them again if one that has not answered has died.

    All servers are asked again also if a segment has changed hands before all have answered: what
    one has found before it took over from another one is not the whole. Functions that are called
    like this change nothing, so that they may run more than once. Timestamps are negative, since
    those of pushes and pulls are not.
    """

    def __init__(self, node: int) -> None:
        self._node = node
        self._timestamp = self._request = 0
        self._open: dict[int, Question] = {}
        self._targets = Targets()

    def begin(
        self,
        worker: int,
        group: str,
        function: str,
        arguments: dict[str, Any],
        view: View,
    ) -> tuple[int, list[Effect]]:
        """Ask a group of nodes, or one, for a logical worker, and return the call's timestamp.

        Raises:
            ValueError: there is no such group, or there never was such a node.
        """
        question = Question(worker, group, function, arguments)
        effects = self._ask(question, view)
        self._timestamp -= 1
        self._open[self._timestamp] = question
        return self._timestamp, effects

    def nodes(self, group: str, view: View) -> list[str]:
        """Return the names of the nodes of a group.

        Raises:
            ValueError: there is no such group.
        """
        role, nodes = self._targets.find(group, view)
        return [f"{role} {node}" for node in nodes]

    def install(self, view: View) -> list[Effect]:
        """Ask again what is open, where the answers would not be all, or not the whole."""
        self._targets.know(view)
        roles = {member.node: member.role for member in view.members}
        effects: list[Effect] = []
        for question in self._open.values():
            is_moved = any((since > question.epoch).any() for since in view.since)
            is_gone = any(roles.get(node) != question.role for node in question.open.values())
            if is_gone or (is_moved and question.group == "servers"):
                effects += self._ask(question, view)
        return effects

    def take(self, source: int, message: Told) -> list[Effect]:
        """Take an answer, and finish the call if it was the last one.

        The results are those of servers in the order of their ids, or those of logical workers in
        the order of theirs.
        """
        for timestamp, question in self._open.items():
            if question.open.get(message.request) != source:
                continue
            del question.open[message.request]
            question.results[source] = message.result
            if question.open:
                return []
            del self._open[timestamp]
            results = [question.results[node] for node in sorted(question.results)]
            if question.role == "worker":
                by_worker = {worker: one for found in results for worker, one in found}
                results = [by_worker[worker] for worker in sorted(by_worker)]
            return [Finished(timestamp, results)]
        return []

    def abandon(self, worker: int) -> None:
        """Forget the calls of a logical worker: another node acts for it."""
        mine: Iterable[int] = [t for t, q in self._open.items() if q.worker == worker]
        for timestamp in mine:
            del self._open[timestamp]

    def _ask(self, question: Question, view: View) -> list[Effect]:
        question.open, question.results, question.epoch = {}, {}, view.epoch
        question.role, nodes = self._targets.find(question.group, view)
        member = view.member(self._node)
        effects: list[Effect] = []
        for node in nodes:
            self._request += 1
            question.open[self._request] = node
            ask = Ask(
                epoch=view.epoch,
                incarnation=member.incarnation if member else 0,
                request=self._request,
                function=question.function,
                arguments=question.arguments,
            )
            effects.append(Send(node, ask))
        return effects
