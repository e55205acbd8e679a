"""The update functions that learn from gradients; their loops are compiled."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, final

import msgspec

from mpips.store.update import Field, Slots, Update
from mpips.wire.types import ValueArray

Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Fraction = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class SgdSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `Sgd`.

    Attributes:
        lr: length of a step, for a gradient of 1.
        momentum: the part of the last step that goes on; 0 keeps no state for it.
        l2: the weight of |w|^2 / 2 in the objective.
    """

    lr: Positive = 0.01
    momentum: Fraction = 0.0
    l2: NotNegative = 0.0


@final
class Sgd(Update):
    """Take a gradient step: v = momentum v + g + l2 w, w = w - lr v."""

    name: ClassVar[str] = "sgd"
    can_be_shared: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = SgdSettings
    settings: SgdSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        from mpips.store.kernels import descent

        self._kernels = descent

    def make_fields(self) -> tuple[Field, ...]:
        """Return the weight, and the velocity if there is momentum."""
        weight = Field("w", self.width, 0.0)
        return (weight, Field("v", self.width, 0.0)) if self.settings.momentum else (weight,)

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by gradients."""
        s = self.settings
        if s.momentum:
            self._kernels.momentum(rows, slots, first, values, s.lr, s.l2, s.momentum)
        else:
            self._kernels.sgd(rows, slots, first, values, s.lr, s.l2)


class AdaGradSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `AdaGrad`.

    Attributes:
        lr: length of a step where `beta` + sqrt(n) is 1.
        beta: keeps the first steps short.
        l1: the weight of |w| in the objective.
    """

    lr: Positive = 0.01
    beta: Positive = 1.0
    l1: NotNegative = 0.0


@final
class AdaGrad(Update):
    """Take a step that shrinks with the squares so far: n = n + g^2, step = lr / (beta + sqrt(n)).

    Then w moves by -step g, and towards 0 by step l1. Each push counts on its own: in a table
    that aggregates, n grows by the square of the sum, else by the sum of the squares.
    A gradient of exactly 0 changes nothing, not even for l1: it stands for a key that the message
    has no gradient of. So l1 counts once for each gradient of a key; for weights that are to
    be sparse, `Ftrl` is made.

    Source: Duchi, Hazan and Singer, JMLR 2011, with composite mirror descent.
    """

    name: ClassVar[str] = "adagrad"
    can_be_shared: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = AdaGradSettings
    settings: AdaGradSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        from mpips.store.kernels import descent

        self._kernels = descent

    def make_fields(self) -> tuple[Field, ...]:
        """Return the weight and the sum of squared gradients."""
        return Field("w", self.width, 0.0), Field("n", self.width, 0.0)

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by gradients."""
        s = self.settings
        self._kernels.adagrad(rows, slots, first, values, s.lr, s.beta, s.l1)


@final
class AdaRevision(Update):
    """AdaGrad for gradients that come late: it takes back what former steps were too long.

    A pull gives for each key the weights, then the sums of all gradients pushed so far. A push
    carries gradients g, then the sums as they were pulled with the weights that g was computed
    with: both are `(n, 2 width)`. What was pushed meanwhile is b, the difference of the sums.
    Then, with step(top) = lr / (beta + sqrt(top)):
    z = z + g^2 + 2 g b, top' = max(z, top), w = w - step(top') g + (step(top) - step(top')) b,
    and w moves towards 0 by step(top') l1.

    Where nothing came in between, this is `AdaGrad` with the same settings, to the last bit. It
    pays off where delays are long, and different from key to key: a rare key has few pushes on
    their way, a frequent one has hundreds. A gradient of exactly 0 changes nothing. In float32 a
    sum that is 2^24 times a gradient no longer notes it, and its delay goes unnoticed. Not for
    tables that aggregate: sums that were pulled must not be added.

    Source: McMahan and Streeter, NIPS 2014 (AdaptiveRevision); with `beta` and `l1` as
    in `AdaGrad`.
    """

    name: ClassVar[str] = "adarevision"
    can_be_shared: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = AdaGradSettings
    settings: AdaGradSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        from mpips.store.kernels import descent

        self._kernels = descent
        self.push_width = self.pull_width = 2 * width

    def make_fields(self) -> tuple[Field, ...]:
        """Return the weight, the sum of gradients, the sum for the step, and the largest such."""
        return tuple(Field(name, self.width, 0.0) for name in ("w", "sum", "z", "top"))

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by gradients and the sums that they were computed after."""
        s = self.settings
        self._kernels.adarevision(rows, slots, first, values, s.lr, s.beta, s.l1)


class AdamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `Adam`.

    Attributes:
        lr: length of a step where gradients are always the same.
        beta1: how much of the mean of gradients goes on.
        beta2: how much of the mean of squared gradients goes on.
        eps: keeps the division from 0.
    """

    lr: Positive = 0.001
    beta1: Fraction = 0.9
    beta2: Fraction = 0.999
    eps: Positive = 1e-8


@final
class Adam(Update):
    """Take a step along the mean m over the root of the mean square v of gradients.

    Both means are corrected for their start at 0 by t, the number of pushes of the key. Keys that
    are not pushed stay as they are: their means do not fade.

    Source: Kingma and Ba, ICLR 2015, algorithm 1.
    """

    name: ClassVar[str] = "adam"
    can_be_shared: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = AdamSettings
    settings: AdamSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        from mpips.store.kernels import descent

        self._kernels = descent

    def make_fields(self) -> tuple[Field, ...]:
        """Return the weight, the two means, and one number of pushes for all values of a key."""
        wide = tuple(Field(name, self.width, 0.0) for name in ("w", "m", "v"))
        return (*wide, Field("t", 1, 0.0))

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by gradients."""
        s = self.settings
        self._kernels.adam(rows, slots, first, values, s.lr, s.beta1, s.beta2, s.eps)


class FtrlSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `Ftrl`.

    Attributes:
        alpha: length of a step where `beta` + sqrt(n) is 1.
        beta: keeps the first steps short.
        l1: the weight of |w| in the objective; zeroes weights.
        l2: the weight of |w|^2 / 2 in the objective.
    """

    alpha: Positive = 0.01
    beta: NotNegative = 1.0
    l1: NotNegative = 1.0
    l2: NotNegative = 0.0


@final
class Ftrl(Update):
    """Follow the regularised leader: sums z and n are kept, and w is computed when it is read.

    With w of the sums before: n' = n + g^2, z = z + g - (sqrt(n') - sqrt(n)) / alpha w.
    w is 0 if |z| <= l1, else -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2).

    Source: McMahan et al., KDD 2013, algorithm 1.
    """

    name: ClassVar[str] = "ftrl"
    can_be_shared: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = FtrlSettings
    settings: FtrlSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        from mpips.store.kernels import ftrl

        self._kernels = ftrl
        s = self.settings
        self._numbers = s.alpha, s.beta, s.l1, s.l2

    def make_fields(self) -> tuple[Field, ...]:
        """Return the sums; there is no weight among them."""
        return Field("z", self.width, 0.0), Field("n", self.width, 0.0)

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by gradients."""
        self._kernels.apply(rows, slots, first, values, *self._numbers)

    def read(self, rows: ValueArray, slots: Slots, first: int, out: ValueArray) -> None:
        """Fill `out` with the weights."""
        self._kernels.read(rows, slots, first, out, *self._numbers)


class ProximalSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings of `Proximal`.

    Attributes:
        l1: the weight of |w| in the objective.
        lr: length of a step; 1 is the minimum of the model along each coordinate.
        delta: how far a weight may move in its first step.
        delta_max: how far it may ever move in one step.
    """

    l1: NotNegative = 1.0
    lr: Positive = 1.0
    delta: Positive = 1.0
    delta_max: Positive = 5.0


@final
class Proximal(Update):
    """Take a proximal Newton step with a diagonal Hessian, inside a trust region.

    A push carries for each key the gradients g, then upper bounds u of the second derivatives:
    values are `(n, 2 width)`. Each weight moves to the minimum of g d + u d^2 / (2 lr) + l1 |w + d|
    over |d| <= delta, then delta = min(delta_max, 2 |d| + 0.1).

    Source: Li et al., NIPS 2014, equation 2; the trust region is that of the authors' code.
    """

    name: ClassVar[str] = "proximal"
    can_be_shared: ClassVar[bool] = True
    Settings: ClassVar[type[msgspec.Struct]] = ProximalSettings
    settings: ProximalSettings

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        super().__init__(width, settings)
        from mpips.store.kernels import descent

        self._kernels = descent
        self.push_width = 2 * width

    def make_fields(self) -> tuple[Field, ...]:
        """Return the weight and how far it may move."""
        return Field("w", self.width, 0.0), Field("delta", self.width, self.settings.delta)

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by gradients and second derivatives."""
        s = self.settings
        self._kernels.proximal(rows, slots, first, values, s.lr, s.l1, s.delta_max)
