"""Write and read the parts of a checkpoint: servers' segments, workers' states, plan's results.

A part is an HDF5 file of plain data sets. Its `/index` is a JSON text (as bytes) that lists what is
in it, with a checksum of each item, and the manifest has the checksum of the index::

    server-3.h5:  /tables/NAME/rows/000017  (n, columns), the state of each key of segment 17
                  /tables/NAME/keys/000017  uint64 (n,), of sparse tables
                  /tables/NAME/numbers, clocks  int64 (segments, streams), in the order of the index
    worker-5.h5:  /trees/2/text, /trees/2/arrays/0 ...: the state of logical worker 2
    results.h5:   /trees/results/..., in the same way
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, Self, TypedDict
from urllib.parse import quote

import h5py
import msgspec
import numpy as np
import numpy.typing as npt

from mpips import __version__
from mpips.errors import DataError
from mpips.files.atomic import replacing
from mpips.files.guard import REMEDY, checksum, open_guarded, read_plain
from mpips.files.layout import Attribute, write_attributes
from mpips.files.sink import Sink, new_hdf5, write_plain
from mpips.files.steps import reach
from mpips.files.tree import Encoded, decode_tree
from mpips.wire.types import KeyArray, ValueArray

PART_FORMAT = "mpips-checkpoint-part/2"

Marks = npt.NDArray[np.int64]


class HeldFact(TypedDict):
    """What a manifest says of the segments of one table in a part: (segment, rows) of each."""

    columns: int
    dtype: str
    segments: list[tuple[int, int]]


class PartFact(TypedDict):
    """What a manifest says of a part; a plain dict that can travel in a message, or as JSON.

    `checksum` is that of the part's index, which has the checksums of all items in it. `tables`
    is there for a server's part, by name; `trees` are the names of nested values.
    """

    name: str
    bytes: int
    checksum: str
    tables: NotRequired[dict[str, HeldFact]]
    trees: NotRequired[list[str]]


class SegmentEntry(msgspec.Struct, frozen=True):
    """What the index of a part says of a segment."""

    table: str
    segment: int
    log: int
    has_keys: bool
    checksum: str


class TreeEntry(msgspec.Struct, frozen=True):
    """What the index of a part says of nested values: name, number of arrays, checksum."""

    name: str
    arrays: int
    checksum: str


class Index(msgspec.Struct):
    """What is in a part, in the order in which it was written."""

    segments: list[SegmentEntry] = []
    trees: list[TreeEntry] = []


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """The whole state of one segment at a cut.

    Attributes:
        table: the table's name.
        segment: its number.
        log: how many updates it has seen.
        numbers: int64 `(streams,)`: of each logical worker's last push in it.
        clocks: int64 `(streams,)`: how far each logical worker's pushes are in it.
        keys: uint64 `(n,)`, rising; None for a dense table.
        rows: `(n, columns)` of the table's dtype, C-contiguous: values and optimiser state.
    """

    table: str
    segment: int
    log: int
    numbers: Marks
    clocks: Marks
    keys: KeyArray | None
    rows: ValueArray

    def checksum(self) -> str:
        """Return the checksum of all of it."""
        keys = b"" if self.keys is None else self.keys
        head = f"{self.table} {self.segment} {self.log}".encode()
        return checksum(head, self.numbers, self.clocks, keys, self.rows)


def write_segments(folder: Path, node: int, segments: Iterable[Segment]) -> PartFact:
    """Write the segments that a server owns to `server-NODE.h5`; it appears whole or not at all.

    Args:
        folder: of the checkpoint.
        node: id of the server.
        segments: each is written before the next is taken, so that one at a time is in memory.

    Returns:
        What the manifest has to say of it; it can travel in a message.

    Raises:
        OutputError, FileError: it cannot be written, or the disk is full.
    """

    held: dict[str, HeldFact] = {}
    marks: dict[str, tuple[list[Marks], list[Marks]]] = {}

    def fill(file: h5py.File, sink: Sink) -> Index:
        # A checksum takes as long as a fast disk: one core computes it while another one writes.
        with ThreadPoolExecutor(1) as beside:
            return fill_beside(file, sink, beside)

    def fill_beside(file: h5py.File, sink: Sink, beside: ThreadPoolExecutor) -> Index:
        index = Index()
        for segment in segments:
            table, number, (rows, columns) = segment.table, segment.segment, segment.rows.shape
            computed = beside.submit(segment.checksum)
            write_plain(file, sink, item_name(table, "rows", number), segment.rows)
            if segment.keys is not None:
                write_plain(file, sink, item_name(table, "keys", number), segment.keys)
            sink.check()
            reach("item")
            has_keys = segment.keys is not None
            entry = SegmentEntry(table, number, segment.log, has_keys, computed.result())
            index.segments.append(entry)
            none = HeldFact(columns=columns, dtype=segment.rows.dtype.str[1:], segments=[])
            held.setdefault(table, none)["segments"].append((number, rows))
            numbers, clocks = marks.setdefault(table, ([], []))
            numbers.append(segment.numbers)
            clocks.append(segment.clocks)
        for table, (numbers, clocks) in marks.items():
            file[item_name(table, "numbers")] = np.stack(numbers)
            file[item_name(table, "clocks")] = np.stack(clocks)
        return index

    fact = _write_part(folder / f"server-{node}.h5", fill)
    fact["tables"] = held
    return fact


def write_trees(path: Path, trees: Mapping[str, Encoded]) -> PartFact:
    """Write nested values, without pickle, to one file; it appears whole or not at all.

    Args:
        path: the file.
        trees: by name in the file, as `tree.encode_tree` returns them.

    Returns:
        What the manifest has to say of it; it can travel in a message.

    Raises:
        OutputError, FileError: it cannot be written, or the disk is full.
    """

    def fill(file: h5py.File, sink: Sink) -> Index:
        index = Index()
        for name, (text, arrays) in trees.items():
            file[f"trees/{name}/text"] = np.frombuffer(text, np.uint8)
            for number, array in enumerate(arrays):
                write_plain(file, sink, f"trees/{name}/arrays/{number}", array)
            sink.check()
            reach("item")
            index.trees.append(TreeEntry(name, len(arrays), checksum(text, *arrays)))
        return index

    fact = _write_part(path, fill)
    fact["trees"] = list(trees)
    return fact


class PartFile:
    """A part of a checkpoint, open for reading; its index is checked, an item when it is read.

    Args:
        folder: of the checkpoint.
        fact: what the manifest says of the part.

    Attributes:
        path: the file.
        index: what is in it.

    Raises:
        DataError: the file is not what the manifest says, or is not safe to read.
        FileError: the system cannot read it.
    """

    def __init__(self, folder: Path, fact: PartFact) -> None:
        self.path = folder / fact["name"]
        self._file = open_guarded(self.path, fact["bytes"])
        try:
            text = read_plain(self._file, "index").tobytes()
            if checksum(text) != fact["checksum"]:
                raise DataError(f"{self.path} /index fails its checksum", "", REMEDY)
            self.index = msgspec.json.decode(text, type=Index)
        except msgspec.MsgspecError as error:
            self.close()
            raise DataError(f"{self.path} /index makes no sense: {error}", "", REMEDY) from error
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def segments(self, table: str, wanted: Collection[int] | None = None) -> Iterator[Segment]:
        """Yield those of a table's wanted segments (None: all) that are here, one at a time.

        Raises:
            DataError: one is damaged.
            FileError: the system cannot read it.
        """
        entries = [entry for entry in self.index.segments if entry.table == table]
        if not entries:
            return
        numbers, clocks = (
            read_plain(self._file, item_name(table, what)) for what in ("numbers", "clocks")
        )
        if not numbers.shape[:1] == clocks.shape[:1] == (len(entries),):
            raise DataError(f"{self.path}: the table {table} is not as in its index", "", REMEDY)
        for at, entry in enumerate(entries):
            if wanted is not None and entry.segment not in wanted:
                continue
            rows, keys = (item_name(table, what, entry.segment) for what in ("rows", "keys"))
            segment = Segment(
                table=table,
                segment=entry.segment,
                log=entry.log,
                numbers=numbers[at],
                clocks=clocks[at],
                keys=read_plain(self._file, keys) if entry.has_keys else None,
                rows=read_plain(self._file, rows),
            )
            if segment.checksum() != entry.checksum:
                what = f"segment {entry.segment} of the table {table} fails its checksum"
                raise DataError(f"{self.path}: {what}", "", REMEDY)
            yield segment

    def tree(self, name: str) -> Any:
        """Return nested values that were written under a name.

        Raises:
            DataError: they are not there, or damaged.
            FileError: the system cannot read them.
        """
        entry = next((entry for entry in self.index.trees if entry.name == name), None)
        if entry is None:
            raise DataError(f"{self.path} does not hold {name}", "", REMEDY)
        text = read_plain(self._file, f"trees/{name}/text").tobytes()
        arrays = [
            read_plain(self._file, f"trees/{name}/arrays/{number}")
            for number in range(entry.arrays)
        ]
        if checksum(text, *arrays) != entry.checksum:
            raise DataError(f"{self.path} /trees/{name} fails its checksum", "", REMEDY)
        return decode_tree(text, arrays, f"{self.path} /trees/{name}")

    def check(self) -> None:
        """Read all items and compare their checksums.

        Raises:
            DataError: one is damaged.
            FileError: the system cannot read it.
        """
        for table in {entry.table for entry in self.index.segments}:
            for _ in self.segments(table):
                pass
        for entry in self.index.trees:
            self.tree(entry.name)


def item_name(table: str, what: str, segment: int | None = None) -> str:
    """Return where something of a table, or of one of its segments, is in its part.

    >>> item_name("w/1", "rows", 17)
    'tables/w=2F1/rows/000017'
    """
    name = f"tables/{group_name(table)}/{what}"
    return name if segment is None else f"{name}/{segment:06}"


def group_name(table: str) -> str:
    """Return a table's name as HDF5 can have it as the name of one group."""
    # The names of virtual sources are formats, in which a percent sign is special.
    return quote(table, safe=" ").replace(".", "%2E").replace("%", "=")


def _write_part(path: Path, fill: Callable[[h5py.File, Sink], Index]) -> PartFact:
    """Write a part whose items `fill` writes, then their index; all reaches the disk first."""
    with replacing(path) as temporary:
        with new_hdf5(temporary) as (file, sink):
            facts: dict[str, Attribute] = {"format": PART_FORMAT, "mpips-version": __version__}
            write_attributes(file, facts)
            text = msgspec.json.encode(fill(file, sink))
            file["index"] = np.frombuffer(text, np.uint8)
        size = temporary.stat().st_size
    return PartFact(name=path.name, bytes=size, checksum=checksum(text))
