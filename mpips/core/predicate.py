"""A user's predicate over clocks: whether a pull may be answered yet (DESIGN, section 5)."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.core.clock import VectorClock
from mpips.core.reading import marks_of
from mpips.errors import AppError, ConfigError
from mpips.store.named import import_named
from mpips.wire.messages import Pull, Push
from mpips.wire.slices import runs_of
from mpips.wire.types import Table


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What a predicate decides on: a range of keys, and the logical worker that pulls it.

    Attributes:
        clocks: int64 `(n,)`: up to which clock all pushes of each logical worker to the range are
            applied, and on all copies; 0: none yet. Those that were dropped are left out.
        workers: int64 `(n,)`: the ids of these logical workers, ascending.
        reader: id of the logical worker that pulls.
        clock: the reader's last clock before this pull with which it pushed to the range; 0: none.
        task: the reader's last clock before this pull on the whole table; 0: none.
    """

    clocks: npt.NDArray[np.int64]
    workers: npt.NDArray[np.int64]
    reader: int
    clock: int
    task: int


Predicate = Callable[[Reading], bool]
"""Says whether a pull of a range may be answered now.

It runs on the range's owner when the pull comes, and again at each change of a clock or of the
view; a pull of several ranges is answered when it says True for all of them on one server. It
must be pure: the same reading gives the same answer.
"""


@final
class Rule:
    """The predicate of a table.

    Args:
        table: whose mode is "predicate".

    Attributes:
        name: of the predicate, for people.

    Raises:
        ConfigError: the predicate cannot be imported, or is no function of one argument.
    """

    def __init__(self, table: Table) -> None:
        self._table = table
        self._predicate: Callable[[Reading], object] = find_predicate(table)
        self.name = _name_of(table.predicate)

    def refusals(
        self, clocks: VectorClock, active: Sequence[bool], message: Push | Pull
    ) -> Iterator[tuple[int, Reading]]:
        """Yield a segment for each state of clocks in which the pull may not be answered yet.

        Args:
            clocks: of all segments.
            active: by logical worker: whether it takes part.
            message: the pull; its marks are the reader's clocks.

        Raises:
            AppError: the user's function failed; its own error is the cause.
        """
        workers = [stream for stream, is_active in enumerate(active) if is_active]
        # Ranges of equal clocks are asked for once.
        asked: dict[tuple[int, ...], int] = {}
        runs = runs_of(message.slices)
        for (first, many, _, _, _), mark in zip(runs, marks_of(message), strict=True):
            for segment in range(first, first + many):
                found = [clocks.clocks[u].least(segment, segment + 1) for u in workers]
                asked.setdefault((mark, *found), segment)
        for (mark, *found), segment in asked.items():
            reading = Reading(
                clocks=np.array(found, np.int64),
                workers=np.array(workers, np.int64),
                reader=message.stream,
                clock=mark,
                task=message.clock,
            )
            if not self._ask(reading, segment):
                yield segment, reading

    def _ask(self, reading: Reading, segment: int) -> bool:
        """Call the user's function, and name it if it fails."""
        begin, end = self._table.segment_range(segment)
        where = (
            f"It got the clocks {reading.clocks.tolist()} of keys [{begin}, {end}) of"
            f" {self._table.name} and reader {reading.reader} at clock {reading.clock}."
        )
        try:
            answer = self._predicate(reading)
        except Exception as error:
            what = f"your predicate {self.name} raised {type(error).__name__}: {error}"
            raise AppError(what, where) from error
        if not isinstance(answer, bool | np.bool_):
            what = f"your predicate {self.name} returned {answer!r}, not True or False"
            raise AppError(what, where)
        return bool(answer)


def find_predicate(table: Table) -> Predicate:
    """Return a table's predicate.

    Raises:
        ConfigError: it cannot be imported, or is no function of one argument.

    >>> table = Table(name="w", mode="predicate", predicate=lambda reading: True)
    >>> find_predicate(table)(None)
    True
    """
    given = table.predicate
    remedy = "Write a function that takes a mpips.Reading, and name it module:function."
    found: Any = given
    if isinstance(given, str):
        found = import_named(given, "predicate", remedy)
    what = f"{_name_of(given)}, the predicate of table {table.name},"
    if not callable(found):
        raise ConfigError(f"{what} is no function.", "", remedy)
    try:
        inspect.signature(found).bind(None)
    except TypeError as error:
        raise ConfigError(f"{what} does not take one argument: {error}.", "", remedy) from None
    except ValueError:
        # Some built-in functions do not say what they take.
        pass
    predicate: Predicate = found
    return predicate


def _name_of(predicate: object) -> str:
    """Return a predicate's name: "module:function"."""
    if isinstance(predicate, str):
        return predicate
    kind: Any = predicate if hasattr(predicate, "__qualname__") else type(predicate)
    return f"{kind.__module__}:{kind.__qualname__}"
