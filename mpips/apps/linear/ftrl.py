"""Streaming logistic regression: FTRL-proximal on the servers, gradients from the workers.

Source: McMahan et al., Ad Click Prediction, KDD 2013; with minibatches as in Li et al., OSDI 2014,
section 5.1 and its released code.
"""

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from mpips.apps.linear.finish import score_rows, summarise_scores, write_weights
from mpips.apps.linear.settings import Settings
from mpips.core.machine import Report
from mpips.core.task import Plan, Task
from mpips.errors import ConfigError
from mpips.node.app import App, Job
from mpips.node.kv import Pending, Worker
from mpips.node.shard import Batch, renumber
from mpips.wire.types import Table

# How often a worker says how far it is.
ROWS_BETWEEN_REPORTS = 20_000


class FtrlLinear(App):
    """L1 logistic regression in one pass over the rows, or a few.

    Each logical worker reads its rows in order, `minibatch` at a time. It pulls the weights of the
    columns that occur, and pushes the *sum* of the rows' gradients, by which the servers step. Sums
    keep the loss in the units of `l1`, and so many rows take a step as long as they agree on; with
    means, one pass of a9a came out worse for every alpha from 0.01 to 0.3. A minibatch is pushed
    together with the pull for the one after the next, so that the wait is spent computing: weights
    lack the worker's own push before, beside what the others push meanwhile. Of several workers
    the result therefore differs from run to run; of one worker it does not.

    `l1` counts against the sum of the losses of all rows that are streamed: in one pass it is that
    of the block solvers, and E passes need E times as much for the same objective. Streams do not
    reach the optimum: they stop short of it by some parts in a thousand.

    The progressive loss is each row's loss before the model has learnt from it. In the first pass
    that is an honest estimate of the loss on new data, over all states of the model.
    """

    Settings = Settings
    mode = "eventual"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        if self.sync_mode != "eventual":
            remedy = "Leave sync.mode out, or set model.solver to exact."
            raise ConfigError("the solver ftrl runs in eventual mode only", "sync.mode", remedy)
        self._weights: npt.NDArray[np.float64] | None = None

    def tables(self) -> list[Table]:
        """Return the weights, a key for each column; servers keep two float32 sums for each."""
        s = self.settings
        settings = {"alpha": s.alpha, "beta": s.beta, "l1": s.l1, "l2": s.l2}
        size = self.job.facts["features"]
        return [Table(name="w", size=size, dtype="f4", update="ftrl", settings=settings)]

    def plan(self) -> Plan:
        """Stream the rows, score the test data, and save the model."""
        test = self.job.config.data.test
        if test:
            # Refuse unfit test data before the work, not after it.
            yield Task(group="workers", function="check_test", only=0)
        summary: dict[str, Any] = {"passes": self.settings.passes or 1, "iterations": 0}
        for number in range(1, summary["passes"] + 1):
            parts = yield Task(group="workers", function="stream")
            rows = sum(part["rows"] for part in parts)
            loss = sum(part["loss_sum"] for part in parts) / max(rows, 1)
            summary["iterations"] += sum(part["minibatches"] for part in parts)
            # Later passes see rows that the model knows.
            summary.setdefault("progressive_logloss", loss)
            yield Report("pass", {"number": number, "rows": rows, "loss": loss})
        summary |= {"logloss": None, "auc": None}
        if test:
            parts = yield Task(group="workers", function="score")
            summary |= summarise_scores(parts)
        [saved] = yield Task(
            group="workers", function="save", only=0, arguments={"summary": summary}
        )
        return {**summary, **saved}

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

    def progress(self, totals: dict[str, float]) -> dict[str, Any]:
        """Return rows and mean loss, as the user sees them while a pass runs."""
        rows = int(totals["rows"])
        return {"rows": rows, "loss": totals["loss_sum"] / max(rows, 1)}

    async def stream(self, worker: Worker) -> dict[str, float]:
        """Learn from each row once, and return rows, minibatches and the sum of their losses."""
        from mpips.apps.linear.kernels.ftrl import add_gradient

        assert worker.shard is not None, "linear models need training data"
        self._weights = None
        done: dict[str, float] = {"rows": 0, "minibatches": 0, "loss_sum": 0.0}
        reported = 0.0
        batches = worker.shard.minibatches(self.settings.minibatch)
        # While a minibatch is computed, the weights of the next one are on their way.
        ahead = deque(Step(batch, worker.pull("w", batch.keys)) for batch in islice(batches, 2))
        pushed: list[Pending] = []
        while ahead:
            step = ahead.popleft()
            batch, w = step.batch, await step.weights()
            gradient = np.zeros(len(batch.keys))
            done["loss_sum"] += add_gradient(
                batch.indptr, batch.columns, batch.values, batch.labels, w, gradient
            )
            done["rows"] += len(batch.labels)
            done["minibatches"] += 1
            if (later := next(batches, None)) is not None:
                ahead.append(push_pull(worker, batch, gradient, later))
            else:
                pushed.append(worker.push("w", batch.keys, gradient))
            if done["rows"] - reported >= ROWS_BETWEEN_REPORTS:
                reported = done["rows"]
                worker.progress(rows=done["rows"], loss_sum=done["loss_sum"])
        await worker.wait(*pushed)
        return done

    async def score(self, worker: Worker) -> dict[str, npt.NDArray[np.float64]]:
        """Return margins and labels of this worker's part of the test data."""
        return score_rows(self.job, await self._pull_weights(worker), worker.id)

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
            self._weights = (await worker.pull("w")).astype(np.float64)
        return self._weights


@dataclass(frozen=True, slots=True)
class Step:
    """A minibatch whose weights are on their way.

    Attributes:
        batch: the minibatch.
        pending: what brings its weights, perhaps among others.
        places: integers `(k,)`: where they are in what it brings; None: they are all of it.
    """

    batch: Batch
    pending: Pending
    places: npt.NDArray[np.int32] | None = None

    async def weights(self) -> npt.NDArray[np.float32]:
        """Return the weights of the minibatch's columns, float32 `(k,)`."""
        values: npt.NDArray[np.float32] = await self.pending
        return values if self.places is None else values[self.places]


def push_pull(
    worker: Worker, batch: Batch, gradient: npt.NDArray[np.float64], later: Batch
) -> Step:
    """Push a minibatch's gradient and pull a later one's weights, in one round trip.

    The keys are those of both: a gradient of 0 changes nothing in FTRL. Each message costs far
    more than the computing on a hundred rows.
    """
    keys, places = renumber(np.concatenate([batch.keys, later.keys]))
    values = np.zeros(len(keys), np.float32)
    values[places[: len(batch.keys)]] = gradient
    return Step(later, worker.push_pull("w", keys, values), places[len(batch.keys) :])
