"""Find out what a file or folder is: training data, a model, a run, a checkpoint, or else."""

from enum import Enum
from pathlib import Path

from mpips.errors import MissingInputError
from mpips.files.layout import DATA_FORMAT, MODEL_FORMAT
from mpips.files.manifest import MANIFEST
from mpips.files.open import describe, open_hdf5, reading, require_file, text_attribute


class Kind(Enum):
    """What a path leads to."""

    DATA = "training data"
    MODEL = "model"
    RUN = "run"
    CHECKPOINT = "checkpoint"
    OTHER = "other"


def kind_of(path: str | Path) -> tuple[Kind, str]:
    """Return what a path leads to, and for other things a few words on what they seem to be.

    Raises:
        MissingInputError: there is nothing of that name.
        DataError: it is HDF5, but damaged.
        FileError: it cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return _kind_of_folder(path)
    if path.name == MANIFEST and path.exists():
        return Kind.CHECKPOINT, ""
    what = describe(require_file(path, ""))
    if what != "HDF5":
        return Kind.OTHER, what
    with open_hdf5(path, "") as file, reading(path, "structure"):
        form = text_attribute(file, "format")
        encoding = text_attribute(file["X"], "encoding-type") if "X" in file else ""
        names = ", ".join(f"/{name}" for name in list(file)[:12])
    if form == MODEL_FORMAT:
        return Kind.MODEL, ""
    if form == DATA_FORMAT or encoding == "csr_matrix":
        return Kind.DATA, ""
    return Kind.OTHER, f"HDF5 of format {form or 'unknown'}, holding {names or 'nothing'}"


def _kind_of_folder(path: Path) -> tuple[Kind, str]:
    """Return what a folder is."""
    if (path / "result.json").exists() or (path / "config.toml").exists():
        return Kind.RUN, ""
    if (path / MANIFEST).exists():
        return Kind.CHECKPOINT, ""
    if any(path.glob("*.h5")):
        return Kind.DATA, ""
    if not any(path.iterdir()):
        raise MissingInputError(f"the folder {path} is empty")
    return Kind.OTHER, "a folder without training data, and no run"
