"""Write a file through which the parts of a checkpoint read as one array for each table.

It is for looking, with anything that reads HDF5; mpips itself never reads it, because HDF5 reads a
part that is missing as if it held the fill value.
"""

import itertools
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mpips.files.atomic import replacing
from mpips.files.parts import PartFact, group_name, item_name
from mpips.files.sink import new_hdf5

VIEW = "model.h5"


def write_view(folder: Path, kinds: dict[str, str], parts: list[PartFact]) -> None:
    """Write `model.h5`, whose data sets are all segments of all parts, in the order of keys.

    `/NAME/rows` is `(n, columns)`; a sparse table has its `/NAME/keys` beside them, rising. Parts
    are named relative to the file, so that the folder can be moved. What is missing reads as NaN.

    Args:
        folder: of the checkpoint.
        kinds: "dense" or "sparse" by the name of the table.
        parts: what it says of each part.

    Raises:
        OutputError, FileError: it cannot be written, or the disk is full.
    """
    with replacing(folder / VIEW) as temporary, new_hdf5(temporary) as (file, _):
        for name, kind in kinds.items():
            group = file.create_group(group_name(name))
            group.attrs["table"] = name
            holders = [part for part in parts if name in part.get("tables", {})]
            sources = sorted(
                (number, rows, part["name"])
                for part in holders
                for number, rows in part["tables"][name]["segments"]
            )
            if not sources:
                continue
            held = holders[0]["tables"][name]
            shape, dtype = (held["columns"],), np.dtype(held["dtype"])
            _add(group, name, "rows", shape, dtype, np.nan, sources)
            if kind == "sparse":
                _add(group, name, "keys", (), np.dtype(np.uint64), 0, sources)


def _add(
    group: h5py.Group,
    table: str,
    what: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    missing: float,
    sources: list[tuple[int, int, str]],
) -> None:
    """Add a virtual data set of the segments' rows or keys, which lie one after the other."""
    ends = list(itertools.accumulate(rows for _, rows, _ in sources))
    layout = h5py.VirtualLayout((ends[-1], *shape), dtype)
    for (segment, rows, part), end in zip(sources, ends, strict=True):
        if rows:
            source = item_name(table, what, segment)
            layout[end - rows : end] = h5py.VirtualSource(part, source, (rows, *shape), dtype)
    group.create_virtual_dataset(what, layout, fillvalue=missing)
