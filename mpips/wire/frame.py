"""A message as bytes: a checked head, and its arrays beside it.

The head is 16 bytes (magic, version, padding, length of the body, CRC-32 of the body) and the
body: the message in a layout of its own (`mpips.wire.layout`), or in MessagePack, in which an array
is an extension of (place, dtype, shape). The arrays themselves travel beside the head, uncopied,
and are not checksummed: MPI guards them. A small array is in the body itself, which costs half the
time of one beside it.
"""

import struct
import zlib
from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from mpips.errors import FrameError
from mpips.wire import layout
from mpips.wire.messages import MESSAGES, Message
from mpips.wire.quiet import QUIET
from mpips.wire.slices import Slices
from mpips.wire.voting import VOTES

VERSION: Final = 3
INLINE_BYTES: Final = 512
"""Size up to which an array is part of a body in MessagePack."""

LAYOUTS: Final = 0x80
"""First bytes of a body below this are layouts, not MessagePack."""

_MAGIC: Final = 0x5350  # "PS"
_HEAD: Final = struct.Struct("<HBxIII")
_COUNT: Final = struct.Struct("<I")
_NOTHING: Final[npt.NDArray[np.uint8]] = np.empty(0, np.uint8)
_ARRAY, _INLINE = 1, 2
_SHAPES: Final = [struct.Struct(f"<BB6x{axes}q") for axes in range(4)]
_NAMES: Final = ("u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8")
_DTYPES: Final = tuple(np.dtype(name) for name in _NAMES)
_CODES: Final = {dtype: code for code, dtype in enumerate(_DTYPES)}

Bytes = npt.NDArray[np.uint8]


class Codec:
    """Turns messages into frames and back; one for each thread.

    >>> codec = Codec()
    >>> from mpips.wire.messages import PushAck
    >>> codec.decode(*codec.encode(PushAck(request=7))).request
    7
    """

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []
        self._payload: Sequence[Bytes] = ()
        self._peeks = False
        self._encoder = msgspec.msgpack.Encoder(enc_hook=self._put_array)
        kinds = reduce(or_, (*MESSAGES, *VOTES, *QUIET))
        self._decoder = msgspec.msgpack.Decoder(
            kinds, ext_hook=self._take_array, dec_hook=_take_slices
        )

    def encode(self, message: Message) -> tuple[bytes, list[np.ndarray]]:
        """Return the head and the C-contiguous arrays of a message, which are not copied."""
        put = layout.ENCODERS.get(type(message))
        laid = put(message) if put is not None else None
        if laid is None:
            self._arrays = []
            laid = self._encoder.encode(message), self._arrays
            # What is kept here could not be used again.
            self._arrays = []
        body, arrays = laid
        return _HEAD.pack(_MAGIC, VERSION, len(body), zlib.crc32(body), len(arrays)) + body, arrays

    def decode(self, head: bytes | memoryview, payload: Sequence[Bytes]) -> Message:
        """Return the message of a frame; its large arrays are views of `payload`.

        Raises:
            FrameError: the bytes are no frame, of another version, or damaged.
        """
        if len(head) < _HEAD.size:
            raise FrameError(f"a frame of {len(head)} bytes is shorter than its head")
        magic, version, size, checksum, count = _HEAD.unpack_from(head)
        body = memoryview(head)[_HEAD.size :]
        if magic != _MAGIC or version != VERSION:
            raise FrameError(f"no frame of version {VERSION}: magic {magic:#x}, version {version}")
        if len(body) != size or zlib.crc32(body) != checksum or len(payload) != count:
            raise FrameError(f"damaged frame: {len(body)} of {size} bytes, {len(payload)} arrays")
        try:
            if body[0] < LAYOUTS:
                return layout.DECODERS[body[0]](body, None if self._peeks else payload)
            self._payload = payload
            return self._decoder.decode(body)  # type: ignore[no-any-return]
        except (msgspec.MsgspecError, LookupError, ValueError, TypeError, struct.error) as error:
            raise FrameError(f"a frame with a wrong body: {error}") from error
        finally:
            # What is kept here could not be used again.
            self._payload = ()

    def peek(self, head: bytes | memoryview) -> Message:
        """Return the message of a frame whose arrays are not here; empty ones are in their place.

        Raises:
            FrameError: as `decode`.
        """
        (count,) = _COUNT.unpack_from(head, _HEAD.size - _COUNT.size)
        try:
            self._peeks = True
            return self.decode(head, [_NOTHING] * count)
        finally:
            self._peeks = False

    def _put_array(self, value: Any) -> Any:
        if type(value) is Slices:
            return value.pack()
        # Apps' results hold NumPy scalars.
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray) or value.dtype not in _CODES:
            raise NotImplementedError(f"no {type(value).__name__} can travel")
        code, axes = _CODES[value.dtype], value.ndim
        if value.nbytes <= INLINE_BYTES and axes < len(_SHAPES):
            start = _SHAPES[axes].pack(code, axes, *value.shape)
            return msgspec.msgpack.Ext(_INLINE, start + value.tobytes())
        place = len(self._arrays)
        self._arrays.append(value if value.flags.c_contiguous else np.ascontiguousarray(value))
        shape = struct.pack(f"<BI{axes}q", code, place, *value.shape)
        return msgspec.msgpack.Ext(_ARRAY, shape)

    def _take_array(self, code: int, data: memoryview) -> np.ndarray:
        if code == _INLINE:
            dtype, axes, *lengths = _SHAPES[data[1]].unpack_from(data)
            # The copy is aligned, as kernels need it, and may be written to.
            return np.ndarray(lengths, _DTYPES[dtype], bytearray(data), 8 + 8 * axes)
        if code != _ARRAY or len(data) < 5:
            raise ValueError(f"unknown extension {code}")
        if self._peeks:
            return _NOTHING
        dtype, place = struct.unpack_from("<BI", data)
        shape = struct.unpack_from(f"<{(len(data) - 5) // 8}q", data, 5)
        array: np.ndarray = self._payload[place].view(_DTYPES[dtype]).reshape(shape)
        return array


def _take_slices(kind: type, value: Any) -> Any:
    if isinstance(value, kind):
        return value
    if kind is not Slices or not isinstance(value, list):
        raise ValueError(f"no {kind.__name__} can travel")
    return Slices.unpack(value)
