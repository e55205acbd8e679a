"""The filter chain of a table: encodes what leaves a node, and decodes what comes."""

from collections.abc import Sequence
from typing import final

import msgspec

from mpips.errors import ProtocolError
from mpips.filters import caching
from mpips.filters.base import Filter, Filtered
from mpips.filters.compressing import Compressing
from mpips.wire.messages import Message

FILTERS: dict[str, type[Filter]] = {kind.name: kind for kind in (Compressing,)}


@final
class FilterChain:
    """The filters of a table in order; each node has a chain of its own.

    >>> import numpy as np
    >>> from mpips.wire.messages import Pull
    >>> chain = FilterChain(["lz4"])
    >>> pull = Pull(request=1, table=0, slices=[], keys=np.arange(5000, dtype=np.uint64))
    >>> sent = chain.encode(pull)
    >>> sent.keys.nbytes < pull.keys.nbytes, np.array_equal(chain.decode(sent).keys, pull.keys)
    (True, True)
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._filters = [FILTERS[name]() for name in names]
        self._by_name = {stage.name: stage for stage in self._filters}

    def encode(self, message: Message) -> Message:
        """Return what to send instead of `message`."""
        if isinstance(message, Filtered):
            for stage in self._filters:
                message = stage.encode(message)
        return message

    def decode(self, message: Message) -> Message:
        """Return the message as it was before the sender's chain.

        Raises:
            ProtocolError: it went through a filter that this chain has not.
        """
        if not isinstance(message, Filtered) or not message.coding:
            return message
        # What its machine has to restore comes first, and stays.
        left = tuple(coding for coding in message.coding if coding.filter == caching.NAME)
        for coding in reversed(message.coding[len(left) :]):
            if coding.filter not in self._by_name:
                raise ProtocolError(f"a message went through the unknown filter {coding.filter}")
            message = self._by_name[coding.filter].decode(message, coding)
        return msgspec.structs.replace(message, coding=left)

    def statistics(self) -> dict[str, int]:
        """Return the bytes before and after each filter, by name."""
        total = {}
        for stage in self._filters:
            total[f"{stage.name}_bytes_before"] = stage.saved.bytes_before
            total[f"{stage.name}_bytes_after"] = stage.saved.bytes_after
        return total


def make_chains(compress: str, tables: int) -> list[FilterChain]:
    """Return the filter chain of each of some tables; none at all if nothing is filtered."""
    return [] if compress == "off" else [FilterChain([compress]) for _ in range(tables)]
