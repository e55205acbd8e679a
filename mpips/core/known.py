"""The key lists that a server remembers, which travel as signatures, with their slots."""

from collections.abc import Sequence
from typing import final

import msgspec

from mpips.filters.caching import BYTES_MAX, Listed, Recent, sign
from mpips.store.base import Store
from mpips.wire.messages import Forgotten
from mpips.wire.types import KeyArray


@final
class KnownLists:
    """The receiver's side of key caching (`mpips/filters/caching.py`).

    A list that is known is always the same array, which nobody changes: by that a store knows it,
    and keeps the slots of its keys.

    Args:
        stores: by table.
        bytes_max: of the lists; their slots take as much again.

    Attributes:
        epoch: of what it says to senders, as is `incarnation`.
    """

    def __init__(self, stores: Sequence[Store], bytes_max: int = BYTES_MAX) -> None:
        self.epoch = self.incarnation = 0
        self._stores = stores
        self._recent: Recent[tuple[Store, KeyArray]] = Recent(bytes_max)

    def __len__(self) -> int:
        """Return how many lists are known."""
        return len(self._recent)

    def restore(self, message: Listed) -> Listed | Forgotten:
        """Return a message with its keys; if they did not come and are not known, the answer."""
        keys, coding, table = message.keys, message.coding[0], message.table
        if keys is not None:
            keys = self._remember(table, keys)
        elif (found := self._recent.get((table, coding.signature))) is not None:
            _, keys = found
        else:
            return Forgotten(
                epoch=self.epoch,
                incarnation=self.incarnation,
                request=message.request,
                table=table,
                signature=coding.signature,
            )
        return msgspec.structs.replace(message, keys=keys, coding=())

    def _remember(self, table: int, keys: KeyArray) -> KeyArray:
        """Return the list that is remembered for keys."""
        # What has come is the sender's, or memory that is used again.
        own = keys.copy()
        own.flags.writeable = False
        name, store = (table, sign(own)), self._stores[table]
        known = self._recent.get(name)
        if known is not None:
            return known[1]
        store.keep(own)
        for other, gone in self._recent.put(name, (store, own), own.nbytes):
            other.forget(gone)
        return own
