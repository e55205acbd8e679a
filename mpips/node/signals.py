"""Signals of a launcher: passed on to its mpirun, and remembered; and the end of an mpirun."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

PASSED_ON = (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
SECONDS_TO_END = 10.0
LOOK_S = 0.05

Child = subprocess.Popen[bytes]


class Signals:
    """Passes USR1, TERM, INT and HUP on to an mpirun while it is entered.

    Attributes:
        came: all that came, in their order.
    """

    def __init__(self) -> None:
        self.came: list[int] = []
        self._child: Child | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._previous = {number: signal.signal(number, self._take) for number in PASSED_ON}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    @property
    def ended_by(self) -> int:
        """Return the first signal that shall end the job; 0: none has come."""
        return next((number for number in self.came if number != signal.SIGUSR1), 0)

    @contextmanager
    def passed_to(self, child: Child) -> Iterator[None]:
        """Pass signals on to an mpirun, which is running, and those that have come before."""
        self._child = child
        try:
            for number in tuple(self.came):
                self._pass_on(child, number)
            yield
        finally:
            self._child = None

    def pause(self, seconds: float) -> None:
        """Wait so long, or until a signal comes."""
        until = time.monotonic() + seconds
        while not self.came and (left := until - time.monotonic()) > 0:
            time.sleep(min(LOOK_S, left))

    def _take(self, number: int, frame: FrameType | None) -> None:
        self.came.append(number)
        if self._child is not None:
            self._pass_on(self._child, number)

    def _pass_on(self, child: Child, number: int) -> None:
        # A timer ends what does not end by itself: an mpirun may wait for ranks of a dead node.
        child.send_signal(number)
        if number != signal.SIGUSR1:
            timer = threading.Timer(SECONDS_TO_END, kill_group, (child,))
            timer.daemon = True
            timer.start()


def end(child: Child) -> None:
    """End an mpirun and its local ranks, at first politely."""
    child.terminate()
    until = time.monotonic() + SECONDS_TO_END
    # Another thread may be the one that waits for it.
    while child.poll() is None and time.monotonic() < until:
        time.sleep(LOOK_S)
    kill_group(child)


def kill_group(child: Child) -> None:
    """Kill an mpirun that is still running; its ranks end with it (`end_with_parent`)."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
