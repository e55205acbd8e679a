"""Key caching: a key list that comes again travels as its signature (OSDI 2014, section 5.1).

This is the filter with state on both sides. The sender remembers, for each receiver, the
signatures of the lists that it has sent; the receiver remembers the lists. Both forget the ones
longest unused, by the same rule; but messages overtake each other and nodes are replaced, so that
a receiver may lack a list. Then it says `Forgotten`, and the sender sends the same request again
with its keys. So nothing depends on what is remembered but time and bytes.
"""

from collections import OrderedDict
from collections.abc import Iterable
from typing import Final, Generic, TypeVar, final

import msgspec
import numpy as np

from mpips.wire.messages import Coding, Forgotten, Pull, Push, Replicate
from mpips.wire.types import KeyArray

Listed = TypeVar("Listed", bound=Push | Pull | Replicate)
Value = TypeVar("Value")

Name = tuple[int, str]
"""A list's table and its signature."""

NAME: Final = "caching"
KEYS_MIN: Final = 128
"""Keys below which a list is not worth a signature."""

BYTES_MAX: Final = 2**27
"""Bytes of key lists that a receiver remembers, and that a sender believes of it."""

MISSES_MAX: Final = 2
"""How often a list may turn out to be forgotten before it is always sent."""


def sign(keys: KeyArray) -> str:
    """Return the signature of a key list: 128 bits of its bytes (XXH3), about 0.1 ns a byte.

    >>> sign(np.arange(3, dtype=np.uint64)) == sign(np.arange(3, dtype=np.uint64).copy())
    True
    """
    import xxhash

    return xxhash.xxh3_128_hexdigest(np.ascontiguousarray(keys).data)


@final
class Recent(Generic[Value]):
    """What was used last, as far as it has room.

    Args:
        bytes_max: the room.

    >>> recent = Recent(10)
    >>> recent.put((0, "a"), 1, 6), recent.put((0, "b"), 2, 6)
    ([], [1])
    >>> recent.get((0, "a")), recent.get((0, "b"))
    (None, 2)
    """

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self._size = 0
        self._all: OrderedDict[Name, tuple[Value, int]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._all)

    def get(self, name: Name) -> Value | None:
        """Return what has this name, which is used now; None if there is nothing."""
        found = self._all.get(name)
        if found is None:
            return None
        self._all.move_to_end(name)
        return found[0]

    def put(self, name: Name, value: Value, size: int) -> list[Value]:
        """Remember a value of so many bytes, and return those that there is no room for now.

        A value that has no room at all is among them.
        """
        before = self._all.pop(name, None)
        self._size += size - (before[1] if before else 0)
        self._all[name] = value, size
        gone: list[Value] = []
        while self._size > self.bytes_max:
            _, (one, freed) = self._all.popitem(last=False)
            self._size -= freed
            gone.append(one)
        return gone


class Sent(msgspec.Struct):
    """What a sender knows of a list: whether the receiver was given it, and how often in vain."""

    is_there: bool = False
    misses: int = 0


@final
class SentLists:
    """The sender's side: which lists each receiver has been given.

    The first time a list is just sent, since most never come again; but whoever pulls some keys
    will most likely push them. The second time it is worth the receiver's memory. The receiver
    computes the signature itself: its list is what it has received.

    Args:
        keys_min: shorter lists are left alone.
        bytes_max: of the lists that are believed to be remembered by a receiver.
    """

    def __init__(self, keys_min: int = KEYS_MIN, bytes_max: int = BYTES_MAX) -> None:
        self.keys_min, self.bytes_max = keys_min, bytes_max
        self.shortened = self.misses = self.bytes_saved = 0
        self._at: dict[int, Recent[Sent]] = {}

    def shorten(self, dest: int, message: Listed) -> Listed:
        """Return what to send instead of a message, which is the same if its keys travel."""
        keys = message.keys
        if keys is None or len(keys) < self.keys_min or keys.nbytes > self.bytes_max // 4:
            return message
        name, recent = (message.table, sign(keys)), self._recent(dest)
        sent = recent.get(name)
        if sent is None:
            sent = Sent()
            recent.put(name, sent, keys.nbytes)
            # Pushes of keys that were not pulled before are most often the only ones.
            if not isinstance(message, Pull):
                return message
        elif sent.misses >= MISSES_MAX:
            return message
        elif sent.is_there:
            self.shortened += 1
            self.bytes_saved += keys.nbytes
            coding = Coding(NAME, "keys", "", keys.shape, name[1])
            return msgspec.structs.replace(message, keys=None, coding=(coding,))
        sent.is_there = True
        coding = Coding(NAME, "keys", "", keys.shape)
        return msgspec.structs.replace(message, coding=(coding,))

    def miss(self, dest: int, forgotten: Forgotten) -> None:
        """Note that a receiver lacks a list, which is to be sent again with its keys."""
        self.misses += 1
        sent = self._recent(dest).get((forgotten.table, forgotten.signature))
        if sent is not None:
            sent.is_there, sent.misses = False, sent.misses + 1

    def statistics(self) -> dict[str, int]:
        """Return counters, by name."""
        return {
            "shortened_lists": self.shortened,
            "forgotten_lists": self.misses,
            "list_bytes_saved": self.bytes_saved,
        }

    def forget(self, nodes: Iterable[int]) -> None:
        """Forget what all but these nodes have been given."""
        for node in set(self._at).difference(nodes):
            del self._at[node]

    def _recent(self, dest: int) -> Recent[Sent]:
        return self._at.setdefault(dest, Recent(self.bytes_max))
