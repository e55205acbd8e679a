"""Open HDF5 files of strangers: nothing outside of the file is read, no size in it is believed."""

import stat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import xxhash

from mpips.errors import DataError, MissingInputError
from mpips.files.open import open_hdf5, reading
from mpips.files.tree import KINDS

REMEDY = "Use an older checkpoint, or get this one again from where it was copied."
STRANGE = "Do not use this file unless you know who made it."


def checksum(*parts: bytes | npt.NDArray[Any]) -> str:
    """Return the XXH3 of texts and arrays, 64 bits; of an array the dtype and shape count too.

    CRC-32 takes longer than a good disk takes to write. Neither keeps out who means harm.

    >>> checksum(b"123456789")
    '72dadd45fcb4ab3b'
    """
    found = xxhash.xxh3_64()
    for part in parts:
        if isinstance(part, bytes):
            found.update(part)
            continue
        found.update(f"{part.dtype.str} {part.shape}".encode())
        found.update(part.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def open_guarded(path: Path, size: int) -> h5py.File:
    """Open a file of a checkpoint for reading; the caller closes it.

    Raises:
        DataError: it is missing, has another size, is no regular file, is damaged, or refers to
            something outside of itself.
        FileError: the system cannot read it.
    """
    check_file(path, size)
    try:
        file = open_hdf5(path, "a part of a checkpoint")
    except DataError as error:
        raise DataError(error.what, error.where, REMEDY) from error
    try:
        with reading(path, "structure"):
            strange = file.id.links.visit(_strange_link, info=True)
        if strange is not None:
            raise DataError(f"{path} is refused: {strange}", "", STRANGE)
    except BaseException:
        file.close()
        raise
    return file


def check_file(path: Path, size: int) -> None:
    """Refuse a file that is missing, is no regular file, or has another size.

    Raises:
        DataError: so.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"{path} is missing", "", REMEDY) from None
    if not stat.S_ISREG(found.st_mode):
        raise DataError(f"{path} is refused: it is no regular file", "", STRANGE)
    if found.st_size < size:
        raise DataError(f"{path} is cut short: {found.st_size:,} of {size:,} bytes", "", REMEDY)
    if found.st_size > size:
        what = f"{path} has {found.st_size:,} bytes, its manifest says {size:,}"
        raise DataError(what, "", REMEDY)


def read_text(path: Path, size_max: int) -> bytes:
    """Return the bytes of a regular file of at most `size_max` bytes.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is no regular file, or larger.
        FileError: the system cannot read it.
    """
    with reading(path, "contents"):
        try:
            found = path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise MissingInputError(f"{path} does not exist") from None
        if not stat.S_ISREG(found.st_mode) or found.st_size > size_max:
            what = f"{path} is refused: no regular file, or larger than {size_max:,} bytes"
            raise DataError(what, "", STRANGE)
        return path.read_bytes()


def read_plain(file: h5py.File, name: str) -> npt.NDArray[Any]:
    """Return a data set that lies in one piece inside its file.

    Raises:
        DataError: it is not there, is virtual, lies in other files, is packed, holds other things
            than numbers, or would take more memory than the file has bytes.
    """
    with reading(file.filename, f"/{name}"):
        item = file.get(name)
        problem = _problem(item, file.id.get_filesize())
        if problem:
            raise DataError(f"{file.filename} /{name} is refused: it {problem}", "", STRANGE)
        array = np.empty(item.shape, item.dtype)
        if array.size:
            item.read_direct(array)
        return array


def _problem(item: Any, size: int) -> str:
    """Return why an item of a file of `size` bytes is no plain data set, or an empty text."""
    if not isinstance(item, h5py.Dataset):
        return "is no data set"
    plan = item.id.get_create_plist()
    if item.is_virtual:
        return "is virtual: it reads other files"
    if plan.get_external_count():
        return "lies in other files"
    if (
        plan.get_layout() != h5py.h5d.CONTIGUOUS
        or item.dtype.kind not in KINDS
        or (item.shape is None)
    ):
        return "does not hold numbers in one piece"
    begin = item.id.get_offset() or 0
    if begin + item.nbytes > size:
        return f"claims {item.nbytes:,} bytes, which it does not have"
    return ""


def _strange_link(name: bytes, link: Any) -> str | None:
    """Return what is wrong with a link, or None to see the next."""
    if link.type == h5py.h5l.TYPE_HARD:
        return None
    kind = "an external link" if link.type == h5py.h5l.TYPE_EXTERNAL else "a link by name"
    return f"/{name.decode('utf-8', 'replace')} is {kind}"
