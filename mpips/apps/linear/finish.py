"""The end of a run, the same for all linear solvers: test data scored, the model saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpips.apps.linear.types import Floats, Starts
from mpips.node.app import Job
from mpips.toml import to_toml

MODEL_FILE = "model.h5"


def score_rows(job: Job, weights: Floats, part: int, parts: int) -> dict[str, Floats]:
    """Return margins and labels of a share of the test data.

    Args:
        job: the job; its config names the data.
        weights: float64 `(features,)`, by original column.
        part: which share.
        parts: how many there are.

    Raises:
        MissingInputError, DataError: the data is not there, damaged, or of another key space.
    """
    # The scheduler needs neither SciPy nor HDF5.
    from mpips.apps.linear.scoring import score_file
    from mpips.files.many import open_data

    path = job.config.data.test
    with open_data(path) as data:
        begin, end = data.row_ranges(parts)[part]
    margins, labels = score_file(path, _model(job, weights, {}), begin, end)
    return {"margins": margins, "labels": labels}


def summarise_scores(parts: Sequence[Mapping[str, Floats]]) -> dict[str, float | None]:
    """Return `logloss` and `auc` of the logical workers' scores, whoever scored which rows."""
    from mpips.apps.linear.scoring import auc, logloss

    margins = np.concatenate([part["margins"] for part in parts])
    labels = np.concatenate([part["labels"] for part in parts])
    return {"logloss": logloss(margins, labels), "auc": auc(margins, labels)}


def write_weights(
    job: Job, weights: Floats, summary: Mapping[str, Any], permutation: Starts | None = None
) -> None:
    """Write the model to `model.h5` in the run folder.

    Args:
        job: the job, with the fact `folder`.
        weights: float64 `(features,)`, by original column.
        summary: the result so far, for `/stats`.
        permutation: int64 `(features,)`: the original column of each key; None: the same.

    Raises:
        DataError, OutputError, FileError: it cannot be written.
    """
    from mpips.files.model import write_model

    model = _model(job, weights, summary, permutation)
    write_model(Path(job.facts["folder"], MODEL_FILE), model)


def _model(
    job: Job, weights: Floats, summary: Mapping[str, Any], permutation: Starts | None = None
) -> Any:
    """Return the weights as a model, with all that the training data says about its columns."""
    import msgspec

    from mpips.files.many import open_data
    from mpips.files.model import Model

    facts = job.facts
    with open_data(job.config.data.train) as data:
        names = data.feature_names()
        attributes = data.attributes
    return Model(
        n_features=facts["features"],
        weights=weights,
        permutation=permutation,
        row_scaling=facts["row_scaling"],
        label_values=(facts["negative_label"], facts["positive_label"]),
        hash=str(attributes.get("hash", "none")),
        hash_bits=int(attributes.get("hash_bits", 0)),
        config=to_toml(job.config),
        stats=msgspec.json.encode(dict(summary)).decode(),
        names=names,
    )
