"""Open HDF5 files for reading and say in plain words why one cannot be read."""

import contextlib
import difflib
import gzip
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from mpips.errors import DataError, FileError, MissingInputError, MpipsError

# What h5py and NumPy raise when the bytes of a file make no sense to them.
UNREADABLE = (OSError, KeyError, RuntimeError, ValueError, TypeError, MemoryError, OverflowError)

# A line of libsvm text: a label, then nothing or index:value pairs.
LIBSVM_LINE = re.compile(rb"\s*[+-]?[\d.]+(e[+-]?\d+)?(\s+\d+:\S+)+\s*(#.*)?", re.IGNORECASE)


def open_hdf5(path: str | Path, what: str) -> h5py.File:
    """Open an HDF5 file read-only and without locks; the caller closes it.

    Args:
        path: the file.
        what: what the caller wanted it to be, for the message: "training data", "a model", "".

    Raises:
        MissingInputError: there is no such file.
        DataError: it is no HDF5 file, is cut short, or its structure is damaged.
        FileError: the system cannot read it.
    """
    path = require_file(path, what)
    try:
        return h5py.File(path, "r", locking=False)
    except UNREADABLE as error:
        raise _open_error(error, path, what) from error


def require_file(path: str | Path, what: str) -> Path:
    """Return the path of a file that is there and may be read.

    Raises:
        MissingInputError: there is no file of that name; the nearest name is told.
        FileError: there is one, but it may not be read.
    """
    path = Path(path)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:
        raise _missing(path, what) from error
    except OSError as error:
        raise FileError(f"cannot read {path}: {os.strerror(error.errno or 0).lower()}") from error
    if stat.S_ISDIR(mode):
        raise MissingInputError(f"{path} is a folder, not {what}")
    if not os.access(path, os.R_OK):
        raise FileError(f"cannot read {path}: permission denied", remedy="Ask its owner.")
    return path


@contextlib.contextmanager
def reading(path: str | Path, part: str) -> Iterator[None]:
    """Turn what HDF5 and NumPy raise while reading inside the block into one error.

    Args:
        path: the file that is read.
        part: the data set and rows, for the message: "/X/data, rows 0 to 99".

    Raises:
        DataError: the stored bytes are damaged.
        FileError: the system failed to deliver them.
    """
    try:
        yield
    except MpipsError:
        raise
    except UNREADABLE as error:
        raise read_error(error, path, part) from error


def read_error(error: Exception, path: str | Path, part: str) -> MpipsError:
    """Return the error that says why `part` of `path` could not be read."""
    code = error.errno if isinstance(error, OSError) else None
    if code:
        return FileError(f"reading {path} failed: {os.strerror(code).lower()}", part)
    if "required filter" in str(error) or "plugin" in str(error):
        return DataError(
            f"{path} {part} is compressed by a filter that is not built into HDF5",
            str(error).splitlines()[0],
            "Write it again with gzip: h5repack -f GZIP=1.",
        )
    damage = "checksum" in str(error) or "filter returned failure" in str(error)
    what = "fails its checksum" if damage else "cannot be read"
    reason = "" if damage else (str(error) or type(error).__name__).splitlines()[0]
    return DataError(f"{path} {part} {what}", reason, "The file is damaged; make it again.")


def read_slice(
    file: h5py.File, name: str, begin: int, end: int, part: str = ""
) -> npt.NDArray[Any]:
    """Read the rows `[begin, end)` of a data set.

    Args:
        file: an open file.
        name: the data set's path inside it, without the first slash.
        begin: the first element.
        end: one past the last element.
        part: what to call these elements in an error; empty for "elements begin to end - 1".

    Raises:
        DataError: its checksum fails, or it is damaged otherwise.
        FileError: the system failed to deliver it.
    """
    with reading(file.filename, f"/{name}, {part or f'elements {begin:,} to {end - 1:,}'}"):
        return np.asarray(file[name][begin:end])


def text_attribute(item: h5py.HLObject, name: str, default: str = "") -> str:
    """Return a text attribute, whether it was stored with fixed or variable length."""
    value = item.attrs.get(name, default)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else default


def describe(path: str | Path) -> str:
    """Say what a file seems to be by its first bytes, such as "LIBSVM text"."""
    path = Path(path)
    if path.is_dir():
        return "a folder"
    with path.open("rb") as file:
        head = file.read(65536)
    packed = head[:2] == b"\x1f\x8b"
    if packed:
        with contextlib.suppress(OSError, EOFError), gzip.open(path) as unpacked:
            head = unpacked.read(65536)
    return describe_bytes(head) + (", packed by gzip" if packed else "")


def describe_bytes(head: bytes) -> str:
    """Say what a file that begins with these bytes seems to be."""
    if not head:
        return "an empty file"
    known = {b"\x89HDF\r\n\x1a\n": "HDF5", b"PAR1": "Parquet", b"PK\x03\x04": "a zip archive"}
    for magic, name in known.items():
        if head.startswith(magic):
            return name
    lines = [line for line in head.splitlines()[:20] if line.strip() and line[:1] != b"#"]
    if lines and LIBSVM_LINE.fullmatch(lines[0]):
        return "LIBSVM text"
    if b"\0" in head:
        return "binary data of no kind known here"
    return "text, but not LIBSVM"


def _missing(path: Path, what: str) -> MissingInputError:
    """Return the error for a file that is not there, with the name nearest to it."""
    sentence = f"{what}: {path} does not exist" if what else f"{path} does not exist"
    with contextlib.suppress(OSError, ValueError):
        names = os.listdir(path.parent)
        near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.5)
        where = f"looked in {path.parent.resolve()}"
        remedy = f"Nearest: {path.with_name(near[0])}" if near else ""
        return MissingInputError(sentence, where, remedy)
    return MissingInputError(sentence, f"there is no folder {path.parent}")


def _open_error(error: Exception, path: Path, what: str) -> MpipsError:
    """Return the error for a file that HDF5 does not open."""
    text = str(error)
    code = error.errno if isinstance(error, OSError) else None
    cut = re.search(r"truncated file: eof = (\d+),.*stored_eof = (\d+)", text)
    if cut:
        have, want = int(cut[1]), int(cut[2])
        return DataError(
            f"{path} is cut short: {have:,} of {want:,} bytes",
            remedy="The copy or the conversion was interrupted; make it again.",
        )
    if code:
        return FileError(f"reading {path} failed: {os.strerror(code).lower()}")
    kind = describe(path)
    if kind.startswith("LIBSVM"):
        remedy = f"Run: mpips convert {path} -o {path.name.split('.')[0]}.h5"
        return DataError(f"{path} is {kind}, not HDF5", remedy=remedy)
    if kind != "HDF5":
        return DataError(f"{path} is {kind}, not HDF5; expected {what}")
    where = text.splitlines()[0] if text else type(error).__name__
    return DataError(f"{path} is a damaged HDF5 file", where, "Make it again.")
