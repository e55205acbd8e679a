"""A node's part of a checkpoint, written in a thread of its own while the node works on."""

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from mpips.node import surroundings

Parts = list[dict[str, Any]]

LOOK_S: Final = 0.01


def may_go_on(size: int) -> bool:
    """Return whether a node goes on while its part is written, which may need a copy of it.

    Jobs in one process do not, since they shall not depend on threads; nor does who has no memory
    for it, beside the other ranks of its host, all of which write theirs at once.

    Args:
        size: of the part, in bytes.
    """
    ranks = surroundings.local_size() or 1
    return surroundings.under_mpi() and size <= surroundings.free_memory() / ranks


class Writer:
    """Writes a part in a thread without MPI, which touches nothing but copies and what is frozen.

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
        # Let what it has written go.
        self._write = None


class Keeper(Protocol):
    """Who has a part of a checkpoint to write."""

    def weigh(self) -> int:
        """Return how many bytes a copy of the part takes, at most."""

    def save(self, folder: Path, later: bool) -> Callable[[], Parts]:
        """Return what writes the part, as `Member.save` does."""

    def forget_part(self) -> None:
        """Let go of what is kept for a part."""


class Writing:
    """A node's parts of checkpoints, one after the other.

    Args:
        keeper: the node.
        tell: called with a checkpoint's number when nothing that comes can change the part, and
            with its files when it is written.
    """

    def __init__(self, keeper: Keeper, tell: Callable[[int, Parts | None], None]) -> None:
        self._keeper, self._tell = keeper, tell
        self._writer: Writer | None = None

    def begin(self, number: int, folder: Path) -> None:
        """Write a part, beside the work if there is the memory for it, else at once."""
        # Nobody waits for an earlier one any more: this one would not have been asked for.
        self._writer = None
        self._keeper.forget_part()
        later = may_go_on(self._keeper.weigh())
        write = self._keeper.save(folder, later)
        if not later:
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
            parts = writer.result()
            self._keeper.forget_part()
            self._tell(writer.number, parts)

    def due(self, now: float) -> float:
        """Return when to look; never: infinity."""
        return math.inf if self._writer is None else now + LOOK_S
