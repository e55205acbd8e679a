"""A log file for each rank: who it is, and warnings; with run.debug all that it does."""

import contextlib
import faulthandler
import logging
import signal
from pathlib import Path

logging.getLogger("mpips").addHandler(logging.NullHandler())

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
STACK_SIGNAL = signal.SIGUSR2


def open_log(folder: Path, rank: int, is_debug: bool) -> None:
    """Write this process's log to `log/rank-NNNN.log` of a run folder.

    `STACK_SIGNAL` makes the process add where all its threads are, also while it waits inside MPI:
    the handler is no Python code.

    Args:
        folder: of the run.
        rank: of this process.
        is_debug: whether to write more than warnings and introductions.
    """
    path = folder / "log" / f"rank-{rank:04d}.log"
    root = logging.getLogger("mpips")
    root.setLevel(logging.INFO if is_debug else logging.WARNING)
    root.propagate = False
    # Who gets another role goes on with the log that it has.
    if any(isinstance(handler, logging.FileHandler) for handler in root.handlers):
        return
    handler = logging.FileHandler(path, delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    # On a full disk a job has other words for the user than logging's tracebacks.
    logging.raiseExceptions = False
    root.addHandler(handler)
    with contextlib.suppress(OSError):
        faulthandler.register(STACK_SIGNAL, file=open(path, "a"), all_threads=True)  # noqa: SIM115


def introduce(who: str, process: int) -> None:
    """Write who this rank is, whatever the level: `mpips.node.ranks` finds it by that."""
    root = logging.getLogger("mpips")
    text = f"{who}, process {process}"
    root.handle(root.makeRecord(root.name, logging.INFO, __file__, 0, text, (), None))
