"""A node's part of a checkpoint, written in a thread of its own while the node works on."""

import math
import threading
from collections.abc import Callable
from typing import Any, Final

from mpips.node import surroundings

Parts = list[dict[str, Any]]

LOOK_S: Final = 0.01


def may_copy(size: int) -> bool:
    """Return whether a node copies its part, to go on while the copy is written.

    Jobs in one process do not, since they shall not depend on threads; nor does who has no memory
    for it, beside the other ranks of its host, all of which copy theirs at once.

    Args:
        size: of the copy, in bytes.
    """
    ranks = surroundings.local_size() or 1
    return surroundings.under_mpi() and size <= surroundings.free_memory() / ranks


class Writer:
    """Writes a part in a thread without MPI, which touches nothing but its copy.

    Args:
        number: of the checkpoint.
        write: writes the part, and returns its files.
    """

    def __init__(self, number: int, write: Callable[[], Parts]) -> None:
        self.number = number
        self._write: Callable[[], Parts] | None = write
        self._parts: Parts = []
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        """Return whether it has come to an end, good or bad."""
        return not self._thread.is_alive()

    def result(self) -> Parts:
        """Wait for the end, and return the files.

        Raises:
            MpipsError: whatever writing has raised.
        """
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._parts

    def _run(self) -> None:
        assert self._write is not None
        try:
            self._parts = self._write()
        except Exception as error:
            self._error = error
        # Let the copy go.
        self._write = None


class Writing:
    """A node's parts of checkpoints, one after the other.

    Args:
        tell: called with a checkpoint's number when the part is copied, and with its files when
            it is written.
    """

    def __init__(self, tell: Callable[[int, Parts | None], None]) -> None:
        self._tell = tell
        self._writer: Writer | None = None

    def begin(self, number: int, write: Callable[[], Parts], copied: bool) -> None:
        """Write a part: beside the work if it is a copy, else at once."""
        if not copied:
            self._tell(number, write())
            return
        self._tell(number, None)
        self._writer = Writer(number, write)

    def look(self) -> bool:
        """Tell that the part is written, if it is, and return whether it is.

        Raises:
            MpipsError: it could not be written.
        """
        if self._writer is None or not self._writer.is_done:
            return False
        self.finish()
        return True

    def finish(self) -> None:
        """Wait until the part is written, if there is one, and tell.

        Raises:
            MpipsError: it could not be written.
        """
        writer, self._writer = self._writer, None
        if writer is not None:
            self._tell(writer.number, writer.result())

    def due(self, now: float) -> float:
        """Return when to look; never: infinity."""
        return math.inf if self._writer is None else now + LOOK_S
