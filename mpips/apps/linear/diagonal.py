"""The diagonal solver: the block proximal gradient method with features that seldom meet."""

from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from mpips.apps.linear.app import BlockApp, Step
from mpips.apps.linear.types import Floats, Starts
from mpips.apps.linear.update import OpenProximal
from mpips.core.task import Task
from mpips.node.app import Job
from mpips.node.kv import Worker
from mpips.wire.types import Table

if TYPE_CHECKING:
    from mpips.files.csr import CsrRows

SAMPLE_ROWS: Final = 20_000
DELTA: Final = 1.0
DELTA_MAX: Final = 5.0


class DiagonalLinear(BlockApp):
    """Proximal steps that take the features of a block as independent (Li et al., NIPS 2014).

    A block's features hardly ever occur in the same row, so that its Hessian is nearly diagonal:
    they are coloured greedily, the frequent ones first, by what a logical worker's first rows
    show. The model is stored in the order of blocks, each of them a range of keys. In a block
    step the workers push gradient and a bound of the diagonal over the range, servers move each
    weight inside its trust region, and the workers pull the range.

    Steps are cheap but many: good for an objective near to the optimum, slow at the last digits.
    """

    remade: ClassVar[tuple[str, ...]] = ("arrange",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self._starts: Starts = np.zeros(1, np.int64)
        self._permutation: Starts = np.zeros(0, np.int64)

    def weight_table(self) -> Table:
        """Return the table whose update function is the proximal step."""
        settings = {"l1": self.settings.l1, "delta": DELTA, "delta_max": DELTA_MAX}
        return Table(
            name="w",
            size=self.features,
            update=OpenProximal,
            settings=settings,
            aggregate=True,
            mode="sequential",
        )

    def permutation(self) -> Starts:
        """Return the original column of each key."""
        return self._permutation

    # -- The scheduler ---------------------------------------------------------------------------

    def prepare(self) -> Step:
        """Have the features coloured, and all workers order them by colour."""
        yield from super().prepare()
        (found,) = yield Task(group="workers", function="colour", only=0)
        self._starts = found["starts"]
        yield Task(group="workers", function="arrange", arguments=found)

    def choose(self, active: Starts) -> Step:
        """Return the blocks with active keys: the others would stay as they are."""
        yield from ()
        return np.flatnonzero(np.diff(np.searchsorted(active, self._starts)))

    # -- Workers ---------------------------------------------------------------------------------

    def read(self, worker: Worker) -> None:
        """Read the rows, whose columns are not arranged yet."""
        assert worker.shard is not None
        self._rows = worker.shard.read()

    async def colour(self, worker: Worker) -> dict[str, Any]:
        """Return the features' order and the blocks."""
        permutation, starts = order_features(self._rows, self.features)
        return {"permutation": permutation, "starts": starts}

    async def arrange(self, worker: Worker, permutation: Starts, starts: Starts) -> None:
        """Order the columns, and pack every block."""
        from mpips.apps.linear.shard import Shard

        self._permutation, self._starts = permutation, starts
        position = np.empty(self.features, np.int64)
        position[permutation] = np.arange(self.features)
        self.shard = Shard(self._rows, self.features, position)
        del self._rows
        self.w, self._delta = np.zeros(self.features), np.full(self.features, DELTA)
        ranges = zip(starts.tolist(), starts[1:].tolist(), strict=False)
        self._blocks = [self.shard.pack(np.arange(begin, end)) for begin, end in ranges]

    def resume(self, pulled: Floats) -> None:
        """Take weights and trust regions."""
        super().resume(pulled)
        self._delta = pulled[:, 1].copy()

    async def sweep(self, worker: Worker, order: Starts) -> dict[str, Any]:
        """Make a step of each block in this order."""
        for b in order.tolist():
            block, span = self._blocks[b], (int(self._starts[b]), int(self._starts[b + 1]))
            part = slice(*span)
            pushed = block.diagonal(self.shard.margins, self._delta[part])
            pulled = await worker.push_pull("w", span, pushed)
            step: Floats = pulled[:, 0] - self.w[part]
            self.w[part], self._delta[part] = pulled[:, 0], pulled[:, 1]
            block.advance(step, self.shard.margins)
        return {}


def order_features(rows: "CsrRows", n_features: int) -> tuple[Starts, Starts]:
    """Return the features in the order of blocks, and where blocks begin, with their end.

    Features that do not occur in the first `SAMPLE_ROWS` rows are the last block: nobody knows
    what they meet.

    Returns:
        int64 `(n_features,)`: the column of each key; int64 `(blocks + 1,)`.
    """
    import scipy.sparse

    from mpips.apps.linear.kernels import colour as kernels

    # Look at the first rows only.
    n = min(SAMPLE_ROWS, len(rows.labels))
    end = rows.indptr[n]
    parts = np.ones(end, np.int8), rows.indices[:end], rows.indptr[: n + 1]
    sample = scipy.sparse.csr_array(parts, shape=(n, n_features)).tocsc()
    counts = np.diff(sample.indptr)

    # Colour the frequent features first; equal ones in the order of columns.
    order = np.argsort(-counts, kind="stable")
    order = order[: np.count_nonzero(counts)]
    colours, taken = np.full(n_features, -1, np.int64), np.full(n, -1, np.int64)
    starts, found = sample.indptr.astype(np.int64), sample.indices.astype(np.int32)
    count = kernels.colour(starts, found, order, taken, colours)
    colours[colours < 0] = count
    permutation = np.argsort(colours, kind="stable")
    sizes = np.bincount(colours, minlength=count)
    return permutation, np.concatenate([[0], np.cumsum(sizes)])
