"""A log file for each rank, set up by the launcher alone."""

import logging
from pathlib import Path

logging.getLogger("mpips").addHandler(logging.NullHandler())

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def open_log(folder: Path, rank: int) -> None:
    """Write this process's log to `log/rank-NNNN.log` of a run folder."""
    handler = logging.FileHandler(folder / "log" / f"rank-{rank:04d}.log", delay=True)
    handler.setFormatter(logging.Formatter(FORMAT))
    # On a full disk a job has other words for the user than logging's tracebacks.
    logging.raiseExceptions = False
    root = logging.getLogger("mpips")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    root.propagate = False
