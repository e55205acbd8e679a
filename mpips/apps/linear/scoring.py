"""Score rows with a linear model: margins, log loss, AUC; the same bits in training and after.

A row's margin is summed in the order of its columns, whatever rows are around it; log loss and AUC
are of all rows at once, in the order of the file. So they do not depend on who scored which rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mpips.errors import DataError
from mpips.files.csr import CsrFile, CsrRows
from mpips.files.many import CsrFiles, open_data
from mpips.files.model import Model, check_key_space

Floats = npt.NDArray[np.float64]
Classes = tuple[float, float]

READ_ROWS = 16384


def margins(rows: CsrRows, w: Floats) -> Floats:
    """Return each row's product with the weights.

    Args:
        rows: rows in memory; all columns are below `len(w)`.
        w: float64 `(d,)`.

    Returns:
        float64 `(rows,)`.

    Cost: a pass over the nonzeros, reading `w` at random.
    """
    import scipy.sparse

    shape = (len(rows.indptr) - 1, len(w))
    matrix = scipy.sparse.csr_array((rows.data, rows.indices, rows.indptr), shape=shape)
    products: Floats = matrix @ w
    return products


def losses(margins: Floats, labels: Floats) -> Floats:
    """Return each row's log loss log(1 + exp(-label margin)), exact for margins of any size.

    Args:
        margins: float64 `(rows,)`.
        labels: float64 `(rows,)`, -1 or +1.
    """
    values: Floats = np.logaddexp(0.0, -labels * margins)
    return values


def logloss(margins: Floats, labels: Floats) -> float:
    """Return the mean log loss in nats; NaN for no rows. Arguments as for `losses`.

    >>> logloss(np.array([1e4, -1e4]), np.array([1.0, 1.0]))
    5000.0
    """
    return float(losses(margins, labels).mean()) if len(labels) else float("nan")


def auc(margins: Floats, labels: Floats) -> float | None:
    """Return the share of pairs, one row of each class, that are in order; ties count half.

    It is counted in integers, so that the order of rows does not matter to the last bit.

    Args:
        margins: float64 `(rows,)`, not NaN.
        labels: float64 `(rows,)`, -1 or +1.

    Returns:
        None if a class has no rows.

    >>> auc(np.array([0.0, 1.0, 1.0, 2.0]), np.array([-1.0, -1.0, 1.0, 1.0]))
    0.875
    """
    order = np.argsort(margins)
    ordered, is_positive = margins[order], labels[order] > 0
    # Count both classes up to the end of each group of equal margins.
    last = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True)[: len(ordered)])
    positives = np.cumsum(is_positive, dtype=np.int64)[last]
    negatives = last + 1 - positives
    if not len(last) or not positives[-1] or not negatives[-1]:
        return None
    # A positive row beats all negative ones of lower groups, and half of those of its own.
    own = np.diff(positives, prepend=0)
    twice = own * (negatives + np.concatenate([[0], negatives[:-1]]))
    return int(twice.sum()) / (2 * int(positives[-1]) * int(negatives[-1]))


def accuracy(margins: Floats, labels: Floats) -> float:
    """Return the share of rows on their label's side of 0; NaN for no rows.

    A margin of exactly 0 counts as negative.
    """
    right = (margins > 0) == (labels > 0)
    return float(right.mean()) if len(labels) else float("nan")


def probabilities(margins: Floats) -> Floats:
    """Return the probability of the positive class, 1 / (1 + exp(-margin)), without overflow."""
    small = np.exp(-np.abs(margins))
    values: Floats = np.where(margins >= 0, 1.0, small) / (1.0 + small)
    return values


def classes_of(data: CsrFile | CsrFiles, model: Model) -> Classes:
    """Return the negative and the positive label of a file: the model's, if all of its are these.

    So a file of one class, or of labels 1 and 2 that has no 2, is read as the training data was.

    Raises:
        DataError: the labels are not those of two classes.
    """
    values = data.label_values
    if len(values) and len(model.label_values) == 2 and np.isin(values, model.label_values).all():
        return model.label_values[0], model.label_values[1]
    return data.two_classes()


def score_blocks(
    data: CsrFile | CsrFiles, model: Model, begin: int, end: int, classes: Classes | None
) -> Iterator[tuple[Floats, Floats]]:
    """Yield margins and labels of the rows [begin, end), `READ_ROWS` at a time.

    Args:
        data: open data that fits the model.
        model: a linear model.
        begin: the first row.
        end: one past the last row.
        classes: the labels that come as -1 and +1; None: labels come as stored.

    Raises:
        DataError: the rows are damaged, or a margin is not finite; the row is named.
    """
    w = _weights(model)
    for low in range(begin, end, READ_ROWS):
        rows = data.read(low, min(low + READ_ROWS, end), classes=classes)
        products = margins(rows, w)
        finite = np.isfinite(products)
        if not finite.all():
            row = low + int(np.argmin(finite))
            raise DataError(f"{data.path} row {row:,}: the margin is {products[row - low]}")
        yield products, rows.labels


def score_file(
    path: str | Path, model: Model, begin: int = 0, end: int | None = None
) -> tuple[Floats, Floats]:
    """Return margins and labels of the rows [begin, end) of a file, end None being its last.

    Args:
        path: training data: a file or a folder of files.
        model: a linear model.
        begin: the first row.
        end: one past the last row.

    Returns:
        float64 `(end - begin,)` twice; labels as -1 and +1.

    Raises:
        MissingInputError, DataError: the file is not there, no data of two classes, or damaged, or
            of another key space than the model.
    """
    with open_data(path) as data:
        check_key_space(model, data)
        classes = classes_of(data, model)
        end = data.n_rows if end is None else end
        blocks = list(score_blocks(data, model, begin, end, classes))
    empty = np.zeros(0)
    return (
        np.concatenate([empty, *(products for products, _ in blocks)]),
        np.concatenate([empty, *(labels for _, labels in blocks)]),
    )


def _weights(model: Model) -> Floats:
    """Return the weights of a linear model, one for each column."""
    if model.kind != "linear" or model.weights is None:
        raise DataError(f"{model.path} is a model of kind {model.kind}, not linear")
    return model.weights
