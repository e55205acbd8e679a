"""Messages survive their way as bytes, and damaged bytes are refused."""

import weakref
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from mpips.errors import FrameError
from mpips.wire.frame import INLINE_BYTES, VERSION, Codec
from mpips.wire.messages import (
    MESSAGES,
    Ask,
    Beat,
    Before,
    Call,
    Coding,
    Copied,
    Drop,
    Failed,
    Forgotten,
    Handed,
    Hello,
    Joined,
    Kill,
    Message,
    NewView,
    Progress,
    Pull,
    Push,
    PushAck,
    Ready,
    Replicate,
    Replicated,
    Return,
    Save,
    Saved,
    Snapshot,
    Start,
    Stop,
    Stopped,
    Takeover,
    Told,
    Values,
)
from mpips.wire.slices import Slices
from mpips.wire.types import Member, View, make_epoch

DTYPES = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
SHAPES = ((), (0,), (1,), (7,), (3, 2), (0, 4), (2, 3, 4))


def examples(rng: np.random.Generator) -> Iterator[Message]:
    """Yield messages of all types, with large numbers and odd arrays among their fields."""
    keys = np.sort(rng.integers(0, 2**64, 5, dtype=np.uint64, endpoint=False))
    values = rng.normal(size=(5, 2)).astype(np.float32)
    head: dict[str, Any] = {"epoch": make_epoch(3, 7), "incarnation": make_epoch(1, 0)}
    coding = (Coding("lz4", "keys", "u8", (5,)), Coding("lz4", "values", "f4", (5, 2)))
    slices = [(0, 1, 0, 2), (63, 2**40, 2**64 - 1, 2**63)]
    push = {"request": 1, "table": 2, "stream": 3, "number": 4, "clock": 5, "slices": slices}
    yield Push(**push, pull=True, keys=keys, values=values, coding=coding, **head)
    yield Push(**push, pull=False, keys=None, values=values[:0], **head)
    yield PushAck(request=2**63, **head)
    yield Pull(request=1, table=0, slices=[], keys=keys[:0], coding=coding, **head)
    yield Pull(request=1, table=0, slices=slices, keys=None)
    yield Values(request=1, table=0, keys=keys, values=values, counts=[2, 3], coding=coding)
    clocks = [[(0, 3, 2**40), (3, 4, 0)], [(0, 4, 7)]]
    yield Values(request=1, table=0, keys=None, values=values[::2], counts=[], clocks=clocks)
    yield Pull(request=1, table=0, slices=slices, keys=None, stream=2, clock=9, wants_clocks=True)
    yield Call(request=1, worker=-1, function="f", arguments={"a": 1, "b": [keys, None, 0.5]})
    yield Return(request=1, result=None)
    yield Return(request=1, result={"x": [1.5, {"y": values.T}], "z": "text"})
    yield Progress(worker=1, facts={"rows": 1e300, "loss": float("inf")})
    yield Hello(role="worker", host="héron", process=2**31, facts={"rows": 10, "scaling": "unit"})
    owners = (np.array([1, 2, 1], np.int32), np.empty(0, np.int32))
    members = (Member(0, "scheduler", "a", 1), Member(1, "server", "b", 1))
    yield Start(view=View(make_epoch(1, 0), members, owners, (4, 4, 5)), facts={"folder": "/x"})
    copies = (np.array([[2], [-1], [2]], np.int32), np.empty((0, 1), np.int32))
    since = (np.array([1, 2, 2**62], np.int64), np.empty(0, np.int64))
    view = View(make_epoch(2, 0), members, owners, (4, -1), copies, copies, since)
    yield NewView(view=view, **head)
    yield Replicate(request=1, table=0, clock=3, parts=[(0, 7), (1, 9)], slices=slices,
                    keys=keys, values=values, **head)
    yield Snapshot(request=1, table=0, slices=slices, numbers=np.ones((2, 3), np.int64),
                   clocks=np.zeros((2, 3), np.int64), keys=None, rows=values,
                   before=[None, Before(2, 1, 0, 0, keys, values)], **head)
    yield Replicated(request=5, **head)
    yield Forgotten(request=5, table=1, signature="0f" * 16, **head)
    yield Beat(moved=[0, 3], **head)
    yield Kill(node=4, **head)
    yield Save(number=3, folder="/x", **head)
    yield Saved(number=3, parts=[{"name": "worker-1.h5", "bytes": 2**40}])
    yield Drop(request=7, worker=3)
    yield Joined(table=1, copy=2, segments=[0, 63])
    yield Handed(table=1, segments=[0, 63])
    yield Copied(number=3)
    takeover = Takeover([(3, 4), (0, 0)], {"f": {"order": keys}})
    yield Call(request=1, worker=2, function="f", arguments={}, task=9, takeover=takeover,
               delays={"w": 2**31})
    yield Return(request=1, result=None, streams=[(3, 4), (0, 0)])
    yield Ask(request=1, function="f", arguments={"keys": keys}, **head)
    yield Told(request=1, result={"x": [values, None]}, **head)
    yield Ready(**head)
    yield Failed(exit_code=65, what="line\nline", where="", remedy="")
    yield Stop(exit_code=76)
    yield Stopped(statistics={"bytes": 2**62})


def same(one: Any, other: Any) -> bool:
    """Return whether two messages, or parts of them, are equal to the bit."""
    if isinstance(one, np.ndarray):
        equal = isinstance(other, np.ndarray) and one.dtype == other.dtype
        return equal and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, msgspec.Struct):
        fields = msgspec.structs.asdict(one)
        return type(one) is type(other) and same(fields, msgspec.structs.asdict(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def travel(message: Message) -> Message:
    """Return what the other end decodes from the bytes of a message."""
    head, arrays = Codec().encode(message)
    assert all(array.flags.c_contiguous for array in arrays)
    return Codec().decode(head, [array.reshape(-1).view(np.uint8).copy() for array in arrays])


def test_every_message_type_survives(rng: np.random.Generator) -> None:
    messages = list(examples(rng))
    assert {type(message) for message in messages} == set(MESSAGES)
    for message in messages:
        assert same(message, travel(message)), message


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_array_survives(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> None:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    array = np.frombuffer(rng.bytes(size), dtype).reshape(shape)
    for one in (
        array,
        array.T,
        array[..., ::-1] if shape else array,
        array[1:] if shape else array,
    ):
        result = travel(Return(request=1, result={"a": one, "b": [one]}))
        assert isinstance(result, Return)
        assert same({"a": one, "b": [one]}, result.result)


def test_contiguous_arrays_are_not_copied() -> None:
    values = np.ones((100, 2))
    _, (sent,) = Codec().encode(Return(request=1, result=values))
    assert np.shares_memory(sent, values)
    payload = values.reshape(-1).view(np.uint8)
    head, _ = Codec().encode(Return(request=1, result=values))
    received = Codec().decode(head, [payload])
    assert isinstance(received, Return)
    assert np.shares_memory(received.result, values)


@pytest.mark.parametrize("kind", [Return, Told, Values])
def test_codec_keeps_no_array(kind: type[Message]) -> None:
    # It would keep the memory that a payload lies in from being used again.
    codec, values = Codec(), np.ones((1000, 2))
    message: Message
    if kind is Values:
        message = Values(request=1, table=0, keys=None, values=values, counts=[])
    else:
        message = kind(request=1, result=values)  # type: ignore[call-arg]
    head, arrays = codec.encode(message)
    payload = [array.reshape(-1).view(np.uint8).copy() for array in arrays]
    kept = [weakref.ref(part) for part in (*payload, values)]
    codec.decode(head, payload)
    del message, arrays, payload, values
    assert [ref() for ref in kept] == [None, None]


@pytest.mark.parametrize("count", [INLINE_BYTES // 8, INLINE_BYTES // 8 + 1])
def test_small_array_is_part_of_the_head_and_aligned(count: int) -> None:
    message = Return(request=1, result=["odd"[: count % 4], np.arange(count, dtype=np.int64)])
    _, beside = Codec().encode(message)
    assert len(beside) == (count > INLINE_BYTES // 8)
    received = travel(message)
    assert isinstance(received, Return)
    assert received.result[1].tolist() == list(range(count))
    assert received.result[1].flags.carray


@pytest.mark.parametrize("slices", [
    [], [(3, 1, 12, 4)], [(0, 7, 5, 5), (1, 7, 10, 10), (2, 7, 20, 5), (4, 1, 0, 0)],
])  # fmt: skip
def test_runs_of_slices_are_read_as_the_slices(slices: list[Any]) -> None:
    runs = [(0, 3, 7, 5, 20), (4, 1, 1, 0, 0)] if len(slices) > 1 else Slices.of(slices).runs
    message = Pull(request=3, table=1, slices=Slices(10, runs), keys=None)
    received = travel(message)
    assert isinstance(received, Pull)
    assert list(received.slices) == slices == [received.slices[i] for i in range(len(slices))]
    assert len(received.slices) == len(slices)
    assert received.slices.runs == runs
    # By hand a plain list will do.
    assert travel(Pull(request=3, table=1, slices=slices, keys=None)).slices == slices


def test_scalars_of_numpy_travel_as_numbers() -> None:
    result = {"n": np.int64(3), "x": np.float32(0.5), "yes": np.True_}
    received = travel(Return(request=1, result=result))
    assert isinstance(received, Return)
    assert received.result == {"n": 3, "x": 0.5, "yes": True}
    assert type(received.result["n"]) is int


@pytest.mark.parametrize(
    "value",
    [np.array(["text"]), np.array([1 + 1j]), np.array([None]), np.ones(2, ">f8"), {1, 2}, object()],
    ids=lambda value: str(getattr(value, "dtype", type(value).__name__)),
)
def test_what_cannot_travel_is_refused_by_the_sender(value: Any) -> None:
    try:
        received = travel(Return(request=1, result=value))
    except (NotImplementedError, TypeError):
        return
    # MessagePack has no sets, but lists.
    assert isinstance(received, Return)
    assert received.result == list(value)


def test_codec_goes_on_after_an_error() -> None:
    codec = Codec()
    with pytest.raises(NotImplementedError):
        codec.encode(Return(request=1, result=[np.ones(3), object()]))
    head, arrays = codec.encode(PushAck(request=7))
    assert arrays == []
    with pytest.raises(FrameError):
        codec.decode(head[:-1], [])
    assert codec.decode(head, []) == PushAck(request=7)


def frame(keys: int = 300) -> tuple[bytes, list[np.ndarray]]:
    """Return a frame with an array, which is beside its head if it has many keys."""
    slices = Slices(4, [(0, 1, 0, 0, 2), (1, 3, 0, 4, 9)])
    message = Pull(request=3, table=1, slices=slices, keys=np.arange(keys, dtype=np.uint64))
    head, arrays = Codec().encode(message)
    return head, [array.view(np.uint8) for array in arrays]


@pytest.mark.parametrize("keys", [3, 300])
def test_each_flipped_bit_of_a_head_is_noticed_or_harmless(keys: int) -> None:
    head, payload = frame(keys)
    codec = Codec()
    original = codec.decode(head, payload)
    harmless = 0
    for bit in range(8 * len(head)):
        damaged = bytearray(head)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert same(codec.decode(bytes(damaged), payload), original)
            harmless += 1
        except FrameError:
            pass
    # Only the byte of padding means nothing.
    assert harmless == 8


@pytest.mark.parametrize("keys", [3, 300])
def test_each_truncated_head_is_noticed(keys: int) -> None:
    head, payload = frame(keys)
    for length in range(len(head)):
        with pytest.raises(FrameError):
            Codec().decode(head[:length], payload)


@pytest.mark.parametrize("change", ["missing", "added", "short", "long", "odd"])
def test_payload_that_does_not_fit_its_head_is_noticed(change: str) -> None:
    head, (keys,) = frame()
    payload = {
        "missing": [],
        "added": [keys, keys],
        "short": [keys[:-8]],
        "long": [np.concatenate([keys, keys])],
        "odd": [keys[:-1]],
    }[change]
    with pytest.raises(FrameError):
        Codec().decode(head, payload)


@pytest.mark.parametrize("body", [b"", b"\xc0", b"\x93\x02\x00", b"\x94\x63\x00\x00\x00", b"\xff"])
def test_body_with_a_right_checksum_but_no_message_is_refused(body: bytes) -> None:
    import struct
    import zlib

    head = struct.pack("<HBxIII", 0x5350, VERSION, len(body), zlib.crc32(body), 0) + body
    with pytest.raises(FrameError, match="wrong body"):
        Codec().decode(head, [])


def test_frame_of_another_version_says_so() -> None:
    head, payload = frame()
    with pytest.raises(FrameError, match="version 9"):
        Codec().decode(head[:2] + b"\x09" + head[3:], payload)
