"""The slices of a message, neighbours that differ in nothing but the segment kept as one run."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate, groupby, pairwise
from typing import Any, Final, final, overload

import numpy as np

from mpips.wire.types import KeyArray

Slice = tuple[int, int, int, int]
"""Segment, mark, begin, count; the count may be `UNTOLD`."""

Run = tuple[int, int, int, int, int]
"""First segment, number of segments, and the mark, begin and count of them all."""

LISTED: Final = 2**64 - 1
"""The begin of a run of several segments with keys of a list: how many each has, the keys tell."""

UNTOLD: Final = -1
"""The count of a slice of such a run."""


@final
class Slices(Sequence[Slice]):
    """What a message says of segments, one after the other; read it as a list of slices.

    A push of a whole table is one run however many segments it has, so that code that looks at
    `runs` alone need not touch each segment. A run of several segments is a range of keys, a note
    without keys, or, if it begins at `LISTED`, a part of a key list, with keys in each of its
    segments: `by_segment` tells how many.

    Args:
        size: keys of a segment, by which runs of ranges are cut.
        runs: the runs.

    >>> slices = Slices(10, [(0, 3, 7, 5, 20)])
    >>> list(slices)
    [(0, 7, 5, 5), (1, 7, 10, 10), (2, 7, 20, 5)]
    """

    __slots__ = ("_all", "runs", "size")

    def __init__(self, size: int, runs: list[Run]) -> None:
        self.size, self.runs = size, runs
        self._all: list[Slice] | None = None

    @classmethod
    def of(cls, slices: Iterable[Slice]) -> "Slices":
        """Return slices as such, each a run of its own if they are a plain list."""
        if isinstance(slices, cls):
            return slices
        return cls(1, [(segment, 1, mark, begin, n) for segment, mark, begin, n in slices])

    @classmethod
    def unpack(cls, numbers: list[Any]) -> "Slices":
        """Return what `pack` was given; or a plain list of slices, as written by hand.

        >>> Slices.unpack(Slices(10, [(4, 1, 0, 40, 2)]).pack()) == [(4, 0, 40, 2)]
        True
        """
        if not numbers or isinstance(numbers[0], list):
            return cls.of(tuple(one) for one in numbers)
        rest = iter(numbers)
        return cls(next(rest), list(zip(rest, rest, rest, rest, rest, strict=True)))

    def pack(self) -> list[int]:
        """Return the runs as one flat list, which is the fastest to encode."""
        flat = [self.size]
        for run in self.runs:
            flat += run
        return flat

    def segments(self) -> list[int]:
        """Return the segments."""
        return [s for first, many, *_ in self.runs for s in range(first, first + many)]

    def touch(self, segments: Collection[int]) -> bool:
        """Return whether one of some segments is among these."""
        return any(segment in segments for segment in self.segments())

    def by_segment(self, keys: KeyArray | None) -> "Slices":
        """Return the slices of a message with these keys, where no run is `LISTED` any more.

        >>> list(Slices(10, [(0, 2, 7, LISTED, 3)]).by_segment(np.array([1, 5, 13], np.uint64)))
        [(0, 7, 0, 2), (1, 7, 0, 1)]
        """
        if keys is None or not any(run[3] == LISTED for run in self.runs):
            return self
        runs: list[Run] = []
        at = 0
        for run in self.runs:
            _, many, _, begin, count = run
            mine = keys[at : at + count]
            runs += self._split(run, [1] * many, mine) if begin == LISTED else [run]
            at += count
        return Slices(self.size, runs)

    def split(self, values: Sequence[Any], keys: KeyArray | None) -> "Slices":
        """Return the same slices in runs whose segments have the same value.

        Args:
            values: by segment.
            keys: of the message.

        >>> slices = Slices(10, [(0, 4, 7, 5, 30)]).split("aabb", None)
        >>> slices.runs
        [(0, 2, 7, 5, 15), (2, 2, 7, 20, 15)]
        """
        runs: list[Run] = []
        at = 0
        for run in self.runs:
            first, many, _, _, count = run
            mine = values[first : first + many]
            if many == 1 or mine.count(mine[0]) == many:
                runs.append(run)
            else:
                lengths = [len(list(group)) for _, group in groupby(mine)]
                runs += self._split(run, lengths, None if keys is None else keys[at : at + count])
            at += count
        return Slices(self.size, runs)

    def _split(self, run: Run, lengths: list[int], keys: KeyArray | None) -> list[Run]:
        """Return the parts of a run that have so many segments each."""
        first, _, mark, begin, count = run
        firsts = list(accumulate(lengths[:-1], initial=first))
        if not count:
            return [(s, many, mark, begin, 0) for s, many in zip(firsts, lengths, strict=True)]
        points = [s * self.size for s in firsts[1:]]
        if begin != LISTED:
            cuts = [begin, *points, begin + count]
            return [(s, many, mark, low, high - low)
                    for s, many, (low, high) in zip(firsts, lengths, pairwise(cuts), strict=True)]
        assert keys is not None
        cuts = [0, *np.searchsorted(keys, np.array(points, np.uint64)).tolist(), count]
        return [(s, many, mark, LISTED if many > 1 else 0, high - low)
                for s, many, (low, high) in zip(firsts, lengths, pairwise(cuts), strict=True)]

    def keys(self) -> int:
        """Return the number of keys of all slices."""
        return sum(run[4] for run in self.runs)

    def _each(self) -> list[Slice]:
        if self._all is None:
            self._all = [one for run in self.runs for one in self._cut(*run)]
        return self._all

    def _cut(self, segment: int, many: int, mark: int, begin: int, count: int) -> Iterator[Slice]:
        if many == 1 or not count:
            yield from ((segment + at, mark, begin, count) for at in range(many))
            return
        if begin == LISTED:
            yield from ((segment + at, mark, 0, UNTOLD) for at in range(many))
            return
        for one in range(segment, segment + many):
            first = max(begin, one * self.size)
            last = min(begin + count, (one + 1) * self.size)
            yield one, mark, first, last - first

    @overload
    def __getitem__(self, at: int) -> Slice: ...
    @overload
    def __getitem__(self, at: slice) -> list[Slice]: ...
    def __getitem__(self, at: int | slice) -> Slice | list[Slice]:
        return self._each()[at]

    def __iter__(self) -> Iterator[Slice]:
        return iter(self._each())

    def __len__(self) -> int:
        return sum(run[1] for run in self.runs)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._each() == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self._each()))

    def __repr__(self) -> str:
        return repr(self._each())


def cut_points(first: int, end: int, size: int) -> KeyArray:
    """Return the first keys of the segments [first, end) but the first, of so many keys each.

    >>> cut_points(3, 6, 10).tolist()
    [40, 50]
    """
    return np.arange(first + 1, end, dtype=np.uint64) * np.uint64(size)


def join_spans(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return ascending places [begin, end), those joined that follow each other.

    >>> join_spans([(0, 2), (2, 5), (7, 9)])
    [(0, 5), (7, 9)]
    """
    joined: list[tuple[int, int]] = []
    for begin, end in spans:
        if joined and joined[-1][1] == begin:
            begin = joined.pop()[0]
        joined.append((begin, end))
    return joined


def runs_of(slices: Iterable[Slice]) -> list[Run]:
    """Return the runs of slices, which may be a plain list."""
    return slices.runs if type(slices) is Slices else Slices.of(slices).runs
