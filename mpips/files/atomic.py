"""Write files so that a reader sees the old one or the whole new one, never a part."""

import contextlib
import errno
import gzip
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, cast

from mpips.errors import FileError, MpipsError, OutputError
from mpips.files.steps import reach

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the same folder, which takes the place of `path` at the end.

    The file exists and is empty when the block begins. At the end it is flushed to the disk and
    renamed, and the folder is flushed. When the block raises, it is removed, and what was at
    `path` stays.

    Args:
        path: the file to write; a symbolic link is followed.

    Raises:
        OutputError: the file cannot be created there.
        FileError: the disk is full, or writing failed half way.

    Cost: two flushes to the disk.
    """
    final = Path(os.path.realpath(path))
    temporary = final.with_name(f".{final.name[:200]}.{secrets.token_hex(4)}.tmp")
    _create(temporary, final)
    try:
        with writing(path):
            reach("opened")
            yield temporary
            reach("filled")
            _flush(temporary)
            reach("flushed")
            os.replace(temporary, final)
            reach("renamed")
            _flush(final.parent)
            reach("settled")
    finally:
        temporary.unlink(missing_ok=True)


def open_output(path: Path, name: str) -> IO[bytes]:
    """Open the file at `path` for writing bytes, packed by gzip if its final name ends in .gz."""
    if name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "wb", compresslevel=6))
    return path.open("wb")


@contextlib.contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn failures of writing `path` inside the block into one error with its reason.

    Raises:
        FileError: an OSError (h5py's failures are such) came out of the block.
    """
    try:
        yield
    except OSError as error:
        raise write_error(error, path) from error


def write_error(error: Exception, path: str | Path) -> MpipsError:
    """Return the error that says why `path` could not be written."""
    folder = Path(os.path.realpath(path)).parent
    code = error.errno if isinstance(error, OSError) else None
    if code in NO_SPACE:
        free = shutil.disk_usage(folder).free / 1e6
        return FileError(
            f"cannot write {path}: {os.strerror(code or 0).lower()}",
            f"{folder} has {free:,.0f} MB free",
            "Free space, raise the quota or the limit of file sizes, or write elsewhere.",
        )
    reason = os.strerror(code).lower() if code else str(error).splitlines()[0]
    return FileError(f"writing {path} failed: {reason}", f"in {folder}")


def _create(temporary: Path, final: Path) -> None:
    """Make the empty temporary file, or say why it cannot be made."""
    if final.exists() and not final.is_file():
        kind = "a folder" if final.is_dir() else "not a regular file"
        raise OutputError(f"cannot write {final}: it is {kind}", remedy="Give the name of a file.")
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except OSError as error:
        if error.errno in NO_SPACE:
            raise write_error(error, final) from error
        reason = os.strerror(error.errno or 0).lower()
        remedy = "Make the folder first." if error.errno == errno.ENOENT else "Write elsewhere."
        raise OutputError(f"cannot create {final}: {reason}", remedy=remedy) from error


def _flush(path: Path) -> None:
    """Have the disk take what was written to a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
