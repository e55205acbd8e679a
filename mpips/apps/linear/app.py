"""What the block solvers share: the data, the check of all keys with its gap, the plan."""

from abc import abstractmethod
from collections.abc import Generator
from typing import Any, ClassVar, Final

import msgspec
import numpy as np

from mpips.apps.linear import settings as config
from mpips.apps.linear.finish import score_rows, summarise_scores, write_weights
from mpips.apps.linear.shares import answer_share, share_of, share_out, share_range
from mpips.apps.linear.types import Floats, Starts
from mpips.core.machine import Report
from mpips.core.task import Plan, SetDelay, Task
from mpips.errors import ConfigError
from mpips.node.app import App, Job, Needs
from mpips.node.kv import Worker
from mpips.wire.types import Table

PASSES: Final = 1000
CHECK_PASSES: Final = 10
CHECK_RATIO: Final = 0.3

Step = Generator[Task | Report | SetDelay, Any, Any]


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """What a pass over all keys has found.

    Attributes:
        objective: of the present w.
        gap: the relative duality gap, which bounds how much the objective can fall; where there is
            no penalty, the largest gradient relative to that of the first check.
        violation: how far the worst key is from its optimality condition.
        active: int64, rising: the keys that are not 0 or should not be.
    """

    objective: float
    gap: float
    violation: float
    active: Starts


class BlockApp(App):
    """A solver that changes one block of weights after the other, all workers in step.

    Every logical worker keeps all weights and the margins of its rows, which each block step
    changes. The result depends on the data, the settings and the number of logical workers, not on
    how many workers and servers there are.

    A solver gives `weight_table`, `prepare`, `choose` and the workers' method `sweep`, in which
    the logical worker that `speaks` for all may return the keys that are `active` now, and the
    largest `violation` that it met: a pass that met small ones alone is followed by a check.

    What calls leave in a logical worker's object follows from the data, the arguments of the calls
    and the weights, so that whoever takes over makes it again; it computes margins with other last
    digits. A block step that was done before then changes nothing, as its push is known and its
    answer is what the weights are. If logical workers are dropped, the others go on to the optimum
    of their own rows.

    Attributes:
        check_passes: passes between two checks, at most.
        remade: the workers' methods, in this order, that whoever takes over calls once more beside
            `read`; they push nothing.
        w: float64 `(features,)`, of a logical worker: the weights, by key.
        speaks: whether a logical worker says what all of them know.
    """

    Settings: ClassVar[type[msgspec.Struct]] = config.Settings
    mode: ClassVar[str] = "sequential"
    check_passes: ClassVar[int] = CHECK_PASSES
    remade: ClassVar[tuple[str, ...]] = ()
    settings: config.Settings

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if self.sync_mode not in ("sequential", self.mode):
            what = f"the solver {self.settings.solver} runs in {self.mode} mode only"
            remedy = "Leave sync.mode out, or set model.solver to ftrl."
            raise ConfigError(what, "sync.mode", remedy)
        if "features" not in job.facts:
            remedy = "Name a file that mpips convert has made."
            raise ConfigError("there is no training data", "data.train", remedy)
        self.features: int = job.facts["features"]
        self.w: Floats = np.zeros(0)
        self.speaks = False
        # The scheduler's: who takes part, the best lower bound of the optimum, and the first
        # check's violation.
        self._among = list(range(job.logical_workers))
        self._bound = -np.inf
        self._first = 0.0

    # -- What a solver adds ----------------------------------------------------------------------

    @abstractmethod
    def weight_table(self) -> Table:
        """Return the table "w"; the first value of a pull is the weight."""

    def prepare(self) -> Step:
        """Do, as a part of the plan, what comes before the first check."""
        yield Task(group="workers", function="load")

    @abstractmethod
    def choose(self, active: Starts) -> Step:
        """Return, as a part of the plan, the blocks that the next pass has to visit."""

    def permutation(self) -> Starts | None:
        """Return the original column of each key, or None if they are the same."""
        return None

    # -- The scheduler ---------------------------------------------------------------------------

    def tables(self) -> list[Table]:
        """Return the weights, and the gradient of all keys that checks sum up."""
        gradient = Table(
            name="gradient", size=self.features, update="assign", aggregate=True, mode="sequential"
        )
        return [self.weight_table(), gradient]

    def plan(self) -> Plan:
        """Alternate checks of all keys and passes over blocks; then measure and save."""
        summary: dict[str, Any] = yield from self.solve()
        if self.job.config.data.test:
            parts = yield from share_out("score", self._among)
            summary |= summarise_scores(parts)
        if "folder" in self.job.facts:
            yield Task(group="workers", function="save", arguments={"summary": summary}, only=0)
        return summary

    def solve(self) -> Step:
        """Pass over blocks in random order until the gap is small; return the summary."""
        random = np.random.default_rng(np.random.SeedSequence([self.job.config.run.seed]))
        cap = self.settings.passes or PASSES
        steps = passes = checks = 0
        yield from self.prepare()
        while True:
            check = yield from self.check_all()
            checks += 1
            facts = {
                "step": steps,
                "pass": passes,
                "active": len(check.active),
                "objective": check.objective,
                "gap": check.gap,
            }
            yield Report("progress", facts)
            is_converged = check.gap <= self.settings.tolerance
            if is_converged or passes >= cap:
                break
            active = check.active
            for _ in range(min(self.check_passes, cap - passes)):
                blocks = yield from self.choose(active)
                order = random.permutation(blocks)
                found = yield Task(group="workers", function="sweep", arguments={"order": order})
                steps, passes = steps + len(order), passes + 1
                # Nobody has spoken if the one who should was dropped just now.
                told: dict[str, Any] = next((part for part in found if part), {})
                active = told.get("active", active)
                if told.get("violation", np.inf) <= CHECK_RATIO * check.violation:
                    break
        return {
            "converged": is_converged,
            "objective": check.objective,
            "gap": check.gap,
            "nonzeros": int((yield from self.count())),
            "iterations": steps,
            "passes": passes,
            "checks": checks,
            "logloss": None,
            "auc": None,
        }

    def check_all(self) -> Step:
        """Return a `Check` of all keys, and of the rows of all that take part."""
        parts: list[float] = []
        while len(parts) != len(self._among):
            before = len(self._among)
            found = yield from share_out("check", self._among)
            largest = max(part["largest"] for part in found)
            # Scaled like this, the dual point is feasible.
            scale = min(1.0, self.settings.l1 / largest) if largest else 1.0
            parts = yield Task(group="workers", function="dual", arguments={"scale": scale})
            if len(parts) < before:
                # What is bounded is the objective of other rows.
                self._bound = -np.inf
        violation = max(part["violation"] for part in found)
        self._first = self._first or violation
        self._bound = max(self._bound, sum(parts))
        loss, norm = (sum(part[name] for part in found) for name in ("loss", "norm"))
        objective = loss + self.settings.l1 * norm
        return Check(
            objective=objective,
            gap=self._gap(objective, violation),
            violation=violation,
            active=np.concatenate([part["active"] for part in found]),
        )

    def _gap(self, objective: float, violation: float) -> float:
        """Return the gap, as `Check` defines it."""
        if not self.settings.l1:
            return violation / self._first if self._first else 0.0
        return max(0.0, (objective - self._bound) / objective) if objective else 0.0

    def count(self) -> Step:
        """Return the number of weights that are not 0."""
        return (yield Task(group="workers", function="nonzeros", only=0))[0]

    def needs(self, rows: int, nonzeros: int) -> Needs:
        """Return the rows, read, turned to columns, and packed, with margins and weights."""
        item, index = np.dtype(np.float64).itemsize, np.dtype(np.int32).itemsize
        kept = (self.features + rows) * item
        return Needs(
            worker_bytes=4 * nonzeros * (item + index) + 4 * kept,
            state_bytes=kept,
        )

    # -- Workers ---------------------------------------------------------------------------------

    async def recover(self, worker: Worker, calls: dict[str, dict[str, Any]]) -> None:
        """Make the rows again, the blocks, and the margins, of the weights as they are now."""
        if "load" not in calls:
            return
        self.read(worker)
        for name in self.remade:
            if name in calls:
                await getattr(self, name)(worker, **calls[name])
        if len(self.w):
            self.resume(await worker.pull("w"))
            # Who goes on from a check needs its doubts about each row.
            self.shard.loss()
        if "check" in calls:
            self.speaks = worker.id == calls["check"]["among"][0]

    def keep(self) -> dict[str, Any]:
        """Return the weights and margins: sums of many steps, whose bits depend on their order."""
        if not len(self.w):
            return {}
        return {"w": self.w, "margins": self.shard.margins, "speaks": self.speaks}

    async def restore(
        self, worker: Worker, calls: dict[str, dict[str, Any]], state: dict[str, Any]
    ) -> None:
        """Make all again, and then put the very weights and margins there."""
        await self.recover(worker, calls)
        if state:
            self.w, self.speaks = state["w"], state["speaks"]
            self.shard.margins[:] = state["margins"]
            self.shard.loss()

    def resume(self, pulled: Floats) -> None:
        """Take the weights, and all that comes with them, as the servers have them now."""
        self.w = first_column(pulled).copy()
        self.shard.follow(self.w)

    async def load(self, worker: Worker) -> Any:
        """Read the rows."""
        self.read(worker)

    def read(self, worker: Worker) -> None:
        """Read the rows; the weights are 0."""
        # A scheduler has no Numba.
        from mpips.apps.linear.shard import Shard

        assert worker.shard is not None
        self.shard = Shard(worker.shard.read(), self.features)
        self.w = np.zeros(self.features)

    async def check(self, worker: Worker, among: list[int]) -> dict[str, Any]:
        """Sum up the gradient of all keys, and look at this worker's share of them."""
        self.speaks = worker.id == among[0]
        loss = self.shard.loss()
        await worker.push("gradient", None, self.shard.gradient())
        share = share_range(self.features, *share_of(worker, among))
        g = await worker.pull("gradient", share)
        w = self.w[slice(*share)]
        violation = violations(w, g, self.settings.l1)
        found = {
            "loss": loss,
            "norm": float(np.abs(w).sum()),
            "largest": float(np.abs(g).max(initial=0.0)),
            "violation": float(violation.max(initial=0.0)),
            "active": share[0] + find_active(w, g, self.settings.l1),
        }
        return answer_share(worker, found)

    async def dual(self, worker: Worker, scale: float) -> float:
        """Return this shard's part of the dual objective."""
        return self.shard.dual(scale)

    async def nonzeros(self, worker: Worker) -> int:
        """Return the number of weights that are not 0."""
        return int(np.count_nonzero(self.w))

    async def score(self, worker: Worker, among: list[int]) -> dict[str, Any]:
        """Return margins and labels of this worker's share of the test data."""
        scores = score_rows(self.job, self.original(self.w), *share_of(worker, among))
        return answer_share(worker, scores)

    async def save(self, worker: Worker, summary: dict[str, Any]) -> None:
        """Write the model, with the weights that the servers have."""
        weights = self.original(first_column(await worker.pull("w")))
        write_weights(self.job, weights, summary, self.permutation())

    def original(self, w: Floats) -> Floats:
        """Return weights in the original order of columns."""
        permutation = self.permutation()
        if permutation is None:
            return w
        out = np.empty_like(w)
        out[permutation] = w
        return out


def first_column(values: Floats) -> Floats:
    """Return the first value of each key in what a pull has brought."""
    return values[:, 0] if values.ndim == 2 else values


def violations(w: Floats, g: Floats, l1: float) -> Floats:
    """Return how far each key is from its optimality condition, in units of the gradient.

    >>> violations(np.array([0.0, 0.0, 2.0]), np.array([0.5, 3.0, -0.5]), 1.0).tolist()
    [0.0, 2.0, 0.5]
    """
    inside: Floats = np.maximum(np.abs(g) - l1, 0.0)
    return np.where(w != 0.0, np.abs(g + l1 * np.sign(w)), inside)


def find_active(w: Floats, g: Floats, l1: float) -> Starts:
    """Return the places of weights that are not 0 or should not be, int64, rising."""
    return np.flatnonzero((w != 0.0) | (np.abs(g) > l1))
