"""The messages of the data plane as bytes: a fixed layout for each, and small arrays behind it.

MessagePack would do, but these are sent for every push and pull, and a layout that is packed in
one go takes a third of the time. What seldom is in such a message (codings of filters, clocks that
were asked for, arrays of other types) is left to MessagePack: `ENCODERS` say so by None.

The first byte is the message's type, below 0x80 where MessagePack has no messages, the second has
flags. Everything is a multiple of eight bytes long, so that arrays are aligned.
"""

import struct
from collections.abc import Callable, Sequence
from functools import cache
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mpips.wire.messages import Message, Pull, Push, PushAck, Replicate, Replicated, Values
from mpips.wire.slices import Run, Slices, runs_of

Bytes = npt.NDArray[np.uint8]
Payload = Sequence[Bytes] | None
"""Arrays beside the body; None if they are not here yet."""

INLINE_BYTES: Final = 2048
"""Size up to which the arrays of a message are behind its layout; larger ones travel beside it."""

BESIDE, KEYS, DOUBLE, PULL, CLOCKS, LONG_RUNS = 1, 2, 4, 8, 16, 32
"""Flags: arrays are beside the body; there are keys; values are float64; push_pull; clocks are
asked for; runs take 40 bytes each, not 16."""

_PUSH_TYPE, _ACK_TYPE, _PULL_TYPE, _VALUES_TYPE, _REPLICATE_TYPE, _REPLICATED_TYPE = range(1, 7)

# Type, flags, counts; epoch, incarnation, request; the rest.
_ANSWER: Final = struct.Struct("<BB6xqqQ")
_PUSH: Final = struct.Struct("<BBxxI qqQ Ii qqq Q QII".replace(" ", ""))
_PULL: Final = struct.Struct("<BBxxI qqQ Ii q Q Q".replace(" ", ""))
_VALUES: Final = struct.Struct("<BBxxI qqQ II QQ".replace(" ", ""))
_REPLICATE: Final = struct.Struct("<BBxxI qqQ II q Q QII".replace(" ", ""))
_SHORT_RUN: Final = struct.Struct("<4I")

SHORT: Final = 2**32
"""Numbers below this have four bytes in a run."""

_U8: Final = np.dtype(np.uint64)
_F4, _F8 = np.dtype(np.float32), np.dtype(np.float64)
_NOTHING: Final = np.empty(0, np.uint8)


@cache
def _numbers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}Q")


@cache
def _integers(count: int) -> struct.Struct:
    return struct.Struct(f"<{count}I")


def _pack_runs(runs: list[Run]) -> tuple[int, bytes]:
    """Return a flag and the runs: those of key lists begin at 0, and nearly all are short."""
    # Nearly all messages have one run, and few keys.
    if len(runs) == 1:
        segment, many, mark, begin, count = runs[0]
        if begin == 0 and segment | many | mark | count < SHORT:
            return 0, _SHORT_RUN.pack(segment, many, mark, count)
    elif not any(run[3] for run in runs):
        short = [number for s, many, mark, _, n in runs for number in (s, many, mark, n)]
        if max(short, default=0) < SHORT:
            return 0, _integers(len(short)).pack(*short)
    return LONG_RUNS, _numbers(5 * len(runs)).pack(*chain.from_iterable(runs))


def _unpack_runs(body: memoryview, at: int, count: int, flags: int) -> tuple[list[Run], int]:
    """Return the runs, and where they end."""
    if flags & LONG_RUNS:
        rest = iter(_numbers(5 * count).unpack_from(body, at))
        return list(zip(rest, rest, rest, rest, rest, strict=True)), at + 40 * count
    if count == 1:
        segment, many, mark, keys = _SHORT_RUN.unpack_from(body, at)
        return [(segment, many, mark, 0, keys)], at + 16
    rest = iter(_integers(4 * count).unpack_from(body, at))
    runs = [(s, many, mark, 0, n) for s, many, mark, n in zip(rest, rest, rest, rest, strict=True)]
    return runs, at + 16 * count


# -- Arrays --------------------------------------------------------------------------------------


def _put_arrays(
    body: list[bytes], flags: int, keys: np.ndarray | None, values: np.ndarray | None
) -> tuple[int, list[np.ndarray]] | None:
    """Add arrays to a body if they are small; return the flags and the arrays beside it.

    Returns None if they are none of those that have a layout.
    """
    size = 0
    if keys is not None:
        if keys.dtype != _U8 or keys.ndim != 1:
            return None
        flags |= KEYS
        size = keys.nbytes
    if values is not None:
        dtype = values.dtype
        if dtype == _F8:
            flags |= DOUBLE
        elif dtype != _F4:
            return None
        if values.ndim != 2:
            return None
        size += values.nbytes
    if size > INLINE_BYTES:
        arrays = [a for a in (keys, values) if a is not None]
        beside = [a if a.flags.c_contiguous else np.ascontiguousarray(a) for a in arrays]
        return flags | BESIDE, beside
    if keys is not None:
        body.append(keys.tobytes())
    if values is not None:
        body.append(values.tobytes())
    return flags, []


def _take_arrays(
    body: memoryview,
    at: int,
    flags: int,
    payload: Payload,
    key_count: int,
    shape: tuple[int, int] | None,
) -> tuple[np.ndarray | None, np.ndarray]:
    """Return keys and values, of which a message may have only one."""
    dtype = _F8 if flags & DOUBLE else _F4
    keys, values = None, _NOTHING
    if flags & BESIDE:
        if payload is None:
            return (_NOTHING if flags & KEYS else None), values
        place = 0
        if flags & KEYS:
            keys, place = _shaped(payload[0], _U8, (key_count,)), 1
        if shape is not None:
            values = _shaped(payload[place], dtype, shape)
            place += 1
        if place != len(payload):
            raise ValueError(f"{len(payload)} arrays for {place}")
        return keys, values
    # Kernels and callers write to what they get.
    memory = bytearray(body) if body.readonly else body
    end = at
    if flags & KEYS:
        keys = np.ndarray((key_count,), _U8, memory, at)
        end += 8 * key_count
    if shape is not None:
        values = np.ndarray(shape, dtype, memory, end)
        end += values.nbytes
    if end != len(body) or payload:
        raise _misfit(body, end)
    return keys, values


def _shaped(array: Bytes, dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    return array.view(dtype).reshape(shape)


# -- Messages ------------------------------------------------------------------------------------


def _put_ack(message: PushAck) -> tuple[bytes, list[np.ndarray]]:
    head = _ANSWER.pack(_ACK_TYPE, 0, message.epoch, message.incarnation, message.request)
    return head, []


def _take_ack(body: memoryview, payload: Payload) -> PushAck:
    if len(body) != _ANSWER.size:
        raise _misfit(body, _ANSWER.size)
    _, _, epoch, incarnation, request = _ANSWER.unpack_from(body)
    return PushAck(request, epoch=epoch, incarnation=incarnation)


def _put_replicated(message: Replicated) -> tuple[bytes, list[np.ndarray]]:
    head = _ANSWER.pack(_REPLICATED_TYPE, 0, message.epoch, message.incarnation, message.request)
    return head, []


def _take_replicated(body: memoryview, payload: Payload) -> Replicated:
    if len(body) != _ANSWER.size:
        raise _misfit(body, _ANSWER.size)
    _, _, epoch, incarnation, request = _ANSWER.unpack_from(body)
    return Replicated(request, epoch=epoch, incarnation=incarnation)


def _misfit(body: memoryview, size: int) -> ValueError:
    return ValueError(f"a body of {len(body)} bytes for {size}")


def _put_push(message: Push) -> tuple[bytes, list[np.ndarray]] | None:
    keys, values, needs, slices = message.keys, message.values, message.needs, message.slices
    if message.coding or type(slices) is not Slices:
        return None
    runs = slices.runs
    flags, packed = _pack_runs(runs)
    body = [b"", packed]
    if needs:
        body.append(_numbers(len(needs)).pack(*needs))
    if message.pull:
        flags |= PULL
    if message.wants_clocks:
        flags |= CLOCKS
    put = _put_arrays(body, flags, keys, values)
    if put is None:
        return None
    flags, beside = put
    rows, width = values.shape
    # A key list has a key for each row.
    if keys is not None and len(keys) != rows:
        return None
    body[0] = _PUSH.pack(
        _PUSH_TYPE, flags, len(runs), message.epoch, message.incarnation, message.request,
        message.table, message.stream, message.number, message.clock, message.base,
        slices.size, rows, width, len(needs),
    )  # fmt: skip
    return b"".join(body), beside


def _take_push(body: memoryview, payload: Payload) -> Push:
    (_, flags, run_count, epoch, incarnation, request, table, stream, number, clock, base, size,
     rows, width, need_count) = _PUSH.unpack_from(body)  # fmt: skip
    runs, at = _unpack_runs(body, _PUSH.size, run_count, flags)
    needs: tuple[int, ...] = ()
    if need_count:
        needs = _numbers(need_count).unpack_from(body, at)
        at += 8 * need_count
    keys, values = _take_arrays(body, at, flags, payload, rows, (rows, width))
    return Push(
        request, table, stream, number, clock, bool(flags & PULL), Slices(size, runs), keys,
        values, needs, base, bool(flags & CLOCKS), epoch=epoch, incarnation=incarnation,
    )  # fmt: skip


def _put_pull(message: Pull) -> tuple[bytes, list[np.ndarray]] | None:
    keys, slices = message.keys, message.slices
    if message.coding or type(slices) is not Slices:
        return None
    runs = slices.runs
    flags, packed = _pack_runs(runs)
    body = [b"", packed]
    put = _put_arrays(body, flags | CLOCKS if message.wants_clocks else flags, keys, None)
    if put is None:
        return None
    flags, beside = put
    body[0] = _PULL.pack(
        _PULL_TYPE, flags, len(runs), message.epoch, message.incarnation, message.request,
        message.table, message.stream, message.clock, slices.size,
        0 if keys is None else len(keys),
    )  # fmt: skip
    return b"".join(body), beside


def _take_pull(body: memoryview, payload: Payload) -> Pull:
    (_, flags, run_count, epoch, incarnation, request, table, stream, clock, size,
     key_count) = _PULL.unpack_from(body)  # fmt: skip
    runs, at = _unpack_runs(body, _PULL.size, run_count, flags)
    keys, _ = _take_arrays(body, at, flags, payload, key_count, None)
    return Pull(
        request, table, Slices(size, runs), keys, stream, clock, bool(flags & CLOCKS),
        epoch=epoch, incarnation=incarnation,
    )  # fmt: skip


def _put_values(message: Values) -> tuple[bytes, list[np.ndarray]] | None:
    keys, values, counts = message.keys, message.values, message.counts
    if message.coding or message.clocks:
        return None
    body = [b"", _numbers(len(counts)).pack(*counts)] if counts else [b""]
    put = _put_arrays(body, 0, keys, values)
    if put is None:
        return None
    flags, beside = put
    rows, width = values.shape
    if keys is not None and len(keys) != rows:
        return None
    body[0] = _VALUES.pack(
        _VALUES_TYPE, flags, len(counts), message.epoch, message.incarnation, message.request,
        message.table, width, rows, 0,
    )  # fmt: skip
    return b"".join(body), beside


def _take_values(body: memoryview, payload: Payload) -> Values:
    (_, flags, count, epoch, incarnation, request, table, width, rows,
     _) = _VALUES.unpack_from(body)  # fmt: skip
    at = _VALUES.size
    counts = list(_numbers(count).unpack_from(body, at)) if count else []
    keys, values = _take_arrays(body, at + 8 * count, flags, payload, rows, (rows, width))
    return Values(request, table, keys, values, counts, epoch=epoch, incarnation=incarnation)


def _put_replicate(message: Replicate) -> tuple[bytes, list[np.ndarray]] | None:
    keys, values, parts = message.keys, message.values, message.parts
    if message.coding:
        return None
    slices = Slices.of(message.slices)
    runs = runs_of(slices)
    flags, packed = _pack_runs(runs)
    body = [b"", packed, _numbers(2 * len(parts)).pack(*chain.from_iterable(parts))]
    put = _put_arrays(body, flags, keys, values)
    if put is None:
        return None
    flags, beside = put
    rows, width = values.shape
    if keys is not None and len(keys) != rows:
        return None
    body[0] = _REPLICATE.pack(
        _REPLICATE_TYPE, flags, len(runs), message.epoch, message.incarnation, message.request,
        message.table, len(parts), message.clock, slices.size, rows, width, 0,
    )  # fmt: skip
    return b"".join(body), beside


def _take_replicate(body: memoryview, payload: Payload) -> Replicate:
    (_, flags, run_count, epoch, incarnation, request, table, part_count, clock, size, rows, width,
     _) = _REPLICATE.unpack_from(body)  # fmt: skip
    runs, at = _unpack_runs(body, _REPLICATE.size, run_count, flags)
    rest = iter(_numbers(2 * part_count).unpack_from(body, at))
    parts = list(zip(rest, rest, strict=True))
    at += 16 * part_count
    keys, values = _take_arrays(body, at, flags, payload, rows, (rows, width))
    return Replicate(
        request, table, clock, parts, Slices(size, runs), keys, values, epoch=epoch,
        incarnation=incarnation,
    )  # fmt: skip


ENCODERS: Final[dict[type, Callable[[Any], tuple[bytes, list[np.ndarray]] | None]]] = {
    Push: _put_push,
    PushAck: _put_ack,
    Pull: _put_pull,
    Values: _put_values,
    Replicate: _put_replicate,
    Replicated: _put_replicated,
}
"""By type of a message: what returns its body and the arrays beside it, or None if it has no layout
here."""

DECODERS: Final[dict[int, Callable[[memoryview, Payload], Message]]] = {
    _PUSH_TYPE: _take_push,
    _ACK_TYPE: _take_ack,
    _PULL_TYPE: _take_pull,
    _VALUES_TYPE: _take_values,
    _REPLICATE_TYPE: _take_replicate,
    _REPLICATED_TYPE: _take_replicated,
}
"""By first byte of a body: what returns the message, with arrays that are views of the body or of
the payload, or raises ValueError, IndexError, KeyError, TypeError or struct.error."""
