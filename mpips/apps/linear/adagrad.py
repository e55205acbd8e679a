"""Streaming logistic regression by AdaGrad: the plain one, and the one that adapts to delays."""

from typing import ClassVar, final

import numpy as np
import numpy.typing as npt

from mpips.apps.linear.stream import StreamLinear
from mpips.errors import ConfigError
from mpips.node.app import Job
from mpips.wire.types import ValueArray


class AdaGradLinear(StreamLinear):
    """Logistic regression whose steps shrink with each weight's squared gradients so far.

    Each minibatch takes its share of `l1`, so that `l1` counts against the sum of the losses of
    all rows, in all passes together; but only for the columns that the minibatch has. Rare
    columns therefore feel little of it, and a weight that was zero moves at each gradient: few
    weights are zero in the end. Sparse models are what FTRL is for.
    """

    name: ClassVar[str] = "adagrad"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        # AdaGrad's first step would be infinite, and there is no l2 in it.
        if not self.settings.beta:
            what = f"the solver {self.name} needs a beta above 0"
            raise ConfigError(what, "model.beta", "1.0 is the default.")
        if self.settings.l2:
            what = f"the solver {self.name} has no l2"
            raise ConfigError(what, "model.l2", "Leave it out, or set model.solver to ftrl.")

    def update(self) -> tuple[str, dict[str, float]]:
        """Return AdaGrad, with a minibatch's share of l1."""
        s = self.settings
        rows = self.job.facts["rows"] * (s.passes or 1)
        share = min(self.minibatch / max(rows, 1), 1.0)
        return self.name, {"lr": s.alpha, "beta": s.beta, "l1": s.l1 * share}


@final
class AdaRevisionLinear(AdaGradLinear):
    """The same with steps revised where pushes of others came between a pull and its push.

    A pull brings each weight's sum of gradients beside the weight, and the push takes it back: it
    tells the server what has come meanwhile. It pays off where that is much: many workers, or
    small minibatches on a slow network.

    Source: McMahan and Streeter, NIPS 2014.
    """

    push_width: ClassVar[int] = 2

    name: ClassVar[str] = "adarevision"

    def weights(self, pulled: ValueArray) -> npt.NDArray[np.float32]:
        """Return the first of the two values of each key."""
        return np.ascontiguousarray(pulled[:, 0], np.float32)

    def pushed(self, gradient: npt.NDArray[np.float64], pulled: ValueArray) -> ValueArray:
        """Return the gradient, and the sum of gradients that came with the weights."""
        return np.stack([gradient, pulled[:, 1].astype(np.float64)], axis=1)
