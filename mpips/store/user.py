"""Update functions that users write, with NumPy."""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from mpips.errors import AppError, ConfigError
from mpips.store.update import Field, Slots, Update
from mpips.wire.types import ValueArray


class State:
    """The fields of some keys as attributes: arrays `(n, width)` of the table's dtype.

    Both `s.w -= step` and `s.w = new` change the state.
    """

    _arrays: dict[str, npt.NDArray[Any]]

    def __init__(self, fields: tuple[Field, ...], rows: ValueArray) -> None:
        ends = np.cumsum([field.width for field in fields]).tolist()
        arrays = {
            field.name: rows[:, end - field.width : end]
            for field, end in zip(fields, ends, strict=True)
        }
        object.__setattr__(self, "_arrays", arrays)

    def __getattr__(self, name: str) -> npt.NDArray[Any]:
        if name in self._arrays:
            return self._arrays[name]
        raise AttributeError(f"the state has {', '.join(self._arrays)}, but no {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        array = getattr(self, name)
        # An operation in place ends here with the same array, which needs no copy.
        if value is not array:
            array[...] = value


class UserUpdate(Update):
    """The base class of a user's own update function.

    A subclass names its state and changes it, for all keys of a message at once; pulls read the
    first field. It may declare settings: a frozen msgspec Struct named `Settings`, whose values
    are then in `self.settings`. It must be deterministic, for every copy of a segment runs it.

    >>> class Largest(UserUpdate):
    ...     state = {"w": 0.0}
    ...     def update(self, s, values):
    ...         s.w = np.maximum(s.w, values)
    >>> rows = np.array([[3.0], [4.0]])
    >>> Largest(1).apply(rows, np.array([1]), 0, np.array([[7.0]]))
    >>> rows.tolist()
    [[3.0], [7.0]]
    """

    state: ClassVar[dict[str, float]] = {}

    def __init_subclass__(cls) -> None:
        cls.name = f"{cls.__module__}:{cls.__qualname__}"

    @abstractmethod
    def update(self, s: Any, values: ValueArray) -> None:
        """Change the state of some keys by what was pushed to them.

        Args:
            s: the fields as attributes, each an array `(n, width)` of the table's dtype.
            values: what was pushed, `(n, width)` of the table's dtype; not to be changed.
        """

    def make_fields(self) -> tuple[Field, ...]:
        """Return the fields that the class declares in `state`."""
        if not self.state:
            raise ConfigError(
                f"The update function {self.name} declares no state.",
                "",
                'Name its fields and what they start at, like state = {"w": 0.0}.',
            )
        return tuple(Field(name, self.width, start) for name, start in self.state.items())

    def apply(self, rows: ValueArray, slots: Slots, first: int, values: ValueArray) -> None:
        """Change the rows by the user's function.

        Raises:
            AppError: the user's function failed; its own error is the cause.
        """
        if not len(slots):
            self._call(rows[first : first + len(values)], values)
            return
        gathered = rows[slots]
        self._call(gathered, values)
        rows[slots] = gathered

    def _call(self, rows: ValueArray, values: ValueArray) -> None:
        """Call the user's function on the rows, and name it if it fails."""
        try:
            self.update(State(self.fields, rows), values)
        except Exception as error:
            raise AppError(
                f"your update function {self.name} raised {type(error).__name__}: {error}",
                f"It got {len(values)} keys of width {self.width} in {rows.dtype}.",
            ) from error
