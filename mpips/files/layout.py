"""Keep the words of the file formats: names, filters, and attributes that HDF5 checks."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

DATA_FORMAT = "mpips-data/1"
MODEL_FORMAT = "mpips-model/1"
CHUNK = 65536

# HDF5 1.10 is the oldest whose structures carry checksums, so that flipped bytes are found there.
LIBVER = ("v110", "v110")

# Filters that every HDF5 library has; fletcher32 finds flipped bytes in the stored chunks.
FILTERS: dict[str, Any] = {
    "chunks": (CHUNK,),
    "shuffle": True,
    "compression": "gzip",
    "compression_opts": 1,
    "fletcher32": True,
}

# Where reading must be fast: inflating takes five times as long as all else.
UNPACKED: dict[str, Any] = {"chunks": (CHUNK,), "fletcher32": True}

Attribute = str | int | float | npt.NDArray[Any]


def now() -> str:
    """Return the time in UTC by the second, such as 2026-01-31T12:00:00+00:00."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def write_attributes(item: h5py.HLObject, attributes: Mapping[str, Attribute]) -> None:
    """Write attributes, texts with a fixed length.

    HDF5 checks what lies in an object's header; texts of variable length lie elsewhere, unchecked.
    """
    for name, value in attributes.items():
        if isinstance(value, str):
            text = value.encode()
            kind = h5py.string_dtype("utf-8", max(len(text), 1))
            item.attrs.create(name, np.array(text, dtype=kind))
        else:
            item.attrs[name] = value


def mark_anndata(item: h5py.HLObject, encoding: str, version: str) -> None:
    """Write the two attributes by which AnnData knows what an item is.

    AnnData compares them as texts of variable length; nothing else is read from them.
    """
    item.attrs["encoding-type"], item.attrs["encoding-version"] = encoding, version


def write_names(file: h5py.File, names: Sequence[str]) -> None:
    """Write the names of the features to `/var/_index`, where AnnData looks for them."""
    group = file.create_group("var")
    mark_anndata(group, "dataframe", "0.2.0")
    group.attrs["_index"] = "_index"
    group.attrs.create("column-order", np.array([], dtype=h5py.string_dtype()))
    encoded = [name.encode() for name in names]
    width = max((len(name) for name in encoded), default=1)
    kind = h5py.string_dtype("utf-8", max(width, 1))
    dataset = group.create_dataset(
        "_index", data=np.array(encoded, dtype=kind), maxshape=(None,), **FILTERS
    )
    mark_anndata(dataset, "string-array", "0.2.0")
