"""Picks how stale values may be from how long workers wait for them."""

from typing import Final, final

LARGEST: Final = 32
MUCH: Final = 0.25
LITTLE: Final = 0.05


@final
class DelayControl:
    """Picks tau for the next tasks from the share of their time that workers have waited.

    While they wait for more than `MUCH` of it, tau doubles; when they wait for less than
    `LITTLE`, it is halved, since staler values make more steps necessary. In between it stays:
    halving tau rarely makes workers wait five times as long, so that it does not swing. In the
    runs of Li et al. (NIPS 2014, figure 4) that ends at 8, which was the best.

    The same figures give the same tau.

    Args:
        largest: the largest tau that may be picked.

    Attributes:
        max_delay: tau; 0 at first.

    >>> control = DelayControl()
    >>> [control.observe(waited, 10.0) for waited in (5.0, 3.0, 1.0, 0.1)]
    [1, 2, 2, 1]
    """

    def __init__(self, largest: int = LARGEST) -> None:
        assert largest >= 0, largest
        self.max_delay, self._largest = 0, largest

    def observe(self, waited_s: float, whole_s: float) -> int:
        """Return tau, given how many seconds all workers have waited, and all that passed.

        Both are sums over the workers, since the last time; nothing changes if they are 0.
        """
        assert waited_s >= 0, waited_s
        if whole_s <= 0:
            return self.max_delay
        share = waited_s / whole_s
        if share > MUCH:
            self.max_delay = min(max(1, 2 * self.max_delay), self._largest)
        elif share < LITTLE:
            self.max_delay //= 2
        return self.max_delay
