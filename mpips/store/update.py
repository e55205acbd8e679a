"""The server's update function: what a push does to the state of its keys.

The state of a key lies in one row of a table: the columns of the first field, then those of the
second, and so on, side by side, so that a scattered update touches one cache line a key.
An update function sees a whole message at once. It is deterministic: equal rows and equal values
give equal bits on every copy, in whatever pieces the message comes.

Which rows a message is about is said in one of two ways:

- `slots`, int64 `(n,)`, strictly different row numbers; `first` is ignored;
- `slots` empty: the rows `[first, first + n)`, n being the number of rows of `values` or `out`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.errors import ConfigError
from mpips.wire.types import ValueArray

Slots = npt.NDArray[np.int64]

NO_SLOTS: Final[Slots] = np.empty(0, dtype=np.int64)


class Field(NamedTuple):
    """A part of each key's state: its name, its number of columns, and what it starts at."""

    name: str
    width: int
    initial: float


class NoSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings of an update function that has none."""


class Update(ABC):
    """A server's update function, for a table of a given value width.

    Args:
        width: values of a key that a pull returns.
        settings: settings by name, checked against the class's `Settings`.

    Attributes:
        fields: the parts of each key's state, in the order of their columns.
        columns: the number of columns of a row.
        push_width: the number of values that a push carries for each key.
        pull_width: the number of values that a pull returns for each key.
        can_be_shared: whether what becomes of a row depends on its own values alone, so that
            threads may work on the rows of one message.

    Raises:
        ConfigError: a setting is unknown, or its value makes no sense.
    """

    name: ClassVar[str]
    can_be_shared: ClassVar[bool] = False
    Settings: ClassVar[type[msgspec.Struct]] = NoSettings
    settings: msgspec.Struct

    def __init__(self, width: int, settings: Mapping[str, float] | None = None) -> None:
        self.width = width
        self.settings = check_settings(self.name, self.Settings, settings or {})
        self.fields = self.make_fields()
        self.columns = sum(field.width for field in self.fields)
        self.push_width = width
        self.pull_width = width

    @abstractmethod
    def make_fields(self) -> tuple[Field, ...]:
        """Return the fields for this width and these settings; a pull reads the first."""

    @abstractmethod
    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by what was pushed.

        Args:
            rows: float32 or float64 `(any, columns)`, C-contiguous; changed in place.
            slots: int64 `(n,)`, each row at most once; empty for the rows from `first` on.
            first: the first row, if `slots` is empty.
            values: rows' dtype `(n, push_width)`, C-contiguous; not changed.
        """

    def read(self, rows: ValueArray, slots: Slots, first: int, out: ValueArray) -> None:
        """Fill `out`, rows' dtype `(n, pull_width)`, with what a pull of the rows returns."""
        if not len(slots):
            out[:] = rows[first : first + len(out), : self.pull_width]
        elif self.columns == self.pull_width:
            # Mode "clip" lets NumPy write to `out` without a buffer between; slots are in range.
            np.take(rows, slots, axis=0, out=out, mode="clip")
        else:
            out[:] = rows[slots, : self.pull_width]

    def initial_row(self, dtype: npt.DTypeLike) -> ValueArray:
        """Return the state of a key that was never pushed, `(columns,)`."""
        parts = [np.full(field.width, field.initial, dtype) for field in self.fields]
        return np.concatenate(parts)


def check_settings(
    name: str, kind: type[msgspec.Struct], settings: Mapping[str, float]
) -> msgspec.Struct:
    """Return the settings of an update function as its Struct.

    Raises:
        ConfigError: a setting is unknown, missing, not finite, or out of its range.

    >>> check_settings("add", NoSettings, {})
    NoSettings()
    """
    try:
        checked = msgspec.convert(dict(settings), kind)
        wrong = [key for key, value in settings.items() if not math.isfinite(value)]
        if not wrong:
            return checked
        message = f"`{wrong[0]}` is not finite"
    except msgspec.ValidationError as error:
        message = str(error)
    known = ", ".join(f"{key} = {value}" for key, value in _defaults(kind).items())
    raise ConfigError(
        f"Wrong settings of the update function {name}: {message}.",
        f"They are {dict(settings)}.",
        f"It takes {known or 'no settings'}.",
    ) from None


def _defaults(kind: type[msgspec.Struct]) -> dict[str, object]:
    """Return the settings of an update function with their defaults."""
    fields = msgspec.structs.fields(kind)
    return {f.name: "(required)" if f.required else f.default for f in fields}
