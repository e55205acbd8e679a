#!/usr/bin/env python3
"""Compute the optimum of L1 logistic regression on the sample, to measure mpips against.

    F(w) = sum_i log(1 + exp(-y_i x_i.w)) + lambda |w|_1

over the training rows, y in {-1, +1}, no intercept, float64, rows scaled to length 1. liblinear in
scikit-learn comes close, Newton steps on the weights that are not zero go on to the limits of
float64, and a duality gap that trusts neither says how far F can still be from its minimum. The
result goes to reference.toml beside this script. It needs NumPy, SciPy, h5py and scikit-learn, but
not mpips.
"""

import argparse
import hashlib
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.sparse
from scipy.special import entr, expit
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression

Vector = npt.NDArray[np.float64]

LAMBDAS = (10.0, 3.0, 1.0)
FILES = ("debian-train.h5", "debian-test.h5")
LIBLINEAR_TOLERANCE = 1e-8
GAP_WANTED = 1e-8  # Relative; reached with room to spare, so a larger gap is a fault.
STEPS_MAX = 50
HALVINGS_MAX = 30


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows `x` (CSR, float64, unit length), the same times their labels `yx`, and `y` (+-1)."""

    x: scipy.sparse.csr_array
    yx: scipy.sparse.csr_array
    y: Vector


@dataclass(frozen=True, slots=True)
class Point:
    """What is known at weights `w`: objective, gradient of the loss, P(wrong) of rows, gap."""

    w: Vector
    objective: float
    gradient: Vector
    wrong: Vector
    gap: float


def read_sample(path: Path) -> Sample:
    """Read a data file of mpips whole and scale its rows to unit length."""
    with h5py.File(path) as file:
        group = file["X"]
        counts = group["data"][:].astype(np.float64)
        indices, indptr = group["indices"][:], group["indptr"][:].astype(np.int32)
        shape = tuple(int(size) for size in group.attrs["shape"])
        y = np.where(file["obs/label"][:] == 1, 1.0, -1.0)

    # No row is empty, so the sums over rows are those between the row pointers.
    entries = np.diff(indptr)
    lengths = np.sqrt(np.add.reduceat(counts**2, indptr[:-1]))
    scaled = counts / np.repeat(lengths, entries)
    x = scipy.sparse.csr_array((scaled, indices, indptr), shape=shape)
    yx = scipy.sparse.csr_array((scaled * np.repeat(y, entries), indices, indptr), shape=shape)
    return Sample(x, yx, y)


def look_at(sample: Sample, w: Vector, lam: float) -> Point:
    """Evaluate objective, gradient and duality gap at `w`.

    The dual is max sum_i H(a_i) over |sum_i a_i y_i x_i|_inf <= lambda, where H is the entropy of a
    coin, in nats. At the optimum a_i = P(row i is wrong); elsewhere these are shrunk until allowed.
    """
    margins = sample.yx @ w
    wrong = expit(-margins)
    gradient = -(sample.yx.T @ wrong)
    objective = float(np.logaddexp(0.0, -margins).sum() + lam * np.abs(w).sum())
    dual = wrong * min(1.0, lam / np.abs(gradient).max())
    gap = objective - float((entr(dual) + entr(1.0 - dual)).sum())
    return Point(w, objective, gradient, wrong, gap)


def run_liblinear(sample: Sample, lam: float) -> Vector:
    """Return liblinear's weights, where C = 1 / lambda makes its objective ours over lambda."""
    solver = LogisticRegression(
        solver="liblinear",
        l1_ratio=1.0,
        C=1.0 / lam,
        fit_intercept=False,
        tol=LIBLINEAR_TOLERANCE,
        max_iter=10_000,
        random_state=0,
    )
    weights: Vector = solver.fit(sample.x, sample.y).coef_.ravel().astype(np.float64)
    return weights


def step(sample: Sample, point: Point, lam: float) -> Point:
    """Take one Newton step within the orthant of the weights' signs, halved until F falls."""
    # Move what is not zero, and what the gradient pulls away from zero.
    active = np.flatnonzero((point.w != 0.0) | (np.abs(point.gradient) > lam))
    signs = np.where(
        point.w[active] != 0.0, np.sign(point.w[active]), -np.sign(point.gradient[active])
    )
    columns = sample.x[:, active]
    curved = scipy.sparse.diags_array(point.wrong * (1.0 - point.wrong)) @ columns
    hessian = (columns.T @ curved).toarray()

    # A ridge far below any curvature keeps words that always stand together from being singular.
    hessian[np.diag_indices_from(hessian)] += 1e-12 * np.trace(hessian) / len(active)
    slope = point.gradient[active] + lam * signs
    direction = -scipy.linalg.solve(hessian, slope, assume_a="pos")

    # A weight that would change its sign stops at zero.
    for halving in range(HALVINGS_MAX):
        moved = point.w[active] + direction * 0.5**halving
        w = point.w.copy()
        w[active] = np.where(moved * signs > 0.0, moved, 0.0)
        after = look_at(sample, w, lam)
        if after.objective < point.objective:
            return after
    return point


def polish(sample: Sample, w: Vector, lam: float) -> Point:
    """Repeat Newton steps until F no longer falls, and return the point of the smallest gap."""
    point = best = look_at(sample, w, lam)
    for _ in range(STEPS_MAX):
        after = step(sample, point, lam)
        best = min(best, after, key=lambda seen: seen.gap)
        if after is point:
            break
        point = after
    return best


def measure(sample: Sample, w: Vector) -> tuple[float, float]:
    """Return the mean log loss and the area under the ROC curve, ties counting half."""
    loss = float(np.logaddexp(0.0, -(sample.yx @ w)).mean())
    ranks = rankdata(sample.x @ w)
    positive = sample.y > 0
    count = int(positive.sum())
    wins = float(ranks[positive].sum()) - count * (count + 1) / 2
    return loss, wins / (count * (len(ranks) - count))


def solve(train: Sample, test: Sample, lam: float) -> list[str]:
    """Solve for one lambda and return its lines of TOML; raises ValueError on a gap too large."""
    start = time.process_time()
    rough = look_at(train, run_liblinear(train, lam), lam)
    seconds = time.process_time() - start
    point = polish(train, rough.w, lam)
    print(
        f"lambda {lam:g}: liblinear {rough.objective:.9f}, gap {rough.gap:.2e}, {seconds:.1f} s; "
        f"polished {point.objective:.9f}, gap {point.gap:.2e}, "
        f"{time.process_time() - start - seconds:.1f} s",
        file=sys.stderr,
    )
    if not point.gap <= GAP_WANTED * point.objective:
        raise ValueError(f"lambda {lam:g}: the gap of {point.gap:.2e} is too large for a reference")
    logloss, auc = measure(test, point.w)
    return [
        "",
        "[[optimum]]",
        f"lambda = {lam}",
        f"f_star = {point.objective:.9f}",
        f"duality_gap = {max(point.gap, 0.0):.1e}",
        f"liblinear_f = {rough.objective:.9f}",
        f"liblinear_gap = {rough.gap:.1e}",
        f"nonzeros = {np.count_nonzero(point.w)}",
        f"test_logloss = {logloss:.8f}",
        f"test_auc = {auc:.8f}",
    ]


def main() -> None:
    """Solve for all lambdas and write reference.toml."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.parse_args()
    folder = Path(__file__).parent
    train, test = (read_sample(folder / name) for name in FILES)
    packages = ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "scikit-learn"))
    lines = [
        "# Optima of L1 logistic regression on the sample; reference.py says what is minimised.",
        "# Made by: python data/reference.py",
        f"# With: {packages}",
        "",
        f"lambda_max = {np.abs(train.yx.sum(axis=0)).max() / 2:.9f}",
        "",
        "[sha256]",
        *(
            f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"'
            for name in FILES
        ),
    ]
    for lam in LAMBDAS:
        lines += solve(train, test, lam)
    (folder / "reference.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
