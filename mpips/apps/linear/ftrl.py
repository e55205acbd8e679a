"""Streaming logistic regression by FTRL-proximal, for sparse models.

Source: McMahan et al., Ad Click Prediction, KDD 2013.
"""

from typing import final

from mpips.apps.linear.stream import StreamLinear


@final
class FtrlLinear(StreamLinear):
    """L1 logistic regression whose weights are zero until their gradients together exceed `l1`.

    `l1` counts against the sum of the losses of all rows that are streamed: in one pass it is that
    of the block solvers, and E passes need E times as much for the same objective. Streams do not
    reach the optimum: they stop short of it by some parts in a thousand.
    """

    def update(self) -> tuple[str, dict[str, float]]:
        """Return FTRL; the servers keep two sums for each weight, and no weights."""
        s = self.settings
        return "ftrl", {"alpha": s.alpha, "beta": s.beta, "l1": s.l1, "l2": s.l2}
