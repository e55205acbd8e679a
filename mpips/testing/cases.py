"""Small clusters to be explored: who is there, what workers do, and how many nodes die."""

from dataclasses import dataclass
from typing import Any

from mpips.core.moving import Move
from mpips.core.scheduler import SchedulerMachine
from mpips.core.task import Task
from mpips.testing.sites import (
    SCHEDULER,
    Letters,
    SchedulerSite,
    ServerSite,
    Site,
    WorkerSite,
)
from mpips.wire.messages import Hello, Message, Ready
from mpips.wire.types import Table


@dataclass(frozen=True)
class Case:
    """A small cluster, what its workers do, and how many nodes die.

    Attributes:
        servers: their number; node 0 is the scheduler, servers follow, then workers, then spares.
        copies: of each segment beside its owner.
        script: of each worker; see `WorkerSite`.
        deaths: at most so many nodes die, at any moments.
        mortal: who may die; empty: any server.
        liars: whether the dead are in truth left behind alive, and go on.
        answers: whether workers answer their calls, which ends the job.
        table: one table with keys of a segment each.
        server: class of the servers' sites.
        worker: class of the workers' sites.
        scheduler: class of the scheduler's machine.
        moves: segments, and the servers that they shall move to.
    """

    servers: int
    copies: int
    script: tuple[str, ...]
    deaths: int
    workers: int = 1
    spares: int = 0
    segments: int = 1
    mode: str = "eventual"
    policy: str = "replace"
    mortal: tuple[int, ...] = ()
    liars: bool = False
    answers: bool = False
    server: type[ServerSite] = ServerSite
    worker: type[WorkerSite] = WorkerSite
    scheduler: type[SchedulerMachine] = SchedulerMachine
    moves: tuple[tuple[int, int], ...] = ()

    @property
    def table(self) -> Table:
        """Return the table, which aggregates unless it is eventual."""
        return Table(
            name="t",
            size=self.segments,
            segments=self.segments,
            mode=self.mode,
            aggregate=self.mode != "eventual",
        )

    @property
    def pushes(self) -> int:
        """Return how many pushes each worker makes."""
        return self.script.count("push")

    @property
    def roles(self) -> dict[int, str]:
        """Return the role of each node but the scheduler."""
        servers, workers = ["server"] * self.servers, ["worker"] * self.workers
        return dict(enumerate([*servers, *workers, *["spare"] * self.spares], 1))

    def begin(self) -> tuple[SchedulerSite, dict[int, Site], list[tuple[int, int, Message]]]:
        """Return all sites when the calls have come, and the first requests: source and dest."""
        plan: Any = OneTask()
        machine = self.scheduler(
            SCHEDULER, self.roles, self.workers, lambda _: ([self.table], plan), self.copies,
            self.policy,
        )  # fmt: skip
        scheduler, sites = SchedulerSite(machine), self._make_sites()
        letters: Letters = []
        for node, role in self.roles.items():
            hello = Hello(role=role, host=f"host-{node}", process=node, facts={})
            letters += scheduler.receive(node, hello)
        for node in sites:
            letters += scheduler.receive(node, Ready())
        # The first look at the time changes the detector; all later ones are at the same time.
        scheduler.tick()
        for segment, node in self.moves:
            machine.steering.wish(Move(0, segment, node))
        requests = []
        for node, message in letters:
            answers = sites[node].receive(SCHEDULER, message)
            requests += [(node, dest, answer) for dest, answer in answers]
        return scheduler, sites, requests

    def _make_sites(self) -> dict[int, Site]:
        tables, sites = [self.table], dict[int, Site]()
        # Who may die and is followed by nobody may be missing in sums.
        dropped = [node - self.servers - 1 for node in self.mortal if self.policy == "drop"]
        sure = [worker for worker in range(self.workers) if worker not in dropped]
        for node, role in self.roles.items():
            if role == "worker":
                sites[node] = self.worker(
                    node, tables, self.workers, self.script, sure, self.answers
                )
            else:
                sites[node] = self.server(node, tables, self.workers)
        return sites


@dataclass
class OneTask:
    """A plan of one task, which can be copied."""

    def __next__(self) -> Task:
        """Return the task."""
        return Task(group="workers", function="work")

    def send(self, results: Any) -> Task:
        """End the plan."""
        raise StopIteration
