"""Damaged files give an error or the same numbers, never a traceback and never others."""

import contextlib
import gzip
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from mpips.errors import DataError, FileError
from mpips.files.csr import CsrFile
from mpips.files.kinds import kind_of
from mpips.files.libsvm import TextOptions, convert
from mpips.files.model import Model, read_model, write_model
from tests.files.samples import Sample, make_sample

SEED = 7


def read_all(path: Path) -> bytes:
    """Return the bits of everything that training takes from a data file."""
    with CsrFile(path) as data:
        rows = data.read(0, data.n_rows, classes=data.two_classes())
        shape = f"{data.n_rows} {data.n_features} {data.row_scaling} {data.row_ranges(3)}"
        arrays = (rows.indptr, rows.indices, rows.data, rows.labels)
        return shape.encode() + b"".join(array.tobytes() for array in arrays)


def read_whole_model(path: Path) -> bytes:
    """Return the bits of everything in a model file."""
    model = read_model(path)
    assert model.weights is not None
    assert model.permutation is not None
    words = (model.kind, model.row_scaling, model.config, model.stats, model.names)
    numbers = (model.n_features, model.label_values, model.hash_bits)
    return repr((words, numbers)).encode() + model.weights.tobytes() + model.permutation.tobytes()


def make_data(path: Path) -> None:
    """Write a small data file whose rows are scaled when read."""
    make_sample(SEED).write(path, row_scaling="unit")


def make_model(path: Path) -> None:
    """Write a small model with all of its parts."""
    rng = np.random.default_rng(SEED)
    model = Model(
        n_features=50,
        weights=rng.normal(size=50),
        permutation=rng.permutation(50),
        label_values=(0.0, 1.0),
        config="[run]\nseed = 1\n",
        stats='{"objective": 1.5}',
        names=[f"feature {i}" for i in range(50)],
    )
    write_model(path, model)


KINDS = [
    pytest.param(make_data, read_all, id="data"),
    pytest.param(make_model, read_whole_model, id="model"),
]


def outcome(path: Path, read: Callable[[Path], bytes]) -> bytes | None:
    """Return what is read, or None for an error that a user can understand."""
    try:
        return read(path)
    except (DataError, FileError) as error:
        message = str(error)
    assert str(path) in message
    return None


@pytest.mark.parametrize(("make", "read"), KINDS)
@pytest.mark.parametrize("part", range(8))
def test_a_flipped_byte_gives_an_error_or_the_same_numbers(
    part: int, make: Callable[[Path], None], read: Callable[[Path], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    make(path)
    good, before = path.read_bytes(), read(path)
    rng = np.random.default_rng([SEED, part])
    found = 0
    for position in rng.integers(0, len(good), 16).tolist():
        bad = bytearray(good)
        bad[position] ^= int(rng.integers(1, 256))
        path.write_bytes(bad)
        after = outcome(path, read)
        assert after in (None, before), f"byte {position}"
        found += after is None
    assert found


@pytest.mark.slow
@pytest.mark.parametrize(("make", "read"), KINDS)
def test_each_flipped_byte_gives_an_error_or_the_same_numbers(
    make: Callable[[Path], None], read: Callable[[Path], bytes], request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.h5"
    make(path)
    good, before = path.read_bytes(), read(path)
    # Three seeds take a third each.
    first = 41 * (request.config.getoption("--seed") % 3)
    for position in range(first, len(good), 3 * 41):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        path.write_bytes(bad)
        assert outcome(path, read) in (None, before), f"byte {position}"


@pytest.mark.parametrize(("make", "read"), KINDS)
def test_a_file_cut_short_is_refused_wherever_it_was_cut(
    make: Callable[[Path], None], read: Callable[[Path], bytes], tmp_path: Path
) -> None:
    path = tmp_path / "a.h5"
    make(path)
    good = path.read_bytes()
    for size in [*range(0, 120, 7), *np.linspace(120, len(good) - 1, 30).astype(int).tolist()]:
        path.write_bytes(good[:size])
        assert outcome(path, read) is None, f"{size} bytes"
    with pytest.raises(DataError) as caught:
        read(path)
    assert f"cut short: {len(good) - 1:,} of {len(good):,} bytes" in caught.value.what


def test_a_damaged_chunk_is_named_with_its_rows(sample: Sample, tmp_path: Path) -> None:
    path = sample.write(tmp_path / "a.h5")
    with h5py.File(path) as file:
        chunk = file["X/data"].id.get_chunk_info(0)
    bad = bytearray(path.read_bytes())
    bad[chunk.byte_offset + chunk.size // 2] ^= 8
    path.write_bytes(bad)
    with CsrFile(path) as data, pytest.raises(DataError) as caught:
        data.read(10, 20)
    assert caught.value.what == f"{path} /X/data, rows 10 to 19 fails its checksum"


def test_unknown_compression_is_named(sample: Sample, tmp_path: Path) -> None:
    path = sample.write(tmp_path / "a.h5")
    with h5py.File(path, "a") as file:
        del file["X/data"]
        # 32001 is Blosc, which comes as a plugin.
        create = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        create.set_chunk((16,))
        create.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((len(sample.data),))
        made = h5py.h5d.create(file["X"].id, b"data", h5py.h5t.IEEE_F32LE, space, create)
        made.write_direct_chunk((0,), b"\0" * 64)
    with pytest.raises(DataError, match="filter that is not built into HDF5"), CsrFile(path) as d:
        d.read(0, 60)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"1 3:1 4:2\n-1 1:1\n", "LIBSVM text, not HDF5"),
        (gzip.compress(b"+1 3:1 # note\n"), "LIBSVM text, packed by gzip"),
        (b"", "an empty file"),
        (b"PAR1" + bytes(20), "Parquet"),
        (b"hello\n", "text, but not LIBSVM"),
        (bytes(100), "binary data"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "damaged HDF5"),
    ],
)
def test_other_files_are_told_apart(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "train.svm"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        CsrFile(path)
    if "LIBSVM text," in message:
        assert caught.value.remedy.startswith(f"Run: mpips convert {path}")


def test_text_cut_short_in_its_packing_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    text = b"".join(b"1 %d:1\n" % index for index in rng.integers(1, 9999, 2000))
    packed = gzip.compress(text)
    for size in (5, 15, len(packed) // 2, len(packed) - 1):
        (tmp_path / "a.gz").write_bytes(packed[:size])
        with pytest.raises(DataError, match=r"a\.gz"):
            convert([str(tmp_path / "a.gz")], tmp_path / "a.h5", TextOptions())
    assert not (tmp_path / "a.h5").exists()


def test_random_bytes_never_give_a_traceback(tmp_path: Path) -> None:
    rng = np.random.default_rng(SEED)
    path = tmp_path / "a"
    letters = np.frombuffer(b"0123456789:.-+e #\n\t\rnaqid", np.uint8)
    for round_ in range(24):
        size = int(rng.integers(0, 60))
        raw = rng.choice(letters, size) if round_ % 2 else rng.integers(0, 256, size, np.uint8)
        path.write_bytes(raw.astype(np.uint8).tobytes())
        for action in (CsrFile, read_model, kind_of):
            with contextlib.suppress(DataError):
                action(path)
        with contextlib.suppress(DataError):
            convert([str(path)], tmp_path / "a.h5", TextOptions())
