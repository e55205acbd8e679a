"""Ends this process if something takes too long that cannot be called off, as MPI's collectives."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def die() -> None:
    """End this process in the one way that MPI tells the others of."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def watchdog(seconds: float, give_up: Callable[[], None]) -> Iterator[None]:
    """Kill this process if what is done meanwhile is not done in time.

    Args:
        seconds: how long it may take; it must let other threads run.
        give_up: called in a thread before the end; not even an error in it prevents that.
    """
    timer = threading.Timer(seconds, _end, [give_up])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end(give_up: Callable[[], None]) -> None:
    try:
        give_up()
    finally:
        die()
