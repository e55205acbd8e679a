"""The exact solver: blocks of active features, each with its whole Hessian and solved exactly."""

from dataclasses import replace
from typing import Any, ClassVar, Final

import numpy as np

from mpips.apps.linear.app import BlockApp, Step, find_active, violations
from mpips.apps.linear.types import Floats, Starts
from mpips.apps.linear.update import BlockNewton, make_push
from mpips.core.task import Task
from mpips.node.app import Job, Needs
from mpips.node.kv import Worker
from mpips.wire.types import Table

SEGMENT_KEYS: Final = 2**18
REPACK_SHARE: Final = 0.7


class ExactLinear(BlockApp):
    """Block proximal Newton steps on active features.

    Features that are 0 and shall stay 0 are left out; the others are packed into blocks of up to
    `block` features, anew when they change. In a block step the workers push the block's gradient
    and a bound of its Hessian that holds inside a trust region, servers minimise the sum of these
    models plus the L1 term, and the workers pull the weights: the objective never rises.

    A block lies inside one segment of the table, where its update function sees all of it.
    Segments are large, since small ones would make blocks small: d alone decides their number, so
    that the number of servers does not change the result.
    """

    remade: ClassVar[tuple[str, ...]] = ("begin", "pack")

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        # The scheduler's: the keys that are packed, and where each block begins.
        self._packed: Starts = np.zeros(0, np.int64)
        self._count = 0

    def weight_table(self) -> Table:
        """Return the table that minimises the model of a block when it is pushed."""
        return Table(
            name="w",
            size=self.features,
            segments=segment_count(self.features),
            update=BlockNewton,
            settings={"l1": self.settings.l1, "block": self.settings.block},
            aggregate=True,
            mode="sequential",
        )

    def tables(self) -> list[Table]:
        """Return the tables of all block solvers, and the largest value of each column."""
        return [*super().tables(), Table(name="scale", size=self.features, update="max")]

    def needs(self, rows: int, nonzeros: int) -> Needs:
        """Return what all block solvers need, and that pushes are of one block."""
        block = min(self.features, self.settings.block)
        return replace(super().needs(rows, nonzeros), push_keys={"w": block})

    # -- The scheduler ---------------------------------------------------------------------------

    def prepare(self) -> Step:
        """Read the rows, and find the scale of each column, where trust regions begin."""
        yield from super().prepare()
        yield Task(group="workers", function="begin")

    def choose(self, active: Starts) -> Step:
        """Pack the active keys anew if that pays, and return the number of blocks."""
        new = not np.isin(active, self._packed, assume_unique=True).all()
        if new or len(active) < REPACK_SHARE * len(self._packed):
            starts = cut_blocks(active, self.weight_table(), self.settings.block)
            arguments = {"keys": active, "starts": starts}
            yield Task(group="workers", function="pack", arguments=arguments)
            self._packed, self._count = active, len(starts) - 1
        return self._count

    # -- Workers ---------------------------------------------------------------------------------

    async def load(self, worker: Worker) -> None:
        """Read the rows, and tell the largest value of each column."""
        await super().load(worker)
        await worker.push("scale", None, self.shard.scales())

    def read(self, worker: Worker) -> None:
        """Read the rows; there are no trust regions yet."""
        super().read(worker)
        self._trust: Floats = np.zeros(self.features)

    async def begin(self, worker: Worker) -> None:
        """Begin with steps that move no margin by more than its number of features."""
        scale = await worker.pull("scale")
        self._trust = np.divide(1.0, scale, out=np.zeros(self.features), where=scale > 0.0)

    def resume(self, pulled: Floats) -> None:
        """Take weights, and the trust regions of the keys that were in a block already."""
        super().resume(pulled)
        self._trust = np.where(pulled[:, 1] > 0.0, pulled[:, 1], self._trust)

    async def pack(self, worker: Worker, keys: Starts, starts: Starts) -> None:
        """Pack the keys into blocks, block b being `keys[starts[b]:starts[b + 1]]`."""
        self._blocks = [self.shard.pack(part) for part in np.split(keys, starts[1:-1])]

    async def sweep(self, worker: Worker, order: Starts) -> dict[str, Any]:
        """Make a step of each block in this order."""
        worst, active = 0.0, []
        table, l1 = worker.table("w"), self.settings.l1
        for b in order.tolist():
            block = self._blocks[b]
            keys = block.keys
            w, trust = self.w[keys], self._trust[keys]
            g, h = block.model(self.shard.margins, trust)
            # Trust regions are the same on all workers; servers add what they get.
            share = trust / self.job.logical_workers
            pushed = make_push(share, g, h, self.settings.block)
            segment = table.segment_range(int(keys[0]) // table.segment_size)
            assert keys[-1] < segment[1], "a block crosses segments"
            pulled = await worker.push_pull("w", keys.astype(np.uint64), pushed, within=segment)
            self.w[keys], self._trust[keys] = pulled[:, 0], pulled[:, 1]
            block.advance(pulled[:, 0] - w, self.shard.margins)
            worst = max(worst, float(violations(w, pulled[:, 2], l1).max()))
            active.append(keys[find_active(pulled[:, 0], pulled[:, 2], l1)])
        # All logical workers know the same: one of them says it.
        if not self.speaks:
            return {}
        return {"violation": worst, "active": np.sort(np.concatenate(active))}


def segment_count(size: int) -> int:
    """Return the number of segments of a weight table: one for every `SEGMENT_KEYS` keys.

    >>> segment_count(123), segment_count(10**6)
    (1, 4)
    """
    return max(1, -(-size // SEGMENT_KEYS))


def cut_blocks(keys: Starts, table: Table, block: int) -> Starts:
    """Return where blocks begin in a sorted key list, and its length at the end, int64.

    The keys of each segment are cut into equal pieces, the fewest of at most `block` keys.

    >>> cut_blocks(np.arange(7), Table(name="w", size=8, segments=2), 3).tolist()
    [0, 2, 4, 7]
    """
    bounds = [table.segment_range(segment)[1] for segment in range(table.segments)]
    starts, begin = [0], 0
    for end in np.searchsorted(keys, bounds).tolist():
        pieces = -(-(end - begin) // block)
        starts += [begin + (end - begin) * (i + 1) // pieces for i in range(pieces)]
        begin = end
    return np.array(starts, np.int64)
