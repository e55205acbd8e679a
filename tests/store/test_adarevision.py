"""The delay-adaptive AdaGrad: AdaGrad itself without delays, and much better with long ones."""

from collections import deque
from functools import cache
from typing import Any

import numpy as np
import pytest

from mpips.store.table import make_store
from mpips.store.update import Update
from mpips.store.updates import find_update
from mpips.wire.types import Table

NO_SLOTS = np.empty(0, np.int64)
Array = np.ndarray[Any, Any]


def push(update: Update, rows: Array, gradient: Array, pulled: Array) -> None:
    """Push a gradient to all rows, computed with what was pulled."""
    width = update.width
    values = gradient if update.push_width == width else np.hstack([gradient, pulled[:, width:]])
    update.apply(rows, NO_SLOTS, 0, np.ascontiguousarray(values, rows.dtype))


def pull(update: Update, rows: Array) -> Array:
    """Return what a pull of all rows gives."""
    out = np.empty((len(rows), update.pull_width), rows.dtype)
    update.read(rows, NO_SLOTS, 0, out)
    return out


@cache
def problems(steps: int, count: int = 8, columns: int = 30) -> tuple[Array, Array]:
    """Return rows of 0/1 features, few of them frequent, and labels by as many logistic models."""
    rng = np.random.default_rng(7)
    shares = 1.0 / np.arange(1, columns + 1) ** 1.2
    x = (rng.random((steps, count, columns)) < shares) * 1.0
    models = rng.normal(size=(count, columns)) * 1.5
    chance = 1 / (1 + np.exp(-(x * models).sum(axis=2)))
    return x, np.where(rng.random((steps, count)) < chance, 1.0, -1.0)


def progressive_loss(name: str, lr: float, delay: int, steps: int) -> float:
    """Return the mean loss of rows not learnt yet, each gradient applied `delay` updates late."""
    x, y = problems(steps)
    update = find_update(name, {"lr": lr}, 1)
    # The problems have nothing to do with each other; their weights lie one after the other.
    rows = np.zeros((x[0].size, update.columns))
    late: deque[tuple[Array, Array]] = deque()
    loss = 0.0
    for features, labels in zip(x, y, strict=True):
        pulled = pull(update, rows)
        weights = pulled[:, 0].reshape(features.shape)
        agreement = labels * (features * weights).sum(axis=1)
        loss += np.logaddexp(0.0, -agreement).mean()
        slopes = -labels * np.exp(-np.logaddexp(0.0, agreement))
        late.append(((slopes[:, None] * features).reshape(-1, 1), pulled))
        if len(late) > delay:
            push(update, rows, *late.popleft())
    return loss / steps


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("l1", [0.0, 0.1])
def test_without_delay_it_is_adagrad_to_the_last_bit(l1: float, dtype: str) -> None:
    rng = np.random.default_rng(1)
    settings = {"lr": 0.3, "beta": 0.7, "l1": l1}
    plain, revised = (find_update(name, settings, 2) for name in ("adagrad", "adarevision"))
    one, other = (np.zeros((40, u.columns), dtype) for u in (plain, revised))
    for _ in range(50):
        gradient = rng.normal(size=(40, 2)) * (rng.random((40, 2)) < 0.7)
        push(plain, one, gradient, pull(plain, one))
        push(revised, other, gradient, pull(revised, other))
        np.testing.assert_array_equal(one[:, :2], other[:, :2])
    np.testing.assert_array_equal(one[:, 2:], other[:, 6:])
    assert (one[:, :2] != 0).any()


def test_it_makes_up_for_steps_that_were_taken_too_long() -> None:
    # Three equal gradients, computed at the start, come one after the other.
    update = find_update("adarevision", {"lr": 1.0, "beta": 1.0}, 1)
    rows = np.zeros((1, 4))
    start = pull(update, rows)
    for _ in range(3):
        push(update, rows, np.full((1, 1), 2.0), start)
    # As if their sum had come at once: (2 + 2 + 2)^2 under the root, and one step for all.
    np.testing.assert_allclose(rows, [[-6.0 / (1.0 + 6.0), 6.0, 36.0, 36.0]], rtol=1e-14)


def test_a_step_never_grows_again_when_late_gradients_disagree() -> None:
    update = find_update("adarevision", {"lr": 1.0, "beta": 1.0}, 1)
    rows = np.zeros((1, 4))
    start = pull(update, rows)
    push(update, rows, np.full((1, 1), 2.0), start)
    push(update, rows, np.full((1, 1), -1.0), start)
    # z falls to (2 - 1)^2, the length of a step stays at what 2^2 has made it.
    np.testing.assert_allclose(rows[0, 1:], [1.0, 1.0, 4.0])
    assert rows[0, 0] == pytest.approx(-2.0 / 3.0 + 1.0 / 3.0)


@pytest.mark.parametrize("name", ["adagrad", "adarevision"])
def test_a_gradient_of_zero_leaves_the_key_alone(name: str) -> None:
    update = find_update(name, {"lr": 1.0, "l1": 0.1}, 1)
    rows = np.zeros((2, update.columns))
    push(update, rows, np.array([[1.0], [-1.0]]), pull(update, rows))
    before = rows.copy()
    assert (before[:, 0] != 0).all()
    push(update, rows, np.array([[0.0], [1.0]]), np.zeros((2, update.pull_width)))
    assert rows[0].tobytes() == before[0].tobytes()
    assert rows[1, 0] != before[1, 0]


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_stores_give_weights_and_sums_side_by_side(kind: str) -> None:
    size = 2**64 if kind == "sparse" else 100
    store = make_store(Table(name="w", kind=kind, size=size, segments=2, update="adarevision"))
    store.hold(0)
    store.update_keys(np.array([3, 5], np.uint64), np.array([[2.0, 0.0], [-1.0, 0.0]]))
    out = np.empty((3, 2))
    store.read_keys(np.array([3, 4, 5], np.uint64), out)
    np.testing.assert_allclose(out, [[-0.02 / 3, 2.0], [0.0, 0.0], [0.01 / 2, -1.0]])


@pytest.mark.slow
def test_with_a_delay_of_1000_it_beats_adagrad_at_any_step_length() -> None:
    """With one step for all keys, AdaGrad is too long for frequent ones or too short for rare ones.

    Source: McMahan and Streeter, NIPS 2014: it pays off at delays of about 1000.
    """
    lengths = [0.03, 0.1, 0.3, 1.0]
    prompt = {lr: progressive_loss("adagrad", lr, 0, 8000) for lr in lengths}
    plain = {lr: progressive_loss("adagrad", lr, 1000, 8000) for lr in lengths}
    revised = {lr: progressive_loss("adarevision", lr, 1000, 8000) for lr in lengths}
    print(f"\nno delay {prompt}\nAdaGrad {plain}\nrevised {revised}")
    # The best of all lengths is better.
    assert min(revised.values()) < 0.98 * min(plain.values())
    # Where delays are unknown one takes what is best without: there AdaGrad is of no use.
    best = min(prompt, key=lambda lr: prompt[lr])
    assert revised[best] < min(plain.values()) < np.log(2) < plain[best]
    # Without delay nothing is lost.
    assert progressive_loss("adarevision", best, 0, 8000) == prompt[best]
