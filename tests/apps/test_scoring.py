"""Scores are those of the formulas, for margins of any size, and do not depend on the reading."""

from pathlib import Path

import numpy as np
import pytest

from mpips.apps.linear import scoring
from mpips.errors import DataError
from mpips.files.csr import CsrFile, CsrRows, CsrWriter
from mpips.files.model import Model


def write(path: Path, rng: np.random.Generator, rows: int, columns: int, labels: object) -> CsrRows:
    """Write random sparse rows with these labels, and return them as read."""
    dense = rng.normal(size=(rows, columns)) * (rng.random((rows, columns)) < 0.4)
    with CsrWriter(path, n_features=columns) as writer:
        writer.append(
            (dense != 0).sum(axis=1),
            np.nonzero(dense)[1],
            dense[dense != 0],
            np.broadcast_to(np.asarray(labels, float), rows),
        )
    with CsrFile(path) as data:
        return data.read(0, rows)


def test_margins_are_the_products_with_the_weights(
    rng: np.random.Generator, tmp_path: Path
) -> None:
    rows = write(tmp_path / "a.h5", rng, 50, 9, rng.integers(0, 2, 50))
    w = rng.normal(size=12)
    expected = [
        sum(rows.data[k] * w[rows.indices[k]] for k in range(*rows.indptr[i : i + 2]))
        for i in range(50)
    ]
    np.testing.assert_array_equal(scoring.margins(rows, w), expected)


def auc_by_pairs(labels: np.ndarray, margins: np.ndarray) -> float:
    """Return how often a positive row stands above a negative one, ties counted half."""
    above = margins[labels > 0][:, None] - margins[labels < 0][None, :]
    return float(np.mean(np.where(above > 0, 1.0, np.where(above < 0, 0.0, 0.5))))


def loss_by_formula(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the mean of -log of the probability of what was so."""
    return float(-np.log(np.where(labels > 0, probabilities, 1.0 - probabilities)).mean())


def test_measures_agree_with_their_definitions(rng: np.random.Generator) -> None:
    labels = rng.choice([-1.0, 1.0], 500)
    # Round, so that there are ties within and between the classes.
    margins = np.round(rng.normal(size=500) + 0.3 * labels, 1)
    assert len(set(margins)) < 100
    found = scoring.auc(margins, labels)
    assert found == pytest.approx(auc_by_pairs(labels, margins), rel=1e-14)
    probabilities = scoring.probabilities(margins)
    assert scoring.logloss(margins, labels) == pytest.approx(loss_by_formula(labels, probabilities))
    assert scoring.accuracy(margins, labels) == np.mean(np.where(margins > 0, 1, -1) == labels)


def test_auc_does_not_depend_on_the_order_of_rows(rng: np.random.Generator) -> None:
    labels, margins = rng.choice([-1.0, 1.0], 300), np.round(rng.normal(size=300), 1)
    order = rng.permutation(300)
    assert scoring.auc(margins, labels) == scoring.auc(margins[order], labels[order])


@pytest.mark.parametrize(("margins", "expected"), [
    ([0, 0, 0, 0], 0.5), ([1, 2, 3, 4], 1.0), ([4, 3, 2, 1], 0.0), ([1, 3, 3, 4], 0.875),
])  # fmt: skip
def test_auc_counts_ties_half(margins: list[float], expected: float) -> None:
    assert scoring.auc(np.array(margins, float), np.array([-1.0, -1, 1, 1])) == expected


@pytest.mark.parametrize("labels", [[], [1.0], [-1.0, -1.0]])
def test_auc_of_less_than_two_classes_is_none(labels: list[float]) -> None:
    assert scoring.auc(np.zeros(len(labels)), np.array(labels)) is None


def test_huge_margins_give_finite_losses_and_probabilities() -> None:
    margins, labels = np.array([1e300, -1e300, 800.0]), np.array([1.0, 1.0, -1.0])
    assert scoring.losses(margins, labels).tolist() == [0.0, 1e300, 800.0]
    assert scoring.probabilities(margins).tolist() == [1.0, 0.0, 1.0]
    # Nothing is lost where the loss is tiny.
    assert scoring.losses(np.array([40.0]), np.array([1.0]))[0] == np.exp(-40.0)


def test_no_rows_have_no_loss() -> None:
    assert np.isnan(scoring.logloss(np.zeros(0), np.zeros(0)))
    assert np.isnan(scoring.accuracy(np.zeros(0), np.zeros(0)))


def test_ranges_of_a_file_give_the_bits_of_the_whole(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    rows = write(path, rng, 40, 9, rng.integers(0, 2, 40))
    model = Model(n_features=9, weights=rng.normal(size=9))
    whole = scoring.score_file(path, model)
    assert (whole[1] == np.where(rows.labels > 0, 1, -1)).all()
    monkeypatch.setattr(scoring, "READ_ROWS", 7)
    parts = [scoring.score_file(path, model, *cut) for cut in ((0, 0), (0, 11), (11, 40))]
    for i in range(2):
        np.testing.assert_array_equal(np.concatenate([part[i] for part in parts]), whole[i])


@pytest.mark.parametrize(("stored", "trained", "expected"), [
    (1, (1.0, 2.0), -1.0), (1, (0.0, 1.0), 1.0), (2, (1.0, 2.0), 1.0), (1, (-1.0, 1.0), 1.0),
    (0, (-1.0, 1.0), -1.0), (1, (), 1.0),
])  # fmt: skip
def test_labels_of_one_class_mean_what_they_meant_in_training(
    stored: int, trained: tuple[float, ...], expected: float, rng: np.random.Generator,
    tmp_path: Path,
) -> None:  # fmt: skip
    write(tmp_path / "a.h5", rng, 5, 3, stored)
    model = Model(n_features=3, weights=np.ones(3), label_values=trained)
    assert set(scoring.score_file(tmp_path / "a.h5", model)[1]) == {expected}


def test_data_of_another_key_space_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", rng, 5, 4, 1)
    with pytest.raises(DataError, match="4 features, the model 3"):
        scoring.score_file(tmp_path / "a.h5", Model(n_features=3, weights=np.ones(3)))


def test_a_margin_that_overflows_names_its_row(tmp_path: Path) -> None:
    with CsrWriter(tmp_path / "a.h5", n_features=1) as writer:
        writer.append(np.array([1, 1]), np.array([0, 0]), np.array([1.0, 1e10]), np.ones(2))
    with pytest.raises(DataError, match="row 1: the margin is inf"):
        scoring.score_file(tmp_path / "a.h5", Model(n_features=1, weights=np.array([1e300])))


def test_a_model_of_another_kind_is_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    write(tmp_path / "a.h5", rng, 5, 3, 1)
    with pytest.raises(DataError, match="kind lda, not linear"):
        scoring.score_file(tmp_path / "a.h5", Model(n_features=3, weights=np.ones(3), kind="lda"))
