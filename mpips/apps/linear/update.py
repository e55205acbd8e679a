"""The server's update function of the exact solver: the minimum of a block's quadratic model."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, final

import msgspec
import numpy as np

from mpips.apps.linear.types import Floats
from mpips.store.optimisers import Proximal
from mpips.store.update import Field, Slots, Update
from mpips.wire.types import ValueArray

TRUST_GROW = 2.0
TRUST_SHRINK = 0.25


class BlockNewtonSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `BlockNewton`.

    Attributes:
        l1: the weight of |w| in the objective.
        block: the largest number of keys in a push.
    """

    l1: Annotated[float, msgspec.Meta(ge=0)]
    block: Annotated[int, msgspec.Meta(ge=1)]


@final
class BlockNewton(Update):
    """Move a block of weights to the minimum of its quadratic model inside a trust region.

    A push carries for each of its n keys: a share of the trust radius to begin with, which counts
    in the key's first push; the gradient; and the pairs of the symmetric Hessian as
    `kernels.newton.fold` lays them out: each pair once. All of a push's keys are one block, so
    that the table must aggregate, and a push must stay inside one segment. A pull returns weight,
    next trust radius, and the gradient that was pushed.

    The next radius is twice the step, or a quarter of the old one: far from the optimum steps may
    grow, and near to it the model becomes Newton's.
    """

    name: ClassVar[str] = "block-newton"
    Settings: ClassVar[type[msgspec.Struct]] = BlockNewtonSettings
    settings: BlockNewtonSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        from mpips.apps.linear.kernels import newton

        self._kernels = newton
        self.push_width = push_width(self.settings.block)
        self.pull_width = 3

    def make_fields(self) -> tuple[Field, ...]:
        """Return weight, trust radius and gradient."""
        return Field("w", 1, 0.0), Field("trust", 1, 0.0), Field("g", 1, 0.0)

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows of one block."""
        n = len(values)
        assert n <= self.settings.block, f"{n} keys came as one block"
        part = slots if len(slots) else np.arange(first, first + n)
        block = np.asarray(values, np.float64)
        w, known, g = rows[part, 0], rows[part, 1], block[:, 1].copy()
        trust = np.where(known > 0.0, known, block[:, 0])
        h = np.empty((n, n))
        self._kernels.unfold(block, h)
        d = self._kernels.minimise(np.asarray(w, np.float64), g, h, self.settings.l1, trust)
        rows[part, 0] = w + d
        rows[part, 1] = np.maximum(TRUST_GROW * np.abs(d), TRUST_SHRINK * trust)
        rows[part, 2] = g


@final
class OpenProximal(Update):
    """The update function `Proximal`, a pull of which brings the trust region beside the weight.

    So whoever takes over a logical worker learns of it.
    """

    name: ClassVar[str] = "open-proximal"
    Settings: ClassVar[type[msgspec.Struct]] = Proximal.Settings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        self._proximal = Proximal(width, settings)
        super().__init__(width, settings)
        self.push_width = self.pull_width = 2 * width

    def make_fields(self) -> tuple[Field, ...]:
        """Return the weight and how far it may move."""
        return self._proximal.make_fields()

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by gradients and second derivatives."""
        self._proximal.apply(rows, slots, first, values)


def push_width(block: int) -> int:
    """Return the number of values that a push carries for each key."""
    return 3 + block // 2


def make_push(trust: Floats, g: Floats, h: Floats, block: int) -> Floats:
    """Return the values to push for a block: float64 `(n, push_width)`.

    Args:
        trust: float64 `(n,)`: this worker's share, since servers add.
        g: float64 `(n,)`.
        h: float64 `(n, n)`; the lower triangle is read.
        block: the setting.
    """
    from mpips.apps.linear.kernels import newton

    values = np.zeros((len(g), push_width(block)))
    values[:, 0] = trust
    values[:, 1] = g
    newton.fold(h, values)
    return values
