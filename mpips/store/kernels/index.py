"""The index of a sparse store: a hash table from keys to slot numbers for each part of its keys.

A part is a range of keys. Lists are sorted, so that their keys visit one part after the other, and
what a part needs stays in cache meanwhile. Each part grows alone, and the parts at different times,
so that no message has to wait for long.

All is in arrays, which kernels share: `parts`, uint64 `(FIRST + parts, COLUMNS)`, begins with a row
of what is used and rows of areas of the index that are of use no more; a row for each part follows,
ascending. The `index` is uint32: an entry is the number of a slot, or 0. Entry 0 and slot 0 belong
to nobody. The keys of a part get their slots from extents of its own, so that they lie together.

A key starts at the entry that its place in its part's range is scaled to, so that sorted keys walk
through memory, and goes on to the next entry until it meets itself or an empty one. Where keys turn
out to lie too unevenly for that, a part goes over to mixed bits, and stays there.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from mpips.compiler import njit, types
from mpips.store.kernels.signatures import FLOATS, KEYS, compiled, rows
from mpips.wire.types import ValueArray

LAST, BEGIN, SHIFT, SCALE, BASE, SIZE, COUNT, NEXT, END, SLOTS, LEVEL = range(11)
"""Of a part: its last key and its first, how those between are scaled to entries (`MIXED`: not at
all), where its area of the index is, how many keys it has, the slots that it may give out, how
many it ever got, and how often it has grown."""

COLUMNS: Final = 12
MIXED: Final = np.uint64(64)

USED_SLOTS, USED_ENTRIES, FREED = range(3)
"""Of the first row: from where on slots and entries are free, and how many areas follow."""

FREED_MAX: Final = 64
FIRST: Final = 1 + FREED_MAX
"""Row of the first part."""

BLOCK: Final = 512
_0, _1, _32 = np.uint64(0), np.uint64(1), np.uint64(32)
# An area grows by half when 5/8 of it are filled; on average, half are.
_LOAD, _OF = np.uint64(5), np.uint64(8)
_SIZE_MIN, _GROWTH = 16.0, 1.5
# Keys that lie evenly are an entry away from their first one, on average.
_STEPS_MIN, _STEPS_MAX = 200, 300
# Extents are an eighth of what the part has.
_EXTENT_MIN, _EXTENT_MAX, _SHARE = np.uint64(8), np.uint64(8192), np.uint64(3)

Parts = npt.NDArray[np.uint64]

_INDEX = types.Array(types.uint32, 1, "C")
_WRITTEN = types.Array(types.int64, 1, "C")
_TABLE = types.Array(types.uint64, 1, "C")
_PARTS = types.Array(types.uint64, 2, "C")


@njit(inline="always")
def mix(key: np.uint64) -> np.uint64:
    """Return the key's bits, mixed so that any part of them depends on all (Stafford's mix 13)."""
    x = key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(inline="always")
def _home(
    key: np.uint64, begin: np.uint64, shift: np.uint64, scale: np.uint64, base: np.uint64
) -> np.uint64:
    """Return the entry at which a key starts; entry 0, which is empty, if there is no area."""
    bits = mix(key) if shift == MIXED else (key - begin) << shift
    return base + (((bits >> _32) * scale) >> _32)


@njit(inline="always")
def _home_in(key: np.uint64, parts: Parts, p: int) -> np.uint64:
    part = parts[p]
    return _home(key, part[BEGIN], part[SHIFT], part[SCALE], part[BASE])


@njit(inline="always")
def _next(entry: np.uint64, base: np.uint64, size: np.uint64) -> np.uint64:
    entry += _1
    return base if entry == base + size else entry


@njit()
def _part_of(key: np.uint64, parts: Parts) -> int:
    """Return the row of the part that a key lies in."""
    low, high = FIRST, parts.shape[0] - 1
    while low < high:
        middle = (low + high) // 2
        if parts[middle, LAST] < key:
            low = middle + 1
        else:
            high = middle
    return low


@njit()
def _keys_up_to(last: np.uint64, keys: npt.NDArray[np.uint64], start: int) -> int:
    """Return how many keys of a list from `start` on are not larger than the last one."""
    low, high = start, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] <= last:
            low = middle + 1
        else:
            high = middle
    return low - start


@njit(inline="always")
def _find_homes(
    keys: npt.NDArray[np.uint64],
    begin: int,
    end: int,
    p: int,
    parts: Parts,
    of: npt.NDArray[np.int64],
    entries: npt.NDArray[np.uint64],
) -> int:
    """Write the part of each key of a block, and the entry at which it starts."""
    at = begin
    while at < end:
        while keys[at] > parts[p, LAST]:
            p += 1
        last, base = parts[p, LAST], parts[p, BASE]
        low, shift, scale = parts[p, BEGIN], parts[p, SHIFT], parts[p, SCALE]
        # Of a short list, a part has few keys.
        stop = end if keys[end - 1] <= last else at + 1
        while stop < end and keys[stop] <= last:
            stop += 1
        for i in range(at, stop):
            of[i - begin] = p
        for i in range(at, stop):
            entries[i - begin] = _home(keys[i], low, shift, scale, base)
        at = stop
    return p


@njit()
def _look_up(
    keys: npt.NDArray[np.uint64],
    begin: int,
    end: int,
    p: int,
    parts: Parts,
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.int64],
    of: npt.NDArray[np.int64],
    entries: npt.NDArray[np.uint64],
    missed: npt.NDArray[np.int64],
) -> int:
    """Write the slots of a block of keys, 0 for those that are not there, and their parts.

    All keys take a step at a time: so memory is asked for many at once, and no branch has to be
    foretold. Returns the part of the last key.
    """
    p = _find_homes(keys, begin, end, p, parts, of, entries)
    for i in range(end - begin):
        slots[begin + i] = index[entries[i]]
    many = 0
    for i in range(end - begin):
        slot = slots[begin + i]
        missed[many] = i
        many += (slot != 0) & (table_keys[slot] != keys[begin + i])
    while many > 0:
        left = 0
        for m in range(many):
            i = missed[m]
            part = parts[of[i]]
            entry = _next(entries[i], part[BASE], part[SIZE])
            entries[i], slots[begin + i] = entry, index[entry]
        for m in range(many):
            i = missed[m]
            slot = slots[begin + i]
            missed[left] = i
            left += (slot != 0) & (table_keys[slot] != keys[begin + i])
        many = left
    return p


@compiled((KEYS, _PARTS, _INDEX, _TABLE, _WRITTEN))
def find(
    keys: npt.NDArray[np.uint64],
    parts: Parts,
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
    slots: npt.NDArray[np.int64],
) -> None:
    """Write the slot of each key, 0 for one that is not there."""
    of, missed = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    entries = np.empty(BLOCK, np.uint64)
    p = _part_of(keys[0], parts) if len(keys) else FIRST
    for begin in range(0, len(keys), BLOCK):
        end = min(begin + BLOCK, len(keys))
        p = _look_up(
            keys, begin, end, p, parts, index, table_keys, slots, of, entries, missed
        )


@njit()
def _take_slots(p: int, parts: Parts, slots_max: int) -> bool:
    """Give a part an extent, and return whether there was room for it."""
    count = min(max(parts[p, COUNT] >> _SHARE, _EXTENT_MIN), _EXTENT_MAX)
    used = parts[0, USED_SLOTS]
    if used + count > np.uint64(slots_max):
        return False
    parts[p, NEXT], parts[p, END] = used, used + count
    parts[p, SLOTS] += count
    parts[0, USED_SLOTS] = used + count
    return True


@njit()
def _scale(part: npt.NDArray[np.uint64]) -> None:
    """Note how the keys of a part are scaled to the entries of its area."""
    size, span = part[SIZE], part[LAST] - part[BEGIN]
    if part[SHIFT] == MIXED:
        part[SCALE] = size
        return
    shift = _0
    while span << shift < np.uint64(2**63) and shift < np.uint64(63):
        shift += _1
    # The last key comes to the last entry at most.
    part[SHIFT], part[SCALE] = shift, (size << _32) // (((span << shift) >> _32) + _1)


@njit()
def _grow(
    p: int,
    more: int,
    is_uneven: bool,
    parts: Parts,
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
) -> bool:
    """Move a part to an area for so many more keys, and return whether there was room for it.

    Keys of a list come in order: until the last ones are there, the front of the area is fuller
    than the rest, so that they all have to be thought of at the first one.
    """
    # Parts are at different points of their growth, whatever they have in common.
    phase = (mix(parts[p, LAST]) >> _32) / 2.0**32
    level, size = parts[p, LEVEL], _0
    while size * _LOAD < (parts[p, COUNT] + np.uint64(more)) * _OF:
        size = np.uint64(_SIZE_MIN * _GROWTH ** (level + phase))
        level += _1
    old, end = parts[p, BASE], parts[p, BASE] + parts[p, SIZE]
    base, freed = parts[0, USED_ENTRIES], parts[0, FREED]
    if base + size > np.uint64(len(index)) or freed == np.uint64(FREED_MAX):
        return False
    parts[0, USED_ENTRIES] = base + size
    parts[p, BASE], parts[p, SIZE] = base, size
    parts[p, LEVEL] = level
    if is_uneven:
        parts[p, SHIFT] = MIXED
    _scale(parts[p])
    if old == end:
        return True
    parts[_1 + freed, 0], parts[_1 + freed, 1] = old, end
    parts[0, FREED] = freed + _1
    if _move(old, end, p, parts, index, table_keys):
        return True

    # The keys lie too unevenly: enter them by their mixed bits.
    index[base : base + size] = 0
    parts[p, SHIFT] = MIXED
    _scale(parts[p])
    return _move(old, end, p, parts, index, table_keys)


@njit(inline="always")
def _enter(
    key: np.uint64, slot: np.uint64, p: int, parts: Parts, index: npt.NDArray[np.uint32]
) -> int:
    """Enter a key that is not there, and return how many entries were taken before its own."""
    base, size = parts[p, BASE], parts[p, SIZE]
    entry, steps = _home_in(key, parts, p), 0
    while index[entry] != 0:
        entry = _next(entry, base, size)
        steps += 1
    index[entry] = slot
    return steps


@njit()
def _move(
    old: np.uint64,
    end: np.uint64,
    p: int,
    parts: Parts,
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
) -> bool:
    """Enter what an area [old, end) has into its part's new one; stop if keys are too uneven.

    In the order of the old area the new one is filled in order, too; keys are fetched together.
    """
    is_mixed = parts[p, SHIFT] == MIXED
    slots, keys = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.uint64)
    steps, steps_max = 0, _STEPS_MIN + 2 * parts[p, COUNT]
    while old < end:
        many = 0
        for entry in range(old, min(old + np.uint64(BLOCK), end)):
            slots[many] = index[entry]
            many += index[entry] != 0
        old += np.uint64(BLOCK)
        for i in range(many):
            keys[i] = table_keys[slots[i]]
        for i in range(many):
            steps += _enter(keys[i], slots[i], p, parts, index)
        if steps > steps_max and not is_mixed:
            return False
    return True


@compiled(
    *[
        (KEYS, types.int64, _PARTS, _INDEX, _TABLE, rows(f), types.Array(f, 1, "C"), _WRITTEN)
        for f in FLOATS
    ]
)
def find_or_insert(
    keys: npt.NDArray[np.uint64],
    start: int,
    parts: Parts,
    index: npt.NDArray[np.uint32],
    table_keys: npt.NDArray[np.uint64],
    table_rows: ValueArray,
    initial: ValueArray,
    slots: npt.NDArray[np.int64],
) -> tuple[int, bool]:
    """Write the slot of each key from `start` on, making slots and rows for new keys.

    Rows of new keys are set to `initial`.

    Returns:
        The number of keys done; if it is not all, the caller has to make room: whether of slots,
        or else of entries, or of rows for areas that are of use no more.
    """
    of, missed = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int64)
    entries, grown = np.empty(BLOCK, np.uint64), 0
    p = _part_of(keys[start], parts) if start < len(keys) else FIRST
    for begin in range(start, len(keys), BLOCK):
        end = min(begin + BLOCK, len(keys))
        p = _look_up(
            keys, begin, end, p, parts, index, table_keys, slots, of, entries, missed
        )
        absent = 0
        for i in range(begin, end):
            absent += slots[i] == 0
        for i in range(begin, end):
            if slots[i] != 0:
                continue
            # Make room before anything is entered, for all that the list seems to bring.
            q, more = of[i - begin], 1
            if parts[q, NEXT] == parts[q, END] and not _take_slots(q, parts, len(table_keys)):
                return i, True
            if q != grown:
                more += _keys_up_to(parts[q, LAST], keys, i) * absent // (end - begin)
                grown = q
            is_full = (parts[q, COUNT] + np.uint64(more)) * _OF > parts[q, SIZE] * _LOAD
            if is_full and not _grow(q, more, False, parts, index, table_keys):
                return i, False
            steps = _enter(keys[i], parts[q, NEXT], q, parts, index)
            slot = parts[q, NEXT]
            table_keys[slot] = keys[i]
            for c in range(len(initial)):
                table_rows[slot, c] = initial[c]
            slots[i] = slot
            parts[q, NEXT] += _1
            parts[q, COUNT] += _1
            is_uneven = steps > _STEPS_MAX and parts[q, SHIFT] != MIXED
            if is_uneven and not _grow(q, 0, True, parts, index, table_keys):
                return i + 1, False
    return len(keys), False


@compiled((types.int64, types.int64, _PARTS, _INDEX, _WRITTEN))
def collect(
    first: int,
    end: int,
    parts: Parts,
    index: npt.NDArray[np.uint32],
    slots: npt.NDArray[np.int64],
) -> int:
    """Write the slots of the parts [first, end), in no order, and return their number."""
    many = 0
    for p in range(first, end):
        for entry in range(parts[p, BASE], parts[p, BASE] + parts[p, SIZE]):
            if index[entry] != 0:
                slots[many] = index[entry]
                many += 1
    return many
