"""How an event loop waits when nothing happens: fast at first, cheap in the end."""

import math
import os
import time
from collections.abc import Callable

SPINS = 200
"""Waits that return at once (about 50 us of polling) before the first sleep."""

FIRST_SLEEP_S = 10e-6
LONGEST_SLEEP_S = 1e-3
SILENCE_S = 1.0
LONGEST_SLEEP_IN_SILENCE_S = 20e-3


class Backoff:
    """Waits adaptively: spins, then sleeps longer and longer while nothing happens.

    Call `busy` after a poll that found something and `wait` after one that did not. Sleeps double
    from 10 us to 1 ms, and to 20 ms after a second of silence, where a loop costs about 0.3 % of a
    core and a spinning one would take it whole.

    Args:
        crowded: whether the ranks of this host outnumber its cores; then a spin gives the core
            to the peer that is waited for.
        clock: tells seconds that never go back.
        sleep: sleeps so many seconds.
    """

    def __init__(
        self,
        crowded: bool = False,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._crowded, self._clock, self._sleep = crowded, clock, sleep
        self.busy()

    def busy(self) -> None:
        """Begin anew, because something happened."""
        self._spins = 0
        self._next_s = FIRST_SLEEP_S

    def wait(self, until: float = math.inf) -> None:
        """Wait a little, longer each time; 20 ms at most, and not past a time of the clock."""
        # The clock is not read while spinning: it costs as much as a poll.
        if self._spins < SPINS:
            self._spins += 1
            if self._crowded:
                os.sched_yield()
            if self._spins == SPINS:
                self._silent_since = self._clock()
            return
        left_s = math.inf if until == math.inf else max(0.0, until - self._clock())
        self._sleep(min(self._next_s, left_s))
        silent = self._clock() - self._silent_since >= SILENCE_S
        longest_s = LONGEST_SLEEP_IN_SILENCE_S if silent else LONGEST_SLEEP_S
        self._next_s = min(2 * self._next_s, longest_s)
