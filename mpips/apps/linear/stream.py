"""Streaming logistic regression: minibatches' gradients from the workers, steps on the servers.

Source: the minibatches are as in Li et al., OSDI 2014, section 5.1, and its released code.
"""

from abc import abstractmethod
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from mpips.apps.linear.finish import score_rows, summarise_scores, write_weights
from mpips.apps.linear.overlap import Overlap, share_hidden
from mpips.apps.linear.settings import Settings
from mpips.apps.linear.shares import answer_share, share_of, share_out
from mpips.core.machine import Report
from mpips.core.task import Plan, Task
from mpips.errors import ConfigError
from mpips.node.app import App, Job, Needs
from mpips.node.kv import Pending, Worker
from mpips.node.shard import READ_ROWS, Batch
from mpips.wire.types import Table, ValueArray, few_segments

# How often a worker says how far it is.
ROWS_BETWEEN_REPORTS = 20_000
# So many rows of each logical worker are a task, of some seconds: checkpoints lie between.
PIECE_ROWS = 100_000


class StreamLinear(App):
    """Logistic regression in one pass over the rows, or a few.

    Each logical worker reads its rows in order, `minibatch` at a time. It pulls the weights of the
    columns that occur, and pushes the *sum* of the rows' gradients, by which the servers step. Sums
    keep the loss in the units of `l1`, and so many rows take a step as long as they agree on; with
    means, one pass of a9a came out worse for every alpha from 0.01 to 0.3. A minibatch is pushed
    together with the pull for the one after the next, so that the wait is spent computing: weights
    lack the worker's own push before, beside what the others push meanwhile. Of several workers
    the result therefore differs from run to run; of one worker it does not.

    In bounded mode a worker computes a minibatch only when all workers have pushed theirs up to
    `sync.max_delay` before it: each minibatch is a task, and its number the clock of its push. Who
    has fewer rows pushes, after its last one, the clock of the last one of all, without keys. A
    delay of 0 leaves no time to hide: the pull is then for the next minibatch.

    The progressive loss is each row's loss before the model has learnt from it. In the first pass
    that is an honest estimate of the loss on new data, over all states of the model. `overlap` is
    the share of the time of pulls in which their workers worked (see `Overlap`).

    A worker's passes leave nothing in its object. Who takes over for one that has died goes through
    the rows of the unfinished pass again: the servers take what they have had before no second
    time, but the losses of these rows are then those of a model that knows them.

    A solver gives `update`, and where a pull brings more than weights, `weights` and `pushed`; or
    it learns in its own way, by `learn`. A push of zeros must change nothing on its servers.

    Attributes:
        width: of the table.
        push_width: the number of values that are pushed for a key.
        dtype: of the rows' values.
        keeps_changes: whether `learn` keeps in each step what was pushed for it.
        minibatch: the rows of a minibatch.
    """

    Settings = Settings
    mode = "eventual"
    width: ClassVar[int] = 1
    push_width: ClassVar[int] = 1
    dtype: ClassVar[type[np.floating]] = np.float64
    keeps_changes: ClassVar[bool] = False

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        solver, delay = self.settings.solver, job.config.sync.max_delay
        self.is_bounded = self.sync_mode == "bounded"
        if self.sync_mode not in ("eventual", "bounded"):
            what = f"the solver {solver} runs in eventual or bounded mode only"
            remedy = "Leave sync.mode out, or set model.solver to exact."
            raise ConfigError(what, "sync.mode", remedy)
        if self.is_bounded and delay == "auto":
            what = f"the solver {solver} does not pick its delay"
            raise ConfigError(what, "sync.max_delay", "Give a number of minibatches.")
        self.minibatch = self.settings.minibatch or self.default_minibatch()
        # Only where the answer may have more than the pushes before it.
        self.wants_clocks = self.keeps_changes and self.is_bounded
        # How many minibatches' weights are on their way, and what that leaves of the delay.
        self.ahead = 1 if self.is_bounded and not delay else 2
        self.max_delay = int(delay) - self.ahead + 1 if self.is_bounded else 0
        self._weights: npt.NDArray[np.float64] | None = None
        # Rows and losses of the tasks of this pass that are done.
        self._passed = 0.0, 0.0

    # -- What a solver adds ----------------------------------------------------------------------

    @abstractmethod
    def update(self) -> tuple[str, dict[str, float]]:
        """Return the servers' update function and its settings."""

    def weights(self, pulled: ValueArray) -> npt.NDArray[np.float32]:
        """Return the weights `(k,)`, contiguous, in what a pull has brought."""
        return pulled

    def pushed(self, gradient: npt.NDArray[np.float64], pulled: ValueArray) -> ValueArray:
        """Return what to push for the keys of a minibatch.

        Args:
            gradient: float64 `(k,)`.
            pulled: what the weights came with that it was computed with.
        """
        return gradient

    def default_minibatch(self) -> int:
        """Return the rows of a minibatch, where the user does not say."""
        return 100

    def learn(self, worker: Worker, step: "Step", pulled: ValueArray) -> tuple[float, ValueArray]:
        """Return the sum of a minibatch's losses, and what to push for its keys.

        Args:
            worker: the logical worker.
            step: the minibatch.
            pulled: what a pull has brought for its keys, `(k,)` or `(k, pull width)`.
        """
        from mpips.apps.linear.kernels.stream import add_gradient

        batch = step.batch
        gradient, w = np.zeros(len(batch.keys)), self.weights(pulled)
        rows = batch.indptr, batch.columns, batch.values, batch.labels
        loss = add_gradient(*rows, w, gradient)
        return loss, self.pushed(gradient, pulled)

    # -- The scheduler ---------------------------------------------------------------------------

    def tables(self) -> list[Table]:
        """Return the weights, a key for each column; the servers' state is float32."""
        update, settings = self.update()
        size, mode = self.job.facts["features"], self.sync_mode
        # The keys of a minibatch lie in all segments, and each slice of a message costs time.
        segments = few_segments(size, self.job.config.run.servers)
        table = Table(
            name="w",
            size=size,
            width=self.width,
            segments=segments,
            dtype="f4",
            update=update,
            settings=settings,
        )
        return [replace(table, mode=mode, max_delay=self.max_delay)]

    def plan(self) -> Plan:
        """Stream the rows, score the test data, and save the model."""
        test = self.job.config.data.test
        if test:
            # Refuse unfit test data before the work, not after it.
            yield Task(group="workers", function="check_test", only=0)
        summary: dict[str, Any] = {"passes": self.settings.passes or 1, "iterations": 0}
        streamed: list[dict[str, float]] = []
        minibatches = max((yield Task(group="workers", function="count")))
        for number in range(1, summary["passes"] + 1):
            parts = yield from self.stream_all(minibatches, (number - 1) * minibatches + 1)
            streamed += parts
            rows = sum(part["rows"] for part in parts)
            loss = sum(part["loss_sum"] for part in parts) / max(rows, 1)
            summary["iterations"] += sum(part["minibatches"] for part in parts)
            # Later passes see rows that the model knows.
            summary.setdefault("progressive_logloss", loss)
            yield Report("pass", {"number": number, "rows": rows, "loss": loss})
        summary |= {"overlap": share_hidden(streamed), "logloss": None, "auc": None}
        if test:
            among = list(range(self.job.logical_workers))
            parts = yield from share_out("score", among)
            summary |= summarise_scores(parts)
        [saved] = yield Task(
            group="workers", function="save", only=0, arguments={"summary": summary}
        )
        return {**summary, **saved}

    def stream_all(self, count: int, clock: int) -> Generator[Task, Any, list[dict[str, Any]]]:
        """Stream all rows once, as a part of the plan, and return what all tasks have found.

        Args:
            count: minibatches of whoever has most.
            clock: of the first one, where there are clocks.
        """
        size = max(1, PIECE_ROWS // self.minibatch)
        found: list[dict[str, Any]] = []
        for begin in range(0, max(1, count), size):
            arguments = {"begin": begin, "end": begin + size}
            if self.is_bounded:
                clocks = {"first": clock + begin, "last": clock + min(begin + size, count) - 1}
                arguments |= clocks
            found += yield Task(group="workers", function="stream", arguments=arguments)
        return found

    def progress(self, totals: dict[str, float]) -> dict[str, Any]:
        """Return rows and mean loss, as the user sees them while a pass runs."""
        rows = int(totals["rows"])
        return {"rows": rows, "loss": totals["loss_sum"] / max(rows, 1)}

    def needs(self, rows: int, nonzeros: int) -> Needs:
        """Return the rows that are read at once, and the columns of two minibatches."""
        mean = nonzeros / max(rows, 1)
        read = int(min(rows, max(READ_ROWS, self.minibatch)) * mean)
        columns = int(2 * self.minibatch * mean)
        return Needs(
            # Rows are read ahead, and their columns numbered in another array.
            worker_bytes=2 * read * 32 + columns * 100,
            push_keys={"w": min(columns, self.job.facts["features"])},
        )

    # -- The workers -----------------------------------------------------------------------------

    async def check_test(self, worker: Worker) -> None:
        """Check that the test data has the columns of the training data.

        Raises:
            DataError: it has others; predictions would be noise.
        """
        from mpips.files.many import open_data
        from mpips.files.model import Model, check_key_space

        facts, names = self.job.facts, ("row_scaling", "hash", "hash_bits")
        same = {name: facts[name] for name in names}
        to_come = Model(n_features=facts["features"], path=self.job.config.data.train, **same)
        with open_data(self.job.config.data.test) as data:
            check_key_space(to_come, data)

    async def count(self, worker: Worker) -> int:
        """Return how many minibatches this worker has."""
        assert worker.shard is not None, "linear models need training data"
        rows = worker.shard.end - worker.shard.begin
        return int(-(-rows // self.minibatch))

    async def stream(
        self, worker: Worker, begin: int = 0, end: int | None = None, first: int = 0, last: int = 0
    ) -> dict[str, float]:
        """Learn from each row of some minibatches once.

        Args:
            worker: the logical worker.
            begin: its first minibatch, from 0.
            end: the one after its last, if it has so many; None: all.
            first: the clock of the first minibatch; 0: there are no clocks.
            last: that of the last minibatch of whoever has most.

        Returns:
            `rows`, `minibatches`, the sum of the rows' losses `loss_sum`, and in seconds `pull_s`
            and `hidden_s` as in `Overlap`.
        """
        assert worker.shard is not None, "linear models need training data"
        self._weights = None
        done: dict[str, float] = {"rows": 0, "minibatches": 0, "loss_sum": 0.0}
        reported, overlap = 0.0, Overlap(worker.now)
        passed = self._passed if begin else (0.0, 0.0)
        batches = worker.shard.minibatches(self.minibatch, begin, end, self.dtype)
        # While a minibatch is computed, the weights of the next one are on their way.
        ahead: deque[Step] = deque()
        for batch in islice(batches, self.ahead):
            pending = worker.pull("w", batch.keys, clocks=self.wants_clocks)
            ahead.append(Step(batch, pending, unseen=tuple(ahead)))
            overlap.start(ahead[-1].pending)
        pushes: list[Pending] = []
        clock = first
        while ahead:
            step = ahead.popleft()
            pulled = step.part(await overlap.wait(step.pending))
            step.clock = clock
            loss, values = self.learn(worker, step, pulled)
            done["loss_sum"] += loss
            done["rows"] += len(step.batch.labels)
            done["minibatches"] += 1
            if (later := next(batches, None)) is not None:
                new = push_pull(worker, step, values, later, self.wants_clocks)
                new.unseen, step.unseen = tuple(ahead), ()
                ahead.append(new)
                overlap.start(ahead[-1].pending)
            else:
                pushes.append(worker.push("w", step.batch.keys, values, clock=clock))
            clock += bool(first)
            if done["rows"] - reported >= ROWS_BETWEEN_REPORTS:
                reported = done["rows"]
                rows, loss_sum = passed[0] + done["rows"], passed[1] + done["loss_sum"]
                worker.progress(rows=rows, loss_sum=loss_sum)
        # Nobody shall wait for minibatches that this worker does not have.
        if first and clock <= last:
            none = np.zeros((0, self.push_width), np.float32)
            pushes.append(worker.push("w", np.zeros(0, np.uint64), none, clock=last))
        await worker.wait(*pushes)
        self._passed = passed[0] + done["rows"], passed[1] + done["loss_sum"]
        return {**done, "pull_s": overlap.pull_s, "hidden_s": overlap.hidden_s}

    async def score(self, worker: Worker, among: list[int]) -> dict[str, Any]:
        """Return margins and labels of this worker's share of the test data."""
        weights = await self._pull_weights(worker)
        return answer_share(worker, score_rows(self.job, weights, *share_of(worker, among)))

    async def save(self, worker: Worker, summary: dict[str, Any]) -> dict[str, int]:
        """Write the model if there is a run folder, and return facts about it."""
        w = await self._pull_weights(worker)
        saved = {"nonzeros": int(np.count_nonzero(w))}
        if "folder" in self.job.facts:
            write_weights(self.job, w, {**summary, **saved})
        return saved

    async def _pull_weights(self, worker: Worker) -> npt.NDArray[np.float64]:
        """Return all weights of the finished model as float64 `(d,)`."""
        if self._weights is None:
            self._weights = self.weights(await worker.pull("w")).astype(np.float64)
        return self._weights


@dataclass(slots=True)
class Step:
    """A minibatch whose weights are on their way.

    Attributes:
        batch: the minibatch.
        pending: what brings its weights, perhaps among others.
        places: integers `(k,)`: where they are in what it brings; None: they are all of it.
        unseen: this worker's minibatches whose pushes are not in what it brings; in bounded mode
            those of them whose `clock` is not in `pending.clocks` yet, if these were asked for.
        clock: of its push; 0: there are no clocks.
        change: float32 `(k, push width)`: what was pushed for it, if the solver keeps changes.
    """

    batch: Batch
    pending: Pending
    places: npt.NDArray[np.int64] | None = None
    unseen: "tuple[Step, ...]" = ()
    clock: int = 0
    change: ValueArray | None = None

    def part(self, values: ValueArray) -> ValueArray:
        """Return what was brought for the minibatch's columns, `(k,)` or `(k, pull width)`."""
        return values if self.places is None else values.take(self.places, axis=0)


def push_pull(
    worker: Worker, step: Step, values: ValueArray, later: Batch, clocks: bool = False
) -> Step:
    """Push for a minibatch and pull a later one's weights, in one round trip.

    The keys are those of both: zeros change nothing. Each message costs far more than the
    computing on a hundred rows.

    Args:
        worker: the logical worker.
        step: the minibatch.
        values: what to push for its keys, `(k,)` or `(k, push width)`.
        later: the other one.
        clocks: whether to ask which pushes are in the answer.
    """
    from mpips.store.kernels.keys import unite

    own = step.batch.keys
    room = len(own) + len(later.keys)
    columns = values if values.ndim > 1 else values[:, None]
    keys, pushed = np.empty(room, np.uint64), np.empty((room, columns.shape[1]), np.float32)
    places = np.empty(len(later.keys), np.int64)
    count = unite(own, columns, later.keys, keys, pushed, places)
    keys, pushed = keys[:count], pushed[:count]
    pending = worker.push_pull("w", keys, pushed, clock=step.clock, clocks=clocks)
    return Step(later, pending, places)
