"""Filters: what goes in comes out, bytes are counted, and the unknown is refused."""

from typing import Any

import msgspec
import numpy as np
import pytest

from mpips.errors import ProtocolError
from mpips.filters.chain import FILTERS, FilterChain
from mpips.filters.compressing import BYTES_MIN, compress, decompress
from mpips.wire.frame import Codec
from mpips.wire.messages import Coding, Message, Pull, Push, PushAck, Values

COUNT = 2000
ODD = {
    "zeros": lambda rng, dtype: np.zeros(COUNT, dtype),
    "negative zeros": lambda rng, dtype: -np.zeros(COUNT, dtype),
    "nan": lambda rng, dtype: np.full(COUNT, np.nan, dtype),
    "infinite": lambda rng, dtype: np.full(COUNT, -np.inf, dtype),
    "denormal": lambda rng, dtype: np.full(COUNT, np.finfo(dtype).smallest_subnormal, dtype),
    "normal": lambda rng, dtype: rng.normal(size=COUNT).astype(dtype),
    "mostly zero": lambda rng, dtype: (rng.normal(size=COUNT) * (rng.random(COUNT) < 0.1)).astype(
        dtype
    ),
}


def push(keys: np.ndarray | None, values: np.ndarray) -> Push:
    """Return a push of keys and values."""
    return Push(
        request=1, table=0, stream=0, number=1, clock=1, pull=False,
        slices=[(0, 0, 0, len(values))], keys=keys, values=values,
    )  # fmt: skip


def travel(message: Message, there: FilterChain, back: FilterChain) -> Any:
    """Return what comes out of the other node's chain, and check that it is a frame between."""
    head, arrays = Codec().encode(there.encode(message))
    return back.decode(Codec().decode(head, [a.reshape(-1).view(np.uint8).copy() for a in arrays]))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("width", [1, 4])
def test_values_and_keys_come_out_bit_for_bit(
    rng: np.random.Generator, kind: str, dtype: str, width: int
) -> None:
    values = ODD[kind](rng, dtype).reshape(-1, width)
    keys = np.cumsum(rng.integers(1, 50, len(values)), dtype=np.uint64)
    for message in (
        push(keys, values),
        push(None, values),
        Pull(request=1, table=0, slices=[], keys=keys),
        Values(request=1, table=0, keys=keys, values=values, counts=[len(keys)]),
    ):
        received = travel(message, FilterChain(["lz4"]), FilterChain(["lz4"]))
        assert received.coding == ()
        for field in ("keys", "values"):
            one, other = getattr(message, field, None), getattr(received, field, None)
            assert (one is None) == (other is None)
            if one is not None:
                assert (one.dtype, one.shape, one.tobytes()) == (
                    other.dtype, other.shape, other.tobytes())  # fmt: skip


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i8", "f2", "f4", "f8"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_arrays_of_all_dtypes_and_shapes_are_restored(dtype: str, shuffle: bool) -> None:
    for shape in ((4096,), (64, 64), (16, 4, 64)):
        array = (np.arange(4096) % 7).astype(dtype).reshape(shape)
        packed = compress(array, shuffle=shuffle)
        assert packed is not None
        assert packed.nbytes < array.nbytes
        again = decompress(packed, dtype, shape, shuffled=shuffle)
        assert (again.dtype, again.tobytes()) == (array.dtype, array.tobytes())
        assert again.shape == shape


def test_small_and_random_arrays_are_left_alone(rng: np.random.Generator) -> None:
    chain = FilterChain(["lz4"])
    small = push(None, np.zeros((BYTES_MIN // 8 - 1, 1)))
    noise = push(None, np.frombuffer(rng.bytes(80_000), np.uint64).astype(np.float64)[:, None])
    empty = push(np.empty(0, np.uint64), np.empty((0, 3)))
    for message in (small, noise, empty, PushAck(request=1)):
        assert chain.encode(message) is message
        assert chain.decode(message) is message


def test_chain_counts_the_bytes_before_and_after() -> None:
    chain = FilterChain(["lz4"])
    keys = np.arange(COUNT, dtype=np.uint64)
    message = push(keys, np.zeros((COUNT, 1)))
    sent = chain.encode(message)
    assert isinstance(sent, Push)
    assert sent.keys is not None
    counted = chain.statistics()
    assert counted["lz4_bytes_before"] == 16 * COUNT
    assert counted["lz4_bytes_after"] == sent.keys.nbytes + sent.values.nbytes < COUNT
    # What is too small to be packed still counts as sent.
    chain.encode(push(None, np.zeros((10, 1))))
    assert chain.statistics()["lz4_bytes_before"] - counted["lz4_bytes_before"] == 80
    assert chain.statistics()["lz4_bytes_after"] - counted["lz4_bytes_after"] == 80


def test_message_of_an_unknown_filter_is_refused() -> None:
    message = push(None, np.zeros((4, 1)))
    strange = msgspec.structs.replace(message, coding=(Coding("zip", "values", "f8", (4, 1)),))
    with pytest.raises(ProtocolError, match="unknown filter zip"):
        FilterChain(["lz4"]).decode(strange)
    packed = FilterChain(["lz4"]).encode(push(None, np.zeros((COUNT, 1))))
    with pytest.raises(ProtocolError, match="unknown filter lz4"):
        FilterChain([]).decode(packed)


def test_what_was_sent_is_not_changed() -> None:
    keys, values = np.arange(COUNT, dtype=np.uint64), np.ones((COUNT, 2))
    message = push(keys, values)
    FilterChain(["lz4"]).encode(message)
    assert message.keys is keys
    assert np.array_equal(keys, np.arange(COUNT))
    assert (values == 1).all()


def test_every_filter_is_found_under_its_name() -> None:
    assert {name: kind.name for name, kind in FILTERS.items()} == {name: name for name in FILTERS}
