"""An app that moves large pushes and pulls, each value of which tells where it belongs."""

from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.core.task import Plan, Task
from mpips.node.app import App, Stores
from mpips.node.kv import Worker
from mpips.wire.types import Table

STRIDE = np.uint64(0x9E3779B97F4A7C15)


class Sizes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is moved."""

    values: int
    keys: int


class Transfer(App):
    """Pushes a dense range and sparse keys, and pulls them back, byte for byte the same."""

    Settings: ClassVar[type[msgspec.Struct]] = Sizes

    def tables(self) -> list[Table]:
        """Return a dense and a sparse table, each value overwritten."""
        return [
            Table(name="dense", size=self.settings.values, update="assign"),
            Table(name="sparse", kind="sparse", width=2, dtype="f4", update="assign"),
        ]

    def plan(self) -> Plan:
        """Let each logical worker write its share, and all read everything."""
        yield Task(group="workers", function="write")
        wrong = yield Task(group="workers", function="read")
        held = yield Task(group="servers", function="count")
        return {"wrong": sum(wrong), "keys": sum(held), "servers": len([n for n in held if n])}

    def shares(self, size: int, worker: int) -> tuple[int, int]:
        """Return the share of a logical worker."""
        workers = self.job.logical_workers
        return worker * size // workers, (worker + 1) * size // workers

    def dense_values(self, begin: int, end: int) -> npt.NDArray[np.float64]:
        """Return values whose bits are those of no others."""
        bits = np.arange(begin, end, dtype=np.uint64) * STRIDE
        # The exponent stays below that of infinity and NaN.
        return (bits & np.uint64(0xBFFFFFFFFFFFFFFF)).view(np.float64)

    def sparse_values(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """Return two values for each key."""
        low, high = keys & np.uint64(0xFFFFFF), keys >> np.uint64(40)
        return np.stack([low, high], axis=1).astype(np.float32)

    def keys(self) -> npt.NDArray[np.uint64]:
        """Return keys that are spread over the whole key space, sorted."""
        return np.sort(np.arange(self.settings.keys, dtype=np.uint64) * STRIDE)

    async def write(self, worker: Worker) -> None:
        """Push this worker's share of both."""
        begin, end = self.shares(self.settings.values, worker.id)
        first, last = self.shares(self.settings.keys, worker.id)
        keys = self.keys()[first:last]
        await worker.wait(
            worker.push("dense", (begin, end), self.dense_values(begin, end)),
            worker.push("sparse", keys, self.sparse_values(keys)),
        )

    async def read(self, worker: Worker) -> int:
        """Pull everything, and return how many bytes are wrong."""
        keys, size = self.keys(), self.settings.values
        out = np.empty(size)
        _, sparse = await worker.wait(worker.pull("dense", out=out), worker.pull("sparse", keys))
        found, values = await worker.pull("sparse")
        pairs: list[tuple[Any, Any]] = [
            (out, self.dense_values(0, size)),
            (sparse, self.sparse_values(keys)),
            (found, keys),
            (values, self.sparse_values(keys)),
        ]
        return sum(self.differences(one, other) for one, other in pairs)

    def differences(self, one: npt.NDArray[Any], other: npt.NDArray[Any]) -> int:
        """Return the number of bytes in which two arrays differ."""
        if one.shape != other.shape or one.dtype != other.dtype:
            return max(one.nbytes, other.nbytes)
        flat = one.reshape(-1).view(np.uint8), other.reshape(-1).view(np.uint8)
        return int(np.count_nonzero(flat[0] != flat[1]))

    def count(self, stores: Stores) -> int:
        """Return how many keys a server owns."""
        part = stores["sparse"]
        ranges = (part.table.segment_range(segment) for segment in part.held)
        return sum(len(part.read_range(*one)[1]) for one in ranges)
