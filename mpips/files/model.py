"""Write and read trained models.

The layout, `mpips-model/1`, with the same filters and checksums as training data::

    /w  float64 (d,), in the original order of columns          dense models
    /keys  uint64 (m,), rising     /values  float64 (m,) or (m, width)      sparse ones
    /permutation  int64 (d,): position -> original column, where training permuted them
    /config, /stats  texts (TOML, JSON)     /var/_index  names of the features, where there are any
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from mpips import __version__
from mpips.errors import DataError
from mpips.files.atomic import open_output, replacing
from mpips.files.csr import CsrFile
from mpips.files.layout import (
    CHUNK,
    FILTERS,
    MODEL_FORMAT,
    Attribute,
    now,
    write_attributes,
    write_names,
)
from mpips.files.many import CsrFiles
from mpips.files.open import open_hdf5, reading, text_attribute
from mpips.files.sink import new_hdf5


@dataclass(frozen=True, slots=True)
class Model:
    """A trained model.

    Attributes:
        n_features: the size of the key space.
        weights: float64 `(n_features,)`, by original column; None for a sparse model.
        keys: uint64 `(m,)`, rising; None for a dense model.
        values: float64 `(m,)` or `(m, width)`: what belongs to each key.
        permutation: int64 `(n_features,)`: the original column at each position of training.
        kind: the app that made it.
        row_scaling: "unit" if it was trained on rows scaled to length 1, else "none".
        label_values: the negative and the positive label; empty if it has no classes.
        hash: how features were hashed to columns, or "none"; `hash_bits`: to how many bits.
        config: the effective config, as TOML.
        stats: the result, as JSON.
        names: the features' names, or None.
        version, created: of mpips, and the time in UTC; filled in by writing.
        path: the file it was read from, for messages.
    """

    n_features: int
    weights: npt.NDArray[np.float64] | None = None
    keys: npt.NDArray[np.uint64] | None = None
    values: npt.NDArray[np.float64] | None = None
    permutation: npt.NDArray[np.int64] | None = None
    kind: str = "linear"
    row_scaling: str = "none"
    label_values: tuple[float, ...] = ()
    hash: str = "none"
    hash_bits: int = 0
    config: str = ""
    stats: str = "{}"
    names: list[str] | None = None
    version: str = __version__
    created: str = field(default_factory=now)
    path: str = "the model"

    def nonzeros(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.float64]]:
        """Return the keys whose value is not zero, rising, and the values."""
        if self.weights is not None:
            keys = np.flatnonzero(self.weights)
            return keys.astype(np.uint64), self.weights[keys]
        assert self.keys is not None
        assert self.values is not None
        used = self.values.any(axis=tuple(range(1, self.values.ndim))) != 0
        return self.keys[used], self.values[used]

    def problem(self) -> str:
        """Return what is wrong with the arrays, or an empty text."""
        if (self.weights is None) == (self.keys is None):
            return "it has neither weights nor keys, or both"
        if self.weights is not None and self.weights.shape != (self.n_features,):
            return f"/w has the shape {self.weights.shape}, not ({self.n_features},)"
        if self.keys is not None:
            if self.values is None or self.values.shape[:1] != self.keys.shape:
                return "/values does not belong to /keys"
            if (self.keys[1:] <= self.keys[:-1]).any():
                return "/keys does not rise"
        values = self.values if self.weights is None else self.weights
        if values is not None and not np.isfinite(values).all():
            return f"weight {int(np.argmin(np.isfinite(values)))} is not finite"
        if self.permutation is not None and not _permutes(self.permutation, self.n_features):
            return "/permutation is none"
        if self.names is not None and len(self.names) != self.n_features:
            return f"there are {len(self.names)} names for {self.n_features} features"
        return ""


def write_model(path: str | Path, model: Model) -> None:
    """Write a model; the file appears whole or not at all.

    Raises:
        DataError: the model's arrays do not belong together, or a weight is not finite.
        OutputError: the file cannot be created.
        FileError: the disk is full.
    """
    problem = model.problem()
    if problem:
        raise DataError(f"the model cannot be written to {path}: {problem}")
    arrays = {
        "w": model.weights,
        "keys": model.keys,
        "values": model.values,
        "permutation": model.permutation,
    }
    facts: dict[str, Attribute] = {
        "format": MODEL_FORMAT,
        "kind": model.kind,
        "n_features": model.n_features,
        "row_scaling": model.row_scaling,
        "label_values": np.array(model.label_values, np.float64),
        "hash": model.hash,
        "hash_bits": model.hash_bits,
        "mpips-version": model.version,
        "created": model.created,
    }
    with replacing(path) as temporary, new_hdf5(temporary) as (file, _):
        write_attributes(file, facts)
        for name, array in arrays.items():
            if array is not None:
                _write_array(file, name, array)
        for name, text in (("config", model.config), ("stats", model.stats)):
            _write_text(file, name, text)
        if model.names is not None:
            write_names(file, model.names)


def read_model(path: str | Path) -> Model:
    """Read a model into memory and check it.

    Raises:
        MissingInputError: there is no such file.
        DataError: it is something else, or damaged.
    """
    path = Path(path)
    with open_hdf5(path, "a model") as file, reading(path, "contents"):
        form = text_attribute(file, "format")
        if form != MODEL_FORMAT:
            remedy = "A newer mpips wrote it." if form.startswith("mpips-model/") else ""
            raise DataError(f"{path} is no model: its format is {form or 'unknown'}", "", remedy)
        model = Model(
            n_features=int(file.attrs["n_features"]),
            weights=_read_array(file, path, "w", np.float64),
            keys=_read_array(file, path, "keys", np.uint64),
            values=_read_array(file, path, "values", np.float64),
            permutation=_read_array(file, path, "permutation", np.int64),
            kind=text_attribute(file, "kind"),
            row_scaling=text_attribute(file, "row_scaling"),
            label_values=tuple(np.asarray(file.attrs["label_values"]).tolist()),
            hash=text_attribute(file, "hash"),
            hash_bits=int(file.attrs["hash_bits"]),
            config=_read_text(file, path, "config"),
            stats=_read_text(file, path, "stats"),
            names=_read_names(file, path),
            version=text_attribute(file, "mpips-version"),
            created=text_attribute(file, "created"),
            path=str(path),
        )
    problem = model.problem()
    if problem:
        raise DataError(f"{path}: {problem}", "", "The file is damaged; make it again.")
    return model


def export_weights(model: Model, path: str | Path, first: int = 1) -> int:
    """Write a line for each nonzero key: its number, value, and the feature's name if there is one.

    Numbers are those of the original columns, which count from `first`, or a sparse model's keys as
    they are; a value has the fewest digits that give it back; the words of a line are parted by
    tabs. The text is packed by gzip if the name of the file ends in .gz.

    Returns:
        How many lines.

    Raises:
        OutputError, FileError: the text cannot be written.
    """
    keys, values = model.nonzeros()
    numbers = keys if model.weights is None else keys + np.uint64(first)
    columns = [numbers.astype(np.bytes_), *np.atleast_2d(values.T).astype(np.bytes_)]
    if model.names is not None:
        # Keep names from breaking lines and columns.
        names = [" ".join(model.names[key].split()).encode() for key in keys.tolist()]
        columns.append(np.array(names, np.bytes_))
    lines = columns[0]
    for column in columns[1:]:
        lines = np.strings.add(np.strings.add(lines, b"\t"), column)
    with replacing(path) as temporary, open_output(temporary, str(path)) as file:
        file.write(b"".join(np.strings.add(lines, b"\n").tolist()))
    return len(keys)


def check_key_space(model: Model, data: CsrFile | CsrFiles) -> None:
    """Refuse data whose columns or scaling are not those that the model was trained on.

    Data with fewer columns is fine where features were not hashed: the last ones never occur in it.

    Raises:
        DataError: predictions would be noise.
    """
    hashed = str(data.attributes.get("hash", "none")), int(data.attributes.get("hash_bits", 0))
    remedy = f"Convert the data with --like {model.path}."
    if hashed != (model.hash, model.hash_bits):
        raise DataError(
            f"{data.path} was hashed with {hashed[0]}, {hashed[1]} bits, the model uses"
            f" {model.hash}, {model.hash_bits} bits: predictions would be noise",
            remedy=remedy,
        )
    more = data.n_features > model.n_features
    if more or (model.hash != "none" and data.n_features != model.n_features):
        raise DataError(
            f"{data.path} has {data.n_features:,} features, the model {model.n_features:,}",
            remedy=remedy,
        )
    if data.row_scaling != model.row_scaling:
        raise DataError(
            f"{data.path} has row_scaling {data.row_scaling}, the model {model.row_scaling}:"
            " predictions would be noise",
            remedy=remedy,
        )


def _permutes(permutation: npt.NDArray[np.int64], size: int) -> bool:
    """Return whether each number below `size` is there once."""
    if permutation.shape != (size,) or (size and permutation.min() < 0):
        return False
    counts = np.bincount(permutation, minlength=size)
    return len(counts) == size and bool((counts == 1).all())


def _write_array(file: h5py.File, name: str, array: npt.NDArray[Any]) -> None:
    """Write an array in chunks with checksums."""
    width = max(1, int(np.prod(array.shape[1:])))
    filters = FILTERS | {"chunks": (max(1, CHUNK // width), *array.shape[1:])}
    file.create_dataset(name, data=array, maxshape=(None, *array.shape[1:]), **filters)


def _write_text(file: h5py.File, name: str, text: str) -> None:
    """Write a text as one element of fixed length, so that it has a checksum."""
    encoded = text.encode()
    kind = h5py.string_dtype("utf-8", max(len(encoded), 1))
    file.create_dataset(name, data=np.array([encoded], kind), **FILTERS | {"chunks": (1,)})


def _read_array(file: h5py.File, path: Path, name: str, dtype: type) -> Any:
    """Read an array, or None if the file has none of that name."""
    with reading(path, f"/{name}"):
        return file[name][()].astype(dtype, copy=False) if name in file else None


def _read_text(file: h5py.File, path: Path, name: str) -> str:
    """Read a text."""
    with reading(path, f"/{name}"):
        return bytes(file[name][0]).decode()


def _read_names(file: h5py.File, path: Path) -> list[str] | None:
    """Read the features' names, or None if there are none."""
    with reading(path, "/var/_index"):
        if "var/_index" not in file:
            return None
        names: list[str] = file["var/_index"].asstr()[()].tolist()
    return names
