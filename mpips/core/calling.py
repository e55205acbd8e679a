"""The task that is running: whom it was given to, what came back, and who does it again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from mpips.core.machine import Effect, Report, Send
from mpips.core.targets import Targets
from mpips.core.task import SetDelay, Task
from mpips.errors import AppError
from mpips.wire.messages import Call, Drop, Return, Takeover
from mpips.wire.types import NOBODY, Table, View
from mpips.wire.voting import Done

SERVER: Final = -1
"""In the place of a logical worker: the call is a server's."""


@dataclass(slots=True)
class Place:
    """A part of the task: its place in the results, the logical worker, and who runs it.

    `backup` runs it too, since `node` has been at it for long.
    """

    at: int
    worker: int
    node: int
    since: float = 0.0
    backup: int = NOBODY


@dataclass(slots=True)
class Open:
    """The task that is running: its open parts by request, and the results of the others.

    `servers` are those that it was given to, `streams` says by logical worker how far its streams
    are after its part.
    """

    task: Task
    places: dict[int, Place] = field(default_factory=dict)
    results: dict[int, Any] = field(default_factory=dict)
    streams: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    servers: list[int] = field(default_factory=list)


class Calling:
    """Gives tasks to nodes, collects the results, and gives the parts of the dead to others.

    A part that is given out again begins anew: its pushes have the same numbers, so that the
    servers take each once, whoever's comes first (DESIGN, section 4).

    Args:
        first: after which request number its own begin.
    """

    def __init__(self, first: int = 0) -> None:
        self.requests = self.reissued = 0
        self._first, self._is_over = first, True
        self._tasks = 0
        # By table: tau, where the plan has changed it. Each call says it, so that all know.
        self._delays: dict[str, int] = {}
        self._now = 0.0
        self._open: Open | None = None
        self._targets = Targets()
        # By logical worker: who acts for it as far as it knows, and what that one would tell
        # whoever comes after it.
        self._actors: dict[int, int] = {}
        self._takeovers: dict[int, Takeover] = {}

    @property
    def takeovers(self) -> dict[int, Takeover]:
        """Return, by logical worker, what whoever acts for it next needs; between tasks only."""
        assert self.is_idle
        return dict(self._takeovers)

    @property
    def iterations(self) -> int:
        """Return the latest clock of any table and logical worker, as far as calls have told.

        Where no table has clocks, as in eventual streams, the most pushes of one logical worker to
        one table, which are the minibatches that it has done.
        """
        streams = [pair for known in self._takeovers.values() for pair in known.streams]
        clock = max((clock for _, clock in streams), default=0)
        return clock or max((number for number, _ in streams), default=0)

    def restore(self, tasks: int, takeovers: Mapping[int, Takeover], path: str) -> None:
        """Go on after tasks of a run before, whose logical workers' states a checkpoint has."""
        self._tasks = tasks
        for worker, known in takeovers.items():
            self._takeovers[worker] = Takeover(known.streams, known.calls, path)
            # Nobody acts for them yet: the first call takes over.
            self._actors[worker] = NOBODY

    def recall(self, task: Task, done: Done) -> None:
        """Know of a task that another scheduler has had done."""
        self._tasks += 1
        for worker, streams in done.streams.items():
            self._note(worker, task, streams)

    def doubt(self, first: View) -> None:
        """Take no logical worker's actor for one that has what its calls have left.

        Args:
            first: the view that the job has begun with.
        """
        self._targets.know(first)
        for worker in range(len(first.actors)):
            known = self._takeovers.get(worker, Takeover([], {}))
            self._takeovers[worker] = msgspec.structs.replace(known, is_known=True)
            self._actors[worker] = NOBODY

    def meet(self, first: View) -> None:
        """Note who acts for logical workers of whom nothing is known, from the first view on."""
        for worker, actor in enumerate(first.actors):
            self._actors.setdefault(worker, actor)

    @property
    def is_idle(self) -> bool:
        """Return whether no task is running."""
        return self._open is None

    def release(self, before: Sequence[int], actors: Sequence[int]) -> None:
        """Note who does not act for a logical worker any more, though it lives: it forgets all."""
        for worker, (old, new) in enumerate(zip(before, actors, strict=True)):
            if old != new:
                self._actors[worker] = NOBODY

    @property
    def is_over(self) -> bool:
        """Return whether there will be no more tasks, or no first one yet."""
        return self._is_over

    @property
    def is_among_servers(self) -> bool:
        """Return whether a task is running on servers, each with what it owns."""
        return self._open is not None and bool(self._open.servers)

    def is_settled(self, view: View | None) -> bool:
        """Return whether whoever acts for a logical worker has what its earlier calls have left.

        Who has taken over without a call of it yet has nothing that a checkpoint could keep.
        """
        assert view is not None
        return all(
            node == NOBODY or self._actors.get(worker) == node
            for worker, node in enumerate(view.actors)
        )

    def waiting_for(self) -> list[str]:
        """Return who has not answered."""
        if self._open is None:
            return []
        return [
            f"server {place.node}" if place.worker == SERVER else f"worker {place.worker}"
            for place in self._open.places.values()
        ]

    def begin(self, now: float, task: Task, view: View) -> list[Effect]:
        """Give a task to those that it is for.

        Raises:
            AppError: it is for a node that there never was.
        """
        self._now, self._is_over = now, False
        self._tasks += 1
        self._open = Open(task)
        self.meet(view)
        return self._give_out(view)

    def tick(self, now: float, view: View) -> list[Effect]:
        """Give parts that take too long to other nodes, too, if their task wants it."""
        self._now = now
        wait_s = self._open.task.reissue_s if self._open else None
        if self._open is None or wait_s is None:
            return []
        workers = view.nodes("worker")
        effects: list[Effect] = []
        for request, place in self._open.places.items():
            others = [node for node in workers if node != place.node]
            is_late = place.worker != SERVER and now - place.since > wait_s
            if not is_late or place.backup != NOBODY or not others:
                continue
            busy = [one.node for one in self._open.places.values()]
            place.backup = min(others, key=busy.count)
            self.reissued += 1
            takeover = self._takeovers.get(place.worker, Takeover([], {}))
            effects.append(self._message(request, place, place.backup, view, takeover))
        return effects

    def take(self, source: int, message: Return) -> tuple[list[Effect], dict[int, int]]:
        """Take a result; return what follows, and by logical worker who acts for it from now on.

        The first attempt that is finished counts; the other one is called off.
        """
        if self._open is None or message.request not in self._open.places:
            return [], {}
        place = self._open.places.pop(message.request)
        effects: list[Effect] = []
        moved: dict[int, int] = {}
        if place.backup != NOBODY:
            loser = place.backup
            if source == place.backup:
                loser, moved[place.worker] = place.node, source
            effects.append(Send(loser, Drop(request=message.request, worker=place.worker)))
        self._open.results[place.at] = message.result
        if place.worker != SERVER:
            helped = source == place.backup
            self._actors[place.worker] = source if helped else place.node
            self._open.streams[place.worker] = message.streams
            self._note(place.worker, self._open.task, message.streams)
        return effects, moved

    def _note(self, worker: int, task: Task, streams: list[tuple[int, int]]) -> None:
        """Note what whoever acts next for a logical worker needs, since a call is finished."""
        known = self._takeovers.get(worker)
        calls = {**(known.calls if known else {}), task.function: task.arguments}
        self._takeovers[worker] = Takeover(streams, calls, task=self._tasks)

    def move(self, view: View) -> tuple[list[Effect], Done | None]:
        """Give the parts of dead nodes to others; return all results if none is open any more."""
        if self._open is None:
            return [], None
        alive = {member.node for member in view.members}
        if self._open.servers:
            # What a server has found before it took over from another is not the whole.
            if alive.issuperset(self._open.servers):
                return [], None
            self._open = Open(self._open.task)
            return self._give_out(view), None
        gone = {r: place for r, place in self._open.places.items() if place.node not in alive}
        if self._open.task.only is not None and any(
            view.actors[place.worker] == NOBODY for place in gone.values()
        ):
            # Another logical worker is as good.
            self._open = Open(self._open.task)
            return self._give_out(view), None
        effects: list[Effect] = []
        for request, place in self._open.places.items():
            # Whoever helped the dead gives way to its successor.
            if place.backup != NOBODY and (place.backup not in alive or request in gone):
                effects.append(Send(place.backup, Drop(request=request, worker=place.worker)))
                place.backup = NOBODY
        for request, place in gone.items():
            del self._open.places[request]
            actor = view.actors[place.worker]
            if actor == NOBODY:
                continue
            # A number of its own: that node may have tried before, and been called off.
            place.node = actor
            request = self._number(place)
            effects.append(self._call(request, place, view))
        return effects, self.results()

    def set_delay(self, asked: SetDelay, tables: Sequence[Table]) -> Report:
        """Change the tau of a table from the next task on, and return what to tell of it.

        Raises:
            AppError: the plan asks for what cannot be.
        """
        assert self.is_idle, "tasks have the tau that they were begun with"
        name, max_delay = asked.table, asked.max_delay
        if max_delay < 0 or all(t.name != name or t.mode != "bounded" for t in tables):
            what = f"the plan sets the delay of table {name} to {max_delay}"
            remedy = "A delay is 0 or more, and of a table whose mode is bounded."
            raise AppError(what, "", remedy)
        self._delays = {**self._delays, name: max_delay}
        facts = {"table": name, "max_delay": max_delay, "from_task": self._tasks + 1}
        return Report("delay", facts)

    def stop(self) -> None:
        """Wait for nobody any more."""
        self._is_over = True
        self._open = None

    def _give_out(self, view: View) -> list[Effect]:
        """Give all parts of the open task out."""
        assert self._open is not None
        task = self._open.task
        role, nodes = self._find(task, view)
        self._open.servers = nodes if role == "server" else []
        actors = [(worker, node) for worker, node in enumerate(view.actors) if node in nodes]
        if role == "server":
            targets = [(SERVER, node) for node in nodes]
        elif task.only is None:
            targets = actors
        else:
            # If that one was dropped, another one is as good.
            targets = [next((one for one in actors if one[0] == task.only), actors[0])]
        effects: list[Effect] = []
        for at, (worker, node) in enumerate(targets):
            place = Place(at, worker, node)
            effects.append(self._call(self._number(place), place, view))
        return effects

    def _number(self, place: Place) -> int:
        """Open a part of the task under a new request number, and return that."""
        assert self._open is not None
        self.requests += 1
        request = self._first + self.requests
        self._open.places[request] = place
        return request

    def _find(self, task: Task, view: View) -> tuple[str, list[int]]:
        """Return the role of the nodes that a task is for, and who they are."""
        try:
            return self._targets.find(task.group, view)
        except ValueError as error:
            remedy = "Servers and workers are numbered together, after the scheduler, which is 0."
            raise AppError(f"the plan's task {task.function}: {error}", "", remedy) from None

    def _call(self, request: int, place: Place, view: View) -> Send:
        assert self._open is not None
        takeover = None
        # Until it has answered, each call says what it needs: the one before may come too late.
        if place.worker != SERVER and self._actors[place.worker] != place.node:
            takeover = self._takeovers.get(place.worker, Takeover([], {}))
        place.since = self._now
        return self._message(request, place, place.node, view, takeover)

    def _message(
        self, request: int, place: Place, node: int, view: View, takeover: Takeover | None
    ) -> Send:
        assert self._open is not None
        call = Call(
            epoch=view.epoch,
            request=request,
            worker=place.worker,
            function=self._open.task.function,
            arguments=self._open.task.arguments,
            task=self._tasks,
            takeover=takeover,
            delays=self._delays,
        )
        return Send(node, call)

    def results(self) -> Done | None:
        """Return the results in the order of the parts, once all are there."""
        if self._open is None or self._open.places:
            return None
        done, self._open = self._open, None
        return Done([done.results[at] for at in sorted(done.results)], done.streams)
