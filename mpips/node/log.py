"""A log file for each rank, set up by the launcher alone."""

import contextlib
import faulthandler
import logging
import signal
from pathlib import Path

logging.getLogger("mpips").addHandler(logging.NullHandler())

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
STACK_SIGNAL = signal.SIGUSR2


def open_log(folder: Path, rank: int) -> None:
    """Write this process's log to `log/rank-NNNN.log` of a run folder.

    `STACK_SIGNAL` makes the process add where all its threads are, also while it waits inside MPI:
    the handler is no Python code.
    """
    path = folder / "log" / f"rank-{rank:04d}.log"
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    # On a full disk a job has other words for the user than logging's tracebacks.
    logging.raiseExceptions = False
    root = logging.getLogger("mpips")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    root.propagate = False
    with contextlib.suppress(OSError):
        faulthandler.register(STACK_SIGNAL, file=open(path, "a"), all_threads=True)  # noqa: SIM115
