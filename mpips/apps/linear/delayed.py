"""Delayed block proximal gradient: workers compute with values that are some blocks old."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, final

import msgspec
import numpy as np

from mpips.apps.linear.app import BlockApp, Step
from mpips.apps.linear.types import Floats, Starts
from mpips.core.delay import DelayControl
from mpips.core.task import SetDelay, Task
from mpips.node.app import Job
from mpips.node.kv import Pending, Worker
from mpips.store.update import Field, Slots, Update
from mpips.wire.types import Table, ValueArray

if TYPE_CHECKING:
    import scipy.sparse

PAIRS_MAX: Final = 2048
GRAM_MAX: Final = 512
EPSILON: Final = 1e-10


class StepSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of `ProximalStep`: the weight of |w|_1."""

    l1: Annotated[float, msgspec.Meta(ge=0)] = 1.0


@final
class ProximalStep(Update):
    """Takes the proximal gradient step w <- S(w - g / u, l1 / u), S being soft thresholding.

    A push carries for each key g and u, the inverse of the step's length. Source: Li et al., NIPS
    2014, section 3, with U the identity.
    """

    name: ClassVar[str] = "proximal_step"
    Settings: ClassVar[type[msgspec.Struct]] = StepSettings
    settings: StepSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        self.push_width = 2

    def make_fields(self) -> tuple[Field, ...]:
        """Return the weight."""
        return (Field("w", self.width, 0.0),)

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Move the weights."""
        where = slots if len(slots) else slice(first, first + len(values))
        g, u = values[:, 0], values[:, 1]
        aim = rows[where, 0] - g / u
        rows[where, 0] = np.sign(aim) * np.maximum(np.abs(aim) - self.settings.l1 / u, 0.0)


class DelayedLinear(BlockApp):
    """Algorithm 3 of Li et al. (OSDI 2014): block proximal gradient with bounded delay.

    Blocks are equal key ranges, visited in an order that is drawn anew for each pass. A worker
    computes the gradient of a block without the answers to its last `sync.max_delay` pushes: it
    does not wait for them, and uses them exactly that many blocks later, so that a run depends on
    its settings and not on the network. With delay 0 it is the sequential method. (Whoever takes
    over for a dead worker knows all answers so far, so that its gradients are newer for a while.)

    The step is 1 / (L_var + max_delay L_cov), which converges (Theorem 2 of Li et al., NIPS 2014);
    L_var and L_cov are bounds of the curvature within a block and between blocks, computed from
    the data: each worker pushes the bounds of its rows, and servers add them. `step = "fixed"`
    takes 1 / L_var, which does not converge if the delay is large.

    With `sync.max_delay = "auto"` the delay begins at 0, and is picked anew before each pass from
    the share of time that workers have waited in the one before; steps follow it.
    """

    mode: ClassVar[str] = "bounded"
    remade: ClassVar[tuple[str, ...]] = ("measure",)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        chosen = job.config.sync.max_delay if self.sync_mode == "bounded" else 0
        self.is_auto = chosen == "auto"
        self.max_delay = 0 if chosen == "auto" else chosen
        # The scheduler's: who picks the delay, and the waiting time that it has seen.
        self._control = DelayControl()
        self._seen = 0.0, 0.0
        self._late: deque[tuple[Pending, int]] = deque()
        self._busy_s = self._waited_s = 0.0

    def weight_table(self) -> Table:
        """Return the table whose update function is the proximal step."""
        return Table(
            name="w",
            size=self.features,
            update=ProximalStep,
            settings={"l1": self.settings.l1},
            aggregate=True,
            mode="bounded",
            max_delay=self.max_delay,
        )

    # -- The scheduler ---------------------------------------------------------------------------

    def prepare(self) -> Step:
        """Have the rows read, and the curvature measured, which says how long steps are."""
        found = yield Task(group="workers", function="load")
        rows, nonzeros = (sum(part[name] for part in found) for name in ("rows", "nonzeros"))
        blocks = self.settings.blocks or -(-4 * nonzeros // max(rows, 1))
        cuts = np.linspace(0, self.features, min(max(blocks, 1), self.features) + 1)
        self._starts = cuts.astype(np.int64)
        arguments = {"starts": self._starts}
        yield Task(group="workers", function="measure", arguments=arguments)

    def solve(self) -> Step:
        """Add to the summary the last delay, and the share of passes' time waited: `idle`."""
        summary = yield from super().solve()
        found = yield Task(group="workers", function="idleness")
        waited, whole = (sum(part[i] for part in found) for i in (0, 1))
        idle = waited / whole if whole else 0.0
        return {**summary, "idle": idle, "max_delay": self.max_delay}

    def choose(self, active: Starts) -> Step:
        """Return the blocks with active keys: the others would stay as they are."""
        yield from self.adapt()
        return np.flatnonzero(np.diff(np.searchsorted(active, self._starts)))

    def adapt(self) -> Step:
        """Pick the delay of the next pass, as a part of the plan, if the config leaves it open."""
        if not self.is_auto:
            return
        found = yield Task(group="workers", function="idleness")
        before, self._seen = self._seen, (sum(p[0] for p in found), sum(p[1] for p in found))
        # Whoever has taken over for a dead worker counts from 0.
        waited, whole = (max(0.0, now - then) for now, then in zip(self._seen, before, strict=True))
        max_delay = self._control.observe(waited, whole)
        if max_delay != self.max_delay:
            self.max_delay = max_delay
            yield SetDelay("w", max_delay)

    # -- Workers ---------------------------------------------------------------------------------

    def keep(self) -> dict[str, Any]:
        """Add the answers that are used later; between tasks all of them are there."""
        late = [[b, pending.result] for pending, b in self._late]
        return {**super().keep(), "late": late} if late else super().keep()

    async def restore(
        self, worker: Worker, calls: dict[str, dict[str, Any]], state: dict[str, Any]
    ) -> None:
        """Put the late answers where they were."""
        await super().restore(worker, calls, state)
        for b, values in state.get("late", ()):
            pending = Pending(0, worker.id)
            pending.finish(values)
            self._late.append((pending, int(b)))

    async def load(self, worker: Worker) -> dict[str, int]:
        """Read the rows, and return how many there are."""
        await super().load(worker)
        return {"rows": len(self.shard.margins), "nonzeros": self.shard.nonzeros}

    async def measure(self, worker: Worker, starts: Starts) -> None:
        """Cut the blocks, and find this shard's part of the bounds of the curvature."""
        self._starts = starts
        ranges = zip(starts.tolist(), starts[1:].tolist(), strict=False)
        self._blocks = [self.shard.pack(np.arange(begin, end)) for begin, end in ranges]
        self._within, self._between = self.bounds()

    def bounds(self) -> tuple[float, float]:
        """Return bounds of this shard's curvature in and between blocks."""
        return curvatures(list(self.shard.columns(self._starts)))

    async def sweep(self, worker: Worker, order: Starts) -> dict[str, Any]:
        """Push each block's gradient in this order, with answers `max_delay` blocks late."""
        if self.is_auto:
            self.max_delay = worker.max_delay("w")
        began = worker.now()
        for b in order.tolist():
            while self.takes_next():
                await self._catch_up(worker)
            span = int(self._starts[b]), int(self._starts[b + 1])
            pushed = await self.gradient_of(worker, b)
            self._late.append((worker.push_pull("w", span, pushed), b))
        self._busy_s += worker.now() - began
        return {}

    def takes_next(self) -> bool:
        """Return whether a block has to wait for the oldest answer that was not used yet."""
        return len(self._late) > self.max_delay

    async def gradient_of(self, worker: Worker, b: int) -> Floats:
        """Return this shard's part of gradient and inverse length of a block's step, `(n, 2)`.

        Whoever studies delays lets it sleep too, which stands for more work.
        """
        block = self._blocks[b]
        pushed = block.diagonal(self.shard.margins, np.zeros(len(block.keys)))
        delay = self.max_delay if self.settings.step == "bound" else 0
        pushed[:, 1] = self._within + EPSILON + delay * self._between
        return pushed

    async def idleness(self, worker: Worker) -> tuple[float, float]:
        """Return the seconds that this worker's passes have waited, and all of them."""
        return self._waited_s, self._busy_s

    async def check(self, worker: Worker, among: list[int]) -> dict[str, Any]:
        """Look at all keys, with everything that is late."""
        waited = self._waited_s
        while self._late:
            await self._catch_up(worker)
        # Only what passes wait for counts as idle.
        self._waited_s = waited
        return await super().check(worker, among)

    async def _catch_up(self, worker: Worker) -> None:
        """Take the oldest answer."""
        pending, b = self._late.popleft()
        began = worker.now()
        w: Floats = await pending
        self._waited_s += worker.now() - began
        block = self._blocks[b]
        block.advance(w - self.w[block.keys], self.shard.margins)
        self.w[block.keys] = w


def curvatures(blocks: "list[scipy.sparse.csc_array]") -> tuple[float, float]:
    """Return bounds of the logistic loss's curvature: within a block, and between two blocks.

    They are max ||X_b||^2 / 4 and max ||X_a' X_b|| / 4 over pairs of different blocks, in the
    spectral norm. Of many blocks the second is bounded by the first.

    Source: Li et al., NIPS 2014, assumption 1; for the logistic loss the factor is 1/4.
    """
    within = 0.25 * max((norm_bound(x.T @ x) for x in blocks), default=0.0)
    if len(blocks) * (len(blocks) - 1) // 2 > PAIRS_MAX:
        return within, within
    return within, 0.25 * max((norm_bound(a.T @ b) for a, b in _pairs(blocks)), default=0.0)


def _pairs(blocks: list[Any]) -> Iterator[tuple[Any, Any]]:
    return ((a, b) for i, a in enumerate(blocks) for b in blocks[:i])


def norm_bound(matrix: "scipy.sparse.sparray") -> float:
    """Return the spectral norm of a small matrix, or an upper bound of that of a large one."""
    if max(matrix.shape) <= GRAM_MAX:
        return float(np.linalg.norm(matrix.toarray(), 2))
    sizes = abs(matrix)
    rows, columns = np.asarray(sizes.sum(axis=1)), np.asarray(sizes.sum(axis=0))
    return float(np.sqrt(rows.max(initial=0.0) * columns.max(initial=0.0)))
