"""Say what a data file, a model, a run folder or a checkpoint holds.

Of anything else it says what it seems to be.
"""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mpips.cli.main import program
from mpips.errors import DataError

if TYPE_CHECKING:
    from mpips.files.csr import CsrFile
    from mpips.files.many import CsrFiles
    from mpips.files.model import Model

Facts = dict[str, Any]

# The notes about data that are worth a line without -v.
NOTES = ("source", "created", "mpips-version")

BLOCK = 1 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "path", metavar="FILE", help="a data file, a model, a run folder or a checkpoint"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("-v", "--verbose", action="store_true", help="show all that is noted in it")


def run(arguments: argparse.Namespace) -> int:
    """Print the facts."""
    facts = {"path": arguments.path, **gather(Path(arguments.path), arguments.verbose)}
    if arguments.json:
        print(json.dumps(facts, allow_nan=False))
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        text = _show(value)
        indented = ("\n" + " " * (width + 2)).join(text.splitlines()) if text else "-"
        print(f"{name:<{width}}  {indented}")
    return 0


def gather(path: Path, verbose: bool = False) -> Facts:
    """Return the facts about a file or folder, as values that JSON can hold.

    Raises:
        MissingInputError, DataError, FileError: it cannot be read, or is damaged.
    """
    from mpips.files.kinds import Kind, kind_of
    from mpips.files.many import open_data
    from mpips.files.model import read_model

    kind, what = kind_of(path)
    if kind is Kind.DATA:
        with open_data(path) as data:
            return data_facts(data, verbose)
    if kind is Kind.MODEL:
        return model_facts(read_model(path), verbose)
    if kind is Kind.RUN:
        return run_facts(path, verbose)
    if kind is Kind.CHECKPOINT:
        return checkpoint_facts(path if path.is_dir() else path.parent, verbose)
    facts: Facts = {"kind": what}
    if path.is_file():
        facts["bytes"] = path.stat().st_size
    if what.startswith("LIBSVM"):
        facts["next"] = f"{program()} convert {path} -o {path.name.split('.')[0]}.h5"
    return facts


def data_facts(data: "CsrFile | CsrFiles", verbose: bool) -> Facts:
    """Return the facts about training data; reads all labels."""
    cells = data.n_rows * data.n_features
    facts: Facts = {
        "kind": "training data",
        "rows": data.n_rows,
        "features": data.n_features,
        "nonzeros": data.nnz,
        "density": data.nnz / cells if cells else 0.0,
        "nonzeros_per_row": data.nnz / data.n_rows if data.n_rows else 0.0,
        "labels": label_shares(data),
        "row_scaling": data.row_scaling,
    }
    noted = {name: _plain(value) for name, value in data.attributes.items()}
    return facts | {name: noted[name] for name in noted if verbose or name in NOTES}


def label_shares(data: "CsrFile | CsrFiles") -> dict[str, float]:
    """Return each label's share of the rows; empty if there are more than 256 labels."""
    import numpy as np

    values = data.label_values
    counts = np.zeros(len(values), np.int64)
    for begin in range(0, data.n_rows if len(values) else 0, BLOCK):
        labels = data.labels(begin, min(begin + BLOCK, data.n_rows))
        counts += np.bincount(np.searchsorted(values, labels), minlength=len(values))
    return {f"{v:g}": int(c) / data.n_rows for v, c in zip(values, counts, strict=True)}


def model_facts(model: "Model", verbose: bool) -> Facts:
    """Return the facts about a model."""
    keys, values = model.nonzeros()
    try:
        stats = json.loads(model.stats)
    except ValueError as error:
        raise DataError(f"{model.path}: /stats is no JSON: {error}") from error
    facts: Facts = {
        "kind": f"model {model.kind}",
        "features": model.n_features,
        "nonzero_weights": len(keys),
        "largest_weight": float(abs(values).max(initial=0.0)),
        "labels": [f"{value:g}" for value in model.label_values],
        "row_scaling": model.row_scaling,
        "permuted": model.permutation is not None,
        "named_features": model.names is not None,
        "created": model.created,
        "mpips-version": model.version,
        "stats": stats,
    }
    return facts | ({"config": model.config} if verbose else {})


def run_facts(path: Path, verbose: bool) -> Facts:
    """Return the facts about a run folder, its result as it was written.

    What is not known, and counters, come only if `verbose`.
    """
    result = path / "result.json"
    facts: Facts = {"kind": "run", "model": (path / "model.h5").exists()}
    if not result.exists():
        return facts | {"status": "no result: interrupted or still running"}
    try:
        found = json.loads(result.read_text())
    except ValueError as error:
        raise DataError(f"{result} is no JSON: {error}", "", "It was cut short.") from error
    if not isinstance(found, dict):
        return facts | {"result": found}
    for name, value in found.items():
        if verbose or (value is not None and name != "counters"):
            facts[name] = value
    return facts


def checkpoint_facts(path: Path, verbose: bool) -> Facts:
    """Return the facts about a checkpoint; reads all of it to compare the checksums."""
    from mpips.files.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path)
    manifest = checkpoint.manifest
    facts: Facts = {
        "kind": "checkpoint, all parts are good",
        "number": manifest.number,
        "tasks": manifest.tasks,
        "bytes": checkpoint.bytes,
        "parts": len(manifest.parts),
        "tables": {
            name: f"{table['kind']} {table['dtype']}, {table['segments']} segments"
            for name, table in manifest.tables.items()
        },
        "workers": len(checkpoint.workers),
        "created": manifest.created,
        "mpips-version": manifest.version,
    }
    return facts | ({"noted": manifest.facts} if verbose else {})


def _plain(value: Any) -> Any:
    """Return a NumPy value as one of Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _show(value: Any) -> str:
    """Return a fact as a person reads it."""
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:.6g}"
        case dict():
            return ", ".join(f"{name}: {_show(item)}" for name, item in value.items())
        case list():
            return ", ".join(_show(item) for item in value)
    return str(value)
