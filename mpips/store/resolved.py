"""Key lists whose rows are looked up once, for as long as they stay where they are."""

from typing import Final, final

import msgspec

from mpips.store.update import NO_SLOTS, Slots
from mpips.wire.types import KeyArray

NEVER: Final = -1


class Kept(msgspec.Struct):
    """A key list, and where its rows were in a generation of its store: slots, or the first."""

    keys: KeyArray
    slots: Slots = NO_SLOTS
    first: int = 0
    generation: int = NEVER


@final
class ResolvedLists:
    """The lists of a store that come again: each is known by being the same array.

    Nobody may change such an array.
    """

    def __init__(self) -> None:
        self._all: dict[int, Kept] = {}

    def keep(self, keys: KeyArray) -> None:
        """Keep the place of a list from now on."""
        self._all[id(keys)] = Kept(keys)

    def forget(self, keys: KeyArray) -> None:
        """Keep the place of a list no longer."""
        self._all.pop(id(keys), None)

    def find(self, keys: KeyArray) -> Kept | None:
        """Return what is kept of a list, or None."""
        kept = self._all.get(id(keys)) if self._all else None
        return kept if kept is not None and kept.keys is keys else None
