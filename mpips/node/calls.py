"""Remembers which calls a node has taken, so that a call that comes again is not run again."""

from dataclasses import dataclass

import msgspec

from mpips.wire.messages import Call, Return


@dataclass(slots=True)
class _Known:
    """The calls of one logical worker (or of a server): the newest, and what was answered last."""

    newest: int = 0
    answer: Return | None = None
    task: int = 0


class Calls:
    """The calls that a node has taken, in memory that is bounded for each logical worker.

    Only the last answer of a logical worker is kept, since results may be large: whoever has sent
    another call after it has that answer.
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._running: dict[int, tuple[_Known, int]] = {}

    def take(self, call: Call) -> bool:
        """Note a call, and return whether it is new and has to be run.

        One that comes after a later one of its logical worker is out of date: somebody was called
        off whose call was still on its way.
        """
        known = self._known.setdefault(call.worker, _Known())
        if call.request <= known.newest:
            return False
        self._running.pop(known.newest, None)
        known.newest = call.request
        self._running[call.request] = known, call.task
        return True

    def note(self, answer: Return) -> None:
        """Note the answer to a call that was taken."""
        known, task = self._running.pop(answer.request)
        known.answer, known.task = answer, task

    def forget(self, worker: int) -> None:
        """Forget what was answered for a logical worker that this node has nothing of any more."""
        known = self._known.get(worker, _Known())
        known.answer, known.task = None, 0

    def last_task(self, worker: int) -> int:
        """Return the task of the last answer of a logical worker; 0: there is none."""
        return self._known[worker].task if worker in self._known else 0

    def answer_again(self, call: Call) -> Return | None:
        """Return the answer to a call's task as one to this call, if there is one.

        A new scheduler asks under numbers of its own what another has asked before.
        """
        known = self._known[call.worker]
        if known.answer is None or known.task != call.task:
            return None
        known.answer = msgspec.structs.replace(known.answer, request=call.request)
        del self._running[call.request]
        return known.answer

    def answer(self, call: Call) -> Return | None:
        """Return the answer to a call that has come again; None if it runs, or another came."""
        answer = self._known[call.worker].answer
        return answer if answer is not None and answer.request == call.request else None
