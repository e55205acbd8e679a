"""Small apps that use every verb, for whole jobs in the simulated cluster."""

from typing import Any, ClassVar

import msgspec
import numpy as np

from mpips.config import Config, parse
from mpips.core.machine import Report
from mpips.core.task import Plan, Task
from mpips.errors import DataError
from mpips.node.app import App, Stores
from mpips.node.kv import Worker
from mpips.wire.types import Table


class Iterations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long an app runs."""

    iterations: int = 5
    features: int = 600


def job(*settings: str, servers: int = 2, workers: int = 2, logical: int = 4) -> Config:
    """Return the config of a job."""
    sizes = [f"run.servers={servers}", f"run.workers={workers}", f"run.logical_workers={logical}"]
    return parse("", "", [*sizes, *settings])


class Descent(App):
    """Descends a quadratic whose gradient's bits depend on the order of every addition.

    Blocks of a dense table are pushed and pulled as ranges; a sparse one counts, by key lists, how
    often its keys were drawn. Both are sequential.
    """

    Settings: ClassVar[type[msgspec.Struct]] = Iterations
    mode: ClassVar[str] = "sequential"

    def tables(self) -> list[Table]:
        """Return the weights and the counts."""
        more = {"aggregate": True, "mode": "sequential"}
        return [
            Table(name="w", size=self.settings.features, **more),
            Table(name="seen", kind="sparse", segments=16, width=2, dtype="f4", **more),
        ]

    def plan(self) -> Plan:
        """Visit blocks in a random order, then collect the model."""
        random = np.random.default_rng(self.job.config.run.seed)
        norm = 0.0
        for iteration in range(self.settings.iterations):
            begin, end = sorted(random.integers(0, self.settings.features + 1, 2).tolist())
            arguments = {"begin": begin, "end": end}
            norms = yield Task(group="workers", function="descend", arguments=arguments)
            norm = sum(norms)
            yield Report("progress", {"iteration": iteration, "norm": norm})
        (model,) = yield Task(group="workers", function="collect", only=0)
        keys = yield Task(group="servers", function="count")
        return {
            "norm": norm,
            "w": model["w"],
            "keys": model["keys"],
            "seen": model["seen"],
            "held": sum(keys),
        }

    async def descend(self, worker: Worker, begin: int, end: int) -> float:
        """Push a gradient of a block and the keys drawn, and look at what it gave."""
        w = await worker.pull("w", (begin, end))
        target = worker.random.normal(size=end - begin) * 10.0 ** (3 * (worker.id % 3))
        keys = np.sort(worker.random.choice(50, worker.random.integers(0, 20), replace=False))
        counts = worker.random.normal(size=(len(keys), 2)).astype(np.float32)
        # The counts are awaited at the end of the call, by the worker's node.
        worker.push("seen", keys.astype(np.uint64) * np.uint64(2**58), counts)
        new = await worker.push_pull("w", (begin, end), (target - w) / 7)
        worker.progress(rows=1.0)
        return float(np.sum(new)) + float(worker.random.random())

    async def collect(self, worker: Worker) -> dict[str, Any]:
        """Return the whole model."""
        w, (keys, seen) = await worker.wait(worker.pull("w"), worker.pull("seen"))
        return {"w": w, "keys": keys, "seen": seen}

    def count(self, stores: Stores) -> int:
        """Return how many keys a server owns."""
        ranges = [(p, *p.table.segment_range(s)) for p in stores.values() for s in p.held]
        return sum(len(part.read_range(begin, end)[1]) for part, begin, end in ranges)


class Flood(App):
    """Pushes many times without waiting, so that pushes overtake each other."""

    Settings: ClassVar[type[msgspec.Struct]] = Iterations

    def tables(self) -> list[Table]:
        """Return a table where the last push wins, and one that sums."""
        return [
            Table(name="last", size=2000, segments=8, update="assign"),
            Table(name="sum", size=2000, segments=8, aggregate=True),
        ]

    def plan(self) -> Plan:
        """Flood, and then look."""
        yield Task(group="workers", function="flood")
        results = yield Task(group="workers", function="look")
        return {"last": [r["last"] for r in results], "sum": results[0]["sum"]}

    async def flood(self, worker: Worker) -> None:
        """Push this worker's share of one table, and all of the other, again and again."""
        share = 2000 // self.job.logical_workers
        mine = (worker.id * share, (worker.id + 1) * share)
        for number in range(1, self.settings.iterations + 1):
            worker.push("last", mine, np.full(share, float(number)))
            worker.push("sum", None, np.full(2000, float(number)))

    async def look(self, worker: Worker) -> dict[str, Any]:
        """Return what all have left."""
        last, total = await worker.wait(worker.pull("last"), worker.pull("sum"))
        return {
            "last": [float(last.min()), float(last.max())],
            "sum": [float(total.min()), float(total.max())],
        }


class Neighbours(App):
    """Asks single nodes and groups, from the plan and from workers."""

    Settings: ClassVar[type[msgspec.Struct]] = Iterations

    def tables(self) -> list[Table]:
        """Return a table of few segments."""
        return [Table(name="n", size=40, segments=8)]

    def plan(self) -> Plan:
        """Have workers call all that there are, then have each node called by itself."""
        ((servers, workers),) = yield Task(group="workers", function="names", only=0)
        names = {"servers": servers, "workers": workers}
        worked = yield Task(group="workers", function="work", arguments=names)
        alone = {}
        for node in (*servers, *workers):
            alone[node] = yield Task(group=node, function="owned" if node in servers else "name")
        return {"worked": worked, "alone": alone, **names}

    async def names(self, worker: Worker) -> list[list[str]]:
        """Return the names of all nodes."""
        return [worker.nodes(group) for group in ("servers", "workers")]

    async def work(
        self, worker: Worker, servers: list[str], workers: list[str]
    ) -> dict[str, Any]:
        """Note how far this worker is, and ask how far the others are, again and again."""
        asked: dict[str, list[Any]] = {}
        for step in range(1, self.settings.iterations + 1):
            self.step = step
            for group in ("servers", "workers", *servers, *workers):
                function = "owned" if group in ("servers", *servers) else "far"
                asked.setdefault(group, []).append(await worker.call(group, function))
        return {**asked, "id": [worker.id]}

    async def name(self, worker: Worker) -> int:
        """Return the logical worker."""
        return worker.id

    def far(self, worker: Worker) -> tuple[int, int]:
        """Return the logical worker, and how far it is."""
        return worker.id, getattr(self, "step", 0)

    def owned(self, stores: Stores) -> list[int]:
        """Return the segments that this server owns."""
        return list(stores["n"].held)


class Where(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where an app goes wrong."""

    place: str


class Wrong(App):
    """Raises, or waits for ever, wherever it is told to."""

    Settings: ClassVar[type[msgspec.Struct]] = Where

    def tables(self) -> list[Table]:
        """Return a table that aggregates, or raise."""
        self.stumble("tables")
        return [Table(name="w", size=10, aggregate=True, mode="sequential")]

    def stumble(self, place: str) -> None:
        """Raise if this is the place."""
        if self.settings.place == place:
            raise ZeroDivisionError(f"in {place}")
        if self.settings.place == f"{place} data":
            raise DataError(f"bad data in {place}", "row 7", "Fetch it again.")

    def plan(self) -> Plan:
        """Go wrong on the scheduler, on workers or on servers."""
        self.stumble("plan")
        yield Task(group="servers", function="serve")
        results = yield Task(group="workers", function="work")
        if self.settings.place == "no task":
            yield None  # type: ignore[misc]
        self.stumble("end of the plan")
        return {"results": results}

    def serve(self, stores: Stores) -> None:
        """Go wrong on a server."""
        self.stumble("server")

    async def work(self, worker: Worker) -> Any:
        """Go wrong on the last logical worker."""
        match self.settings.place:
            case "strange result":
                return object()
            case "no such table":
                worker.pull("v")
            case "different ranges":
                await worker.push("w", (worker.id, worker.id + 1), np.ones(1))
            case "missing push" if worker.id:
                await worker.push("w", None, np.ones(10))
            case "missing push, not awaited" if worker.id:
                worker.push("w", None, np.ones(10))
        if worker.id == self.job.logical_workers - 1:
            self.stumble("worker")
        return worker.id
