"""The threads of a server: they work on the rows of one message, and nothing else."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise


class Cores:
    """Shares work out to threads, of which the caller's is one.

    Kernels let other threads run; threads wait between two messages without taking a core.

    Args:
        count: how many threads work, 2 or more.
    """

    def __init__(self, count: int) -> None:
        assert count > 1, count
        self._count = count
        self._others = ThreadPoolExecutor(count - 1, "mpips-kernels")

    def spread(self, work: Callable[[int, int], None], n: int) -> None:
        """Call `work(begin, end)` for equal parts of [0, n), and return when all are done."""
        cuts = [n * at // self._count for at in range(self._count + 1)]
        waiting: list[Future[None]] = []
        try:
            waiting.extend(self._others.submit(work, *part) for part in pairwise(cuts[1:]))
            work(0, cuts[1])
        finally:
            # None of them may go on with arrays that the caller uses again.
            errors = [future.exception() for future in waiting]
        for error in filter(None, errors):
            raise error
