"""Read libsvm (svmlight) text as a stream of row blocks, and write it."""

import contextlib
import gzip
import io
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from mpips.errors import DataError, FileError
from mpips.files import libsvm_kernel as kernel
from mpips.files.atomic import open_output, replacing
from mpips.files.csr import CsrFile
from mpips.files.csr_writer import CsrWriter
from mpips.files.open import describe_bytes, require_file

BLOCK = 4 << 20
HEAD = 65536
LONGEST_LINE = 256 << 20
NAN_CHOICES = ("error", "drop", "zero")

# What each code of the parser means for the user, and what helps.
COMPLAINTS = {
    kernel.BAD_LABEL: ("{word} is no label", "A line is: LABEL INDEX:VALUE INDEX:VALUE ..."),
    kernel.NO_COLON: ("no colon in {word}", "A line is: LABEL INDEX:VALUE INDEX:VALUE ..."),
    kernel.BAD_INDEX: ("{word} does not begin with an index", "An index is a whole number."),
    kernel.BAD_VALUE: ("{word} has no number for a value", "A value is like 1, -0.5 or 2e-3."),
    kernel.BELOW_FIRST: ("feature 0", "LIBSVM counts from 1; use --zero-based."),
    kernel.FALLING: ("{word} after a larger index", "Indices must rise; use --sort."),
    kernel.TWICE: ("feature {word} is there twice", "Keep one of them."),
    kernel.QUERY: ("{word}: ranking queries are not supported", "Remove the qid: words."),
}


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How to read libsvm text.

    Attributes:
        first_index: what the first column is called: 1, or 0.
        n_features: the number of columns; None for one more than the largest index.
        clip: leave out columns from `n_features` on instead of refusing them.
        labels: keep rows with one of these two labels only, as -1 and +1; None keeps all as is.
        nan: what to do with a value that is no finite float32: "error", "drop" the row, "zero" it.
        sort: sort the columns of rows where they do not rise.
    """

    first_index: int = 1
    n_features: int | None = None
    clip: bool = False
    labels: tuple[float, float] | None = None
    nan: str = "error"
    sort: bool = False


@dataclass(slots=True)
class Progress:
    """What has been read: rows kept, bytes of text, and what was left out."""

    rows: int = 0
    bytes: int = 0
    nonzeros: int = 0
    rows_left_out: int = 0
    values_left_out: int = 0
    values_zeroed: int = 0
    sources: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Part:
    """Rows of one block of text.

    Attributes:
        lengths: int64 `(rows,)`: nonzeros of each row.
        labels: float64 `(rows,)`.
        lines: int64 `(rows,)`: the number of each row's line in the file, from 1.
        indices: int64 `(nnz,)`: columns from 0, rising within a row.
        values: float64 `(nnz,)`.
    """

    lengths: npt.NDArray[np.int64]
    labels: npt.NDArray[np.float64]
    lines: npt.NDArray[np.int64]
    indices: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]

    def keep(self, kept: npt.NDArray[np.bool_], values: npt.NDArray[np.bool_]) -> "Part":
        """Return the part with only some rows, and of these only some values."""
        rows = np.repeat(np.arange(len(self.lengths)), self.lengths)
        values = values & kept[rows]
        lengths = np.bincount(rows[values], minlength=len(self.lengths))[kept]
        return Part(
            lengths, self.labels[kept], self.lines[kept], self.indices[values], self.values[values]
        )


def convert(
    paths: Sequence[str],
    output: str | Path,
    options: TextOptions,
    row_scaling: str = "none",
    report: Callable[[int, int], None] = lambda rows, size: None,
    packed: bool = True,
) -> Progress:
    """Convert libsvm text to training data in one pass.

    Args:
        paths: files of text, plain or packed by gzip, one after the other; "-" is standard input.
        output: the file to write.
        options: how to read them.
        row_scaling: "unit" notes that readers are to scale rows to length 1.
        report: called after each block with the rows and bytes so far.
        packed: as for `CsrWriter`.

    Returns:
        What was read and left out.

    Raises:
        DataError: a line is wrong; its number is told. No file is left then.
        MissingInputError, FileError, OutputError: as they say.

    Memory: about 60 bytes for each byte of a block of 4 MiB, or of the longest line.
    """
    progress = Progress()
    attributes = {"row_scaling": row_scaling}
    with CsrWriter(output, options.n_features, attributes, packed=packed) as writer:
        for path in paths:
            for part in read_parts(path, options, progress):
                writer.append(part.lengths, part.indices, part.values, part.labels)
                report(progress.rows, progress.bytes)
        writer.note("source", "; ".join(progress.sources))
    return progress


def read_parts(path: str, options: TextOptions, progress: Progress) -> Iterator[Part]:
    """Read a file of libsvm text block by block, with its wrong lines refused by number.

    Args:
        path: the file, plain or packed by gzip; "-" is the standard input.
        options: how to read it.
        progress: is kept up to date.

    Raises:
        DataError: a line is wrong, or the packed file is damaged.
    """
    name = "standard input" if path == "-" else path
    line, size, checksum = 0, 0, 0
    with _open_text(path) as file:
        for block in _blocks(file, name):
            if size == 0 and b"\0" in block[:HEAD]:
                raise DataError(f"{name} is {describe_bytes(block[:HEAD])}, not libsvm text")
            part, lines = _parse(block, line, name, options)
            part = _clean(part, name, options, progress)
            line, size, checksum = line + lines, size + len(block), zlib.crc32(block, checksum)
            progress.rows += len(part.lengths)
            progress.nonzeros += len(part.indices)
            progress.bytes += len(block)
            yield part
    progress.sources.append(f"{name} ({size} bytes of text, crc32 {checksum:08x})")


def export(data: CsrFile, output: str | Path, first_index: int = 1) -> int:
    """Write training data back as libsvm text; return the number of bytes before packing.

    Values are written as they are stored, each in the fewest digits that give it back, so that
    `convert` makes the same rows again.

    Args:
        data: an open file.
        output: the file to write; packed by gzip if its name ends in .gz.
        first_index: what to call the first column.

    Raises:
        DataError: the data is damaged.
        OutputError, FileError: the text cannot be written.
    """
    size = 0
    parts = 1 + (data.nnz + data.n_rows) // (BLOCK // 16)
    dtype = np.dtype(np.float32 if data.value_dtype == np.float32 else np.float64)
    with replacing(output) as temporary, open_output(temporary, str(output)) as file:
        for begin, end in data.row_ranges(parts):
            rows = data.read(begin, end, dtype, scaled=False)
            values, labels = _texts(rows.data), _texts(rows.labels.astype(np.float32))
            room = rows.data.size * (22 + values.shape[1]) + rows.labels.size * 64
            out = np.empty(room, np.uint8)
            indices = rows.indices.astype(np.int64, copy=False)
            used = kernel.print_rows(rows.indptr, indices, values, labels, first_index, out)
            file.write(out[:used].data)
            size += used
    return size


def _texts(values: npt.NDArray[np.floating]) -> npt.NDArray[np.uint8]:
    """Return the shortest text of each value as uint8 `(n, width)`, filled up with zero bytes."""
    whole = (values == np.rint(values)) & (np.abs(values) < 2**53) & ~np.signbit(values)
    texts = (values.astype(np.int64) if whole.all() else values).astype(np.bytes_)
    return texts.view(np.uint8).reshape(len(values), texts.dtype.itemsize)


@contextlib.contextmanager
def _open_text(path: str) -> Iterator[IO[bytes]]:
    """Open text for reading in binary, unpacked where it begins like gzip."""
    with contextlib.ExitStack() as stack:
        if path == "-":
            raw = cast(io.BufferedReader, sys.stdin.buffer)
        else:
            raw = stack.enter_context(require_file(path, "libsvm text").open("rb"))
        if raw.peek(2)[:2] == b"\x1f\x8b":
            yield cast(IO[bytes], stack.enter_context(gzip.GzipFile(fileobj=raw)))
        else:
            yield raw


def _blocks(file: IO[bytes], name: str) -> Iterator[bytes]:
    """Give the text in blocks of whole lines."""
    rest = b""
    while True:
        try:
            fresh = file.read(BLOCK)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{name} is cut short or damaged: {error}", "gzip") from error
        except OSError as error:
            raise FileError(f"reading {name} failed: {error.strerror}") from error
        cut = fresh.rfind(b"\n") + 1
        if not fresh:
            break
        if cut:
            yield rest + fresh[:cut]
            rest = fresh[cut:]
        else:
            rest += fresh
        if len(rest) > LONGEST_LINE:
            raise DataError(f"{name} has a line of more than {LONGEST_LINE >> 20} MiB", "", "")
    if rest:
        yield rest


def _parse(block: bytes, line: int, name: str, options: TextOptions) -> tuple[Part, int]:
    """Parse whole lines; return their rows and how many lines they were."""
    # Make room by the characters that rows and pairs cannot do without.
    text = np.frombuffer(block, np.uint8)
    rows, pairs = block.count(b"\n") + 1, block.count(b":")
    lengths, lines = np.empty(rows, np.int64), np.empty(rows, np.int64)
    labels, values = np.empty(rows), np.empty(pairs)
    indices, odd = np.empty(pairs, np.int64), np.empty((rows + pairs, 3), np.int64)
    rows, pairs, odds, count, falling, code, at = kernel.parse_block(
        text, options.first_index, options.sort, lengths, labels, lines, indices, values, odd
    )
    if code != kernel.OK:
        what, remedy = COMPLAINTS[code]
        word = block[at : at + 60].split()[0].decode("utf-8", "replace")
        if code == kernel.TWICE:
            word = word.split(":")[0]
        raise DataError(what.format(word=word), f"line {line + count:,} of {name}", remedy)
    # Convert what needs care, all at once.
    part = Part(lengths[:rows], labels[:rows], lines[:rows] + line, indices[:pairs], values[:pairs])
    _convert_odd(text, odd[:odds], part)
    if falling:
        row = kernel.sort_rows(part.lengths, part.indices, part.values)
        if row >= 0:
            raise DataError("a feature is there twice", _place(part, row, name), "Keep one.")
    return part, count


def _convert_odd(text: npt.NDArray[np.uint8], odd: npt.NDArray[np.int64], part: Part) -> None:
    """Convert the numbers that the kernel left, correctly rounded, and put them in their places."""
    if not len(odd):
        return
    place, begin, end = odd.T
    width = int((end - begin).max())
    at = begin[:, None] + np.arange(width)
    words = np.where(at < end[:, None], text[np.minimum(at, len(text) - 1)], 0).astype(np.uint8)
    numbers = words.view(f"S{width}").ravel().astype(np.float64)
    part.values[place[place >= 0]] = numbers[place >= 0]
    part.labels[-1 - place[place < 0]] = numbers[place < 0]


def _clean(part: Part, name: str, options: TextOptions, progress: Progress) -> Part:
    """Refuse or leave out what the options say."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(part.values.astype(np.float32))
        finite_labels = np.isfinite(part.labels.astype(np.float32))
    if not finite_labels.all():
        row = int(np.argmin(finite_labels))
        where = _place(part, row, name)
        raise DataError(f"label {part.labels[row]:g}", where, "A label is a finite float32.")
    rows = np.repeat(np.arange(len(part.lengths)), part.lengths)
    kept = np.ones(len(part.lengths), np.bool_)
    values = np.ones(len(part.values), np.bool_)
    # Deal with values that are no finite numbers.
    if not finite.all():
        if options.nan == "error":
            at = int(np.argmin(finite))
            raise DataError(
                f"value {part.values[at]:g} for feature {part.indices[at] + options.first_index}",
                _place(part, int(rows[at]), name),
                "--nan drop|zero|error (default error); values are float32.",
            )
        if options.nan == "drop":
            kept[rows[~finite]] = False
        else:
            part.values[~finite] = 0
            progress.values_zeroed += int((~finite).sum())
    # Deal with labels and columns that are not wanted.
    if options.labels is not None:
        negative, positive = options.labels
        kept &= (part.labels == negative) | (part.labels == positive)
        part.labels[:] = np.where(part.labels == positive, 1, -1)
    if options.n_features is not None:
        beyond = part.indices >= options.n_features
        if beyond.any() and not options.clip:
            at = int(np.argmax(beyond))
            index = part.indices[at] + options.first_index
            where = _place(part, int(rows[at]), name)
            remedy = f"Give --features {part.indices[at] + 1} or more."
            raise DataError(f"feature {index} of {options.n_features:,}", where, remedy)
        values = ~beyond
        progress.values_left_out += int((beyond & kept[rows]).sum())
    progress.rows_left_out += int((~kept).sum())
    return part if kept.all() and values.all() else part.keep(kept, values)


def _place(part: Part, row: int, name: str) -> str:
    """Say which line a row came from."""
    return f"line {part.lines[row]:,} of {name}"
