"""Write HDF5 files so that a full disk is an error and not the end of the process.

When a write fails inside HDF5, the library is left with a file that it can neither write nor close,
and it crashes later on. Here it never sees the failure: the bytes go through an object that keeps
the first error to itself, lets the rest go nowhere, and is asked for the error after each step.
"""

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import h5py
import numpy as np
import numpy.typing as npt

from mpips.files.layout import LIBVER


@final
class Sink(io.RawIOBase):
    """A file for HDF5 to write to, whose writes never fail.

    Args:
        path: an existing file; it is overwritten.

    Attributes:
        error: the first error of the system, or None.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_TRUNC)
        self._at = self._size = 0
        self.error: OSError | None = None

    def check(self) -> None:
        """Raise the first error of writing, if there was one.

        Raises:
            OSError: as the system gave it.
        """
        if self.error is not None:
            raise self.error

    def write(self, data: Any, /) -> int:
        """Write all bytes, or none any more after an error; return how many they are."""
        size = self.write_at(self._at, data)
        self._at += size
        self._size = max(self._size, self._at)
        return size

    def write_at(self, offset: int, data: Any) -> int:
        """Write all bytes to a place; what HDF5 takes for the end of the file stays.

        After an error nothing is written any more. Return how many bytes they are.
        """
        view = memoryview(data).cast("B")
        done = 0
        try:
            while self.error is None and done < len(view):
                done += os.pwrite(self._descriptor, view[done:], offset + done)
        except OSError as error:
            self.error = error
        return len(view)

    def readinto(self, buffer: Any, /) -> int:
        """Fill the buffer with what was written, and zeros where nothing was."""
        view = memoryview(buffer).cast("B")
        found = os.pread(self._descriptor, len(view), self._at)
        view[:] = found + bytes(len(view) - len(found))
        self._at += len(view)
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a position; return it."""
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = origin + offset
        return self._at

    def tell(self) -> int:
        """Return the position."""
        return self._at

    def truncate(self, size: int | None = None, /) -> int:
        """Make the file this long, or as long as the position; return the length."""
        self._size = self._at if size is None else size
        try:
            if self.error is None:
                os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self.error = error
        return self._size

    def close(self) -> None:
        """Close the file."""
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def write_plain(file: h5py.File, sink: Sink, name: str, array: npt.NDArray[Any]) -> None:
    """Write an array as a data set in one piece, past HDF5.

    HDF5 gives the place; through it the bytes would be copied twice more, which takes longer than
    the writing.

    Args:
        file: as `new_hdf5` has given it.
        sink: the same.
        name: of the data set; groups in it are made.
        array: C-contiguous, of numbers.
    """
    if not array.size:
        file[name] = array
        return
    plan, links = h5py.h5p.create(h5py.h5p.DATASET_CREATE), h5py.h5p.create(h5py.h5p.LINK_CREATE)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    links.set_create_intermediate_group(True)
    kind = h5py.h5t.py_create(array.dtype, logical=True)
    space = h5py.h5s.create_simple(array.shape)
    made = h5py.h5d.create(file.id, name.encode(), kind, space, dcpl=plan, lcpl=links)
    sink.write_at(made.get_offset(), array.reshape(-1).view(np.uint8).data)


@contextlib.contextmanager
def new_hdf5(path: Path) -> Iterator[tuple[h5py.File, Sink]]:
    """Open an existing empty file as a new HDF5 file; give it and the sink to ask for errors.

    Raises:
        OSError: the disk is full, or writing failed otherwise; asked for at the end.
    """
    with contextlib.closing(Sink(path)) as sink:
        with h5py.File(sink, "w", libver=LIBVER) as file:
            yield file, sink
        sink.check()
