"""Head and arrays come out of a message as they went in, and nonsense is refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpips.errors import ProtocolError
from mpips.transport.packing import announce, head_alone, pack, unpack


@given(st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=5), st.booleans())
def test_unpack_undoes_pack(head: bytes, arrays: list[bytes], follows: bool) -> None:
    sent = [np.frombuffer(array, np.uint8) for array in arrays]
    message = bytearray(pack(head, sent, follows))
    there, sizes, payload, later, spot = unpack(message)
    assert bytes(there) == head
    assert sizes == [len(array) for array in arrays]
    assert spot is None
    assert later == (follows and bool(arrays))
    assert [part.tobytes() for part in payload] == ([] if later else arrays)
    alone = head_alone(message)
    assert alone is None if arrays else alone == there


@pytest.mark.parametrize("message", [announce(5), announce(2**32 - 1), b"", bytes(7)])
def test_what_is_no_frame_is_no_head_alone(message: bytes) -> None:
    assert head_alone(bytearray(message)) is None


@pytest.mark.parametrize("kept", range(8 + 16 + 3 + 5 + 10 + 6 + 3))
def test_message_cut_short_is_refused(kept: int) -> None:
    arrays = [np.arange(10, dtype=np.uint8), np.arange(3, dtype=np.uint8)]
    message = bytearray(pack(b"abc", arrays, False))
    with pytest.raises(ProtocolError):
        unpack(message[:kept])


@pytest.mark.parametrize("kept", range(8 + 16 + 3))
def test_head_cut_short_is_refused(kept: int) -> None:
    message = bytearray(pack(b"abc", [np.zeros(10), np.zeros(3)], True))
    with pytest.raises(ProtocolError):
        unpack(message[:kept])
