"""The kernels of the block solvers compute what their formulas say."""

import numpy as np
import pytest

from mpips.apps.linear.kernels import newton
from mpips.apps.linear.shard import Shard
from mpips.apps.linear.update import BlockNewton, make_push
from mpips.files.csr import CsrRows
from tests.apps.linear_problems import Floats, make_labels, make_matrix


def make_shard(seed: int = 0, n: int = 80, d: int = 30) -> tuple[Shard, Floats]:
    """Return a shard, and Z as a dense matrix."""
    matrix = make_matrix(seed, n, d)
    labels = make_labels(seed, matrix)
    rows = CsrRows(matrix.indptr.astype(np.int64), matrix.indices, matrix.data, labels)
    return Shard(rows, d), matrix.toarray() * labels[:, None]


def losses(margins: Floats) -> float:
    """Return the sum of the logistic losses."""
    return float(np.logaddexp(0, -margins).sum())


def make_model(rng: np.random.Generator, n: int) -> tuple[Floats, Floats, Floats, Floats]:
    """Return w, g, h and trust of a random block model, some of it degenerate."""
    a = rng.normal(size=(max(1, n // 2 + rng.integers(n)), n)) * np.exp(rng.normal(size=n))
    h = a.T @ a
    w, g = rng.normal(size=n) * (rng.random(n) < 0.5), rng.normal(size=n) * 3
    if n > 3:
        h[1], h[:, 1] = 0.0, 0.0
    return w, g, np.ascontiguousarray(h), rng.random(n) * 2


def value(d: Floats, w: Floats, g: Floats, h: Floats, l1: float) -> float:
    """Return the model at a step."""
    return float(g @ d + d @ h @ d / 2 + l1 * np.abs(w + d).sum())


def test_loss_gradient_and_scales_are_those_of_numpy() -> None:
    shard, z = make_shard()
    w = np.random.default_rng(1).normal(size=z.shape[1])
    shard.margins[:] = z @ w
    assert shard.loss() == pytest.approx(losses(z @ w), rel=1e-14)
    np.testing.assert_allclose(shard.gradient(), -z.T @ (1 / (1 + np.exp(z @ w))), atol=1e-12)
    np.testing.assert_array_equal(shard.scales(), np.abs(z).max(axis=0))


def test_loss_is_exact_where_margins_are_huge() -> None:
    shard, _ = make_shard(n=3)
    shard.margins[:] = [-1e4, 1e4, 0.0]
    assert shard.loss() == 1e4 + np.log(2)
    assert shard.dual(1.0) == pytest.approx(np.log(2))


def test_dual_at_the_scaled_point_is_below_every_objective() -> None:
    shard, z = make_shard(3)
    rng = np.random.default_rng(3)
    l1 = 2.0
    values = [losses(z @ w) + l1 * np.abs(w).sum() for w in rng.normal(0, 0.3, (50, z.shape[1]))]
    for w in rng.normal(0, 0.3, (20, z.shape[1])):
        shard.margins[:] = z @ w
        shard.loss()
        scale = min(1.0, l1 / np.abs(shard.gradient()).max())
        assert 0.0 < shard.dual(scale) <= min(values)


def test_packed_block_is_the_columns_of_the_shard() -> None:
    shard, z = make_shard(4)
    keys = np.array([0, 3, 4, 17, 29])
    block = shard.pack(keys)
    step, margins = np.arange(1.0, 6.0), np.zeros(len(z))
    block.advance(step, margins)
    np.testing.assert_allclose(margins, z[:, keys] @ step, rtol=1e-13)
    # The scratch is clean again.
    again = np.zeros(len(z))
    shard.pack(keys).advance(step, again)
    np.testing.assert_array_equal(margins, again)


def test_block_model_has_the_gradient_and_at_no_radius_the_hessian() -> None:
    shard, z = make_shard(5)
    keys = np.arange(2, 20)
    shard.margins[:] = z @ np.random.default_rng(5).normal(size=z.shape[1])
    g, h = shard.pack(keys).model(shard.margins, np.zeros(len(keys)))
    p = 1 / (1 + np.exp(shard.margins))
    part = z[:, keys]
    np.testing.assert_allclose(g, -part.T @ p, atol=1e-12)
    np.testing.assert_allclose(np.tril(h), np.tril(part.T @ (part * (p * (1 - p))[:, None])),
                               atol=1e-12)


@pytest.mark.parametrize("radius", [1e-4, 0.1, 1.0, 5.0, 100.0])
def test_block_model_lies_above_the_loss_in_the_whole_box(radius: float) -> None:
    shard, z = make_shard(6)
    keys = np.arange(0, 30, 2)
    rng = np.random.default_rng(6)
    for size in (0.1, 3.0, 30.0):
        shard.margins[:] = z @ (size * rng.normal(size=z.shape[1]))
        g, h = shard.pack(keys).model(shard.margins, np.full(len(keys), radius))
        h = np.tril(h) + np.tril(h, -1).T
        now = losses(shard.margins)
        for _ in range(30):
            # Corners of the box are the worst, or those of a part of it.
            d = radius * np.sign(rng.normal(size=len(keys))) * rng.choice([0.003, 0.3, 1.0])
            then = losses(shard.margins + z[:, keys] @ d)
            assert then <= now + g @ d + d @ h @ d / 2 + 1e-10 * (now + 1)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, newton.TILE, 2 * newton.TILE + 1])
def test_half_of_a_symmetric_matrix_is_enough(n: int) -> None:
    h = np.random.default_rng(n).normal(size=(n, n))
    pushed = make_push(np.ones(n), np.ones(n), h, block=max(n, 9))
    back = np.full((n, n), np.nan)
    newton.unfold(pushed, back)
    np.testing.assert_array_equal(back, np.tril(h) + np.tril(h, -1).T)
    # Each pair travels once: sums of two workers' pushes are those of their matrices.
    assert np.count_nonzero(pushed[:, newton.HEAD :]) == n * (n + 1) // 2


def test_cholesky_solves_as_numpy_does() -> None:
    rng = np.random.default_rng(7)
    a = rng.normal(size=(40, 20))
    h, right, free = a.T @ a, rng.normal(size=12), np.sort(rng.permutation(20)[:12])
    found = newton.solve(free, right, h)
    np.testing.assert_allclose(found, np.linalg.solve(h[np.ix_(free, free)], right), rtol=1e-7)


@pytest.mark.parametrize("seed", range(12))
def test_minimum_of_a_block_model_is_that_of_a_plain_descent(seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 12))
    w, g, h, trust = make_model(rng, n)
    l1 = float(rng.choice([0.0, 0.3, 2.0]))
    d = newton.minimise(w, g, h, l1, trust)
    assert (np.abs(d) <= trust).all()
    now, least = (value(e, w, g, h, l1) for e in (np.zeros(n), descend(w, g, h, l1, trust)))
    # A block is solved to a part of its own progress.
    assert value(d, w, g, h, l1) <= least + 1e-3 * (now - least) + 1e-12 * abs(now)


def descend(w: Floats, g: Floats, h: Floats, l1: float, trust: Floats) -> Floats:
    """Return the minimum of a block model in its box, by very many coordinate steps."""
    d = np.zeros(len(w))
    for j in list(range(len(w))) * 400:
        # Try the box, the kink, and the minimum on either side of it.
        slope = g[j] + h[j] @ d - h[j, j] * d[j]
        places = [-trust[j], trust[j], -w[j], *(
            -(slope + sign * l1) / h[j, j] for sign in (-1, 1) if h[j, j] > 0)]
        inside = [x for x in places if abs(x) <= trust[j]]
        d[j] = min(inside, key=lambda x: slope * x + h[j, j] * x * x / 2 + l1 * abs(w[j] + x))
    return d


def test_server_moves_a_block_and_returns_weight_radius_and_gradient() -> None:
    rng = np.random.default_rng(8)
    n = 6
    w, g, h, trust = make_model(rng, n)
    update = BlockNewton(1, {"l1": 0.5, "block": 8})
    rows = np.zeros((10, update.columns))
    rows[2:8, 0] = w
    update.apply(rows, np.empty(0, np.int64), 2, make_push(trust, g, h, 8))
    d = newton.minimise(w, g, h, 0.5, trust)
    out = np.empty((n, update.pull_width))
    update.read(rows, np.arange(2, 8), 0, out)
    np.testing.assert_array_equal(out[:, 0], w + d)
    np.testing.assert_array_equal(out[:, 1], np.maximum(2 * np.abs(d), trust / 4))
    np.testing.assert_array_equal(out[:, 2], g)
    assert not rows[[0, 1, 8, 9]].any()


def test_shard_permutes_columns() -> None:
    matrix = make_matrix(9, 20, 8)
    labels = make_labels(9, matrix)
    rows = CsrRows(matrix.indptr.astype(np.int64), matrix.indices, matrix.data, labels)
    position = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    plain, permuted = Shard(rows, 8), Shard(rows, 8, position)
    plain.loss()
    permuted.loss()
    np.testing.assert_allclose(permuted.gradient()[position], plain.gradient(), rtol=1e-13)
