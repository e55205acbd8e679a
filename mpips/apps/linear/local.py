"""Streaming logistic regression by FTRL-proximal whose steps the workers take, row by row."""

from typing import ClassVar, Final, final

import numpy as np
import numpy.typing as npt

from mpips.apps.linear.stream import Step, StreamLinear
from mpips.node.kv import Worker
from mpips.wire.types import KeyArray, ValueArray

# Rows of a minibatch: of the only worker; of all workers' together; and the fewest.
ROWS_ALONE: Final = 4000
ROWS_AT_WORK: Final = 1000
ROWS_MIN: Final = 100


@final
class LocalFtrlLinear(StreamLinear):
    """The objective and the steps of `FtrlLinear`, taken by the workers on copies of the sums.

    The servers keep FTRL's two sums for each weight and add to them. A worker pulls the sums of a
    minibatch's columns, takes a step for each of its rows, and pushes by how much the sums have
    changed. Of its own rows it knows all, also those whose push is under way; so one worker's
    pass is FTRL's over single rows, however large the minibatches are. Those of other workers it
    sees a minibatch later or two.

    Messages are few, since minibatches may be large; `l1` is as in `FtrlLinear`.
    """

    width: ClassVar[int] = 2
    push_width: ClassVar[int] = 2
    dtype: ClassVar[type[np.floating]] = np.float32
    keeps_changes: ClassVar[bool] = True

    def update(self) -> tuple[str, dict[str, float]]:
        """Return the addition of what is pushed."""
        return "add", {}

    def default_minibatch(self) -> int:
        """Return many rows for one worker, and for several as many as they may miss of others."""
        workers = self.job.logical_workers
        return max(ROWS_MIN, ROWS_AT_WORK // workers) if workers > 1 else ROWS_ALONE

    def weights(self, pulled: ValueArray) -> npt.NDArray[np.float32]:
        """Return the weights that pairs of sums stand for."""
        s = self.settings
        z, n = pulled[:, 0], pulled[:, 1]
        w = (np.copysign(s.l1, z) - z) / ((s.beta + np.sqrt(n)) / s.alpha + s.l2)
        return np.where(np.abs(z) <= s.l1, 0.0, w).astype(np.float32)

    def learn(self, worker: Worker, step: Step, pulled: ValueArray) -> tuple[float, ValueArray]:
        """Take a step for each row, and return the sum of their losses and the sums' change."""
        from mpips.apps.linear.kernels.local import add_common, learn_rows

        s, batch = self.settings, step.batch
        before = np.array(pulled, np.float32)
        for other in step.unseen:
            keys, change = unseen_change(worker, step, other)
            add_common(keys, change, batch.keys, before)
        sums = before.copy()
        rows = batch.indptr, batch.columns, batch.values, batch.labels
        loss = learn_rows(*rows, sums, s.alpha, s.beta, s.l1, s.l2)
        step.change = np.subtract(sums, before, out=sums)
        return loss, step.change


def unseen_change(worker: Worker, step: Step, other: Step) -> tuple[KeyArray, ValueArray]:
    """Return the keys and changes of another minibatch that a pull has not brought."""
    assert other.change is not None, "it was learnt before"
    keys, clocks = other.batch.keys, step.pending.clocks
    if clocks is None:
        return keys, other.change
    # Servers answer a bounded pull when copies have its push, and may have the next one by then.
    ranges = [one[:2] for one in clocks[worker.id] if one[2] < other.clock]
    ends = np.searchsorted(keys, np.array(ranges, np.uint64).reshape(-1, 2))
    places = [np.arange(low, high) for low, high in ends.tolist()]
    chosen = np.concatenate([np.zeros(0, np.int64), *places])
    return keys[chosen], other.change[chosen]
