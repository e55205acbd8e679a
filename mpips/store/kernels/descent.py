"""Gradient steps: plain, with momentum, three adaptive ones, and one inside a trust region."""

import math

import numpy as np

from mpips.compiler import njit
from mpips.store.kernels.signatures import apply_signatures, compiled
from mpips.store.update import Slots
from mpips.wire.types import ValueArray


@njit(inline="always")
def _shrink(x: float, by: float) -> float:
    """Return x moved towards 0 by as much, and no further than 0."""
    if abs(x) <= by:
        return 0.0
    return x - math.copysign(by, x)


@compiled(*apply_signatures(2))
def sgd(
    rows: ValueArray, slots: Slots, first: int, values: ValueArray, lr: float, l2: float
) -> None:
    """Take a gradient step; a row is w."""
    for i in range(values.shape[0]):
        r = slots[i] if len(slots) else first + i
        for c in range(values.shape[1]):
            w = np.float64(rows[r, c])
            rows[r, c] = w - lr * (np.float64(values[i, c]) + l2 * w)


@compiled(*apply_signatures(3))
def momentum(
    rows: ValueArray,
    slots: Slots,
    first: int,
    values: ValueArray,
    lr: float,
    l2: float,
    keep: float,
) -> None:
    """Take a gradient step with momentum; a row is w, v."""
    width = values.shape[1]
    for i in range(values.shape[0]):
        r = slots[i] if len(slots) else first + i
        for c in range(width):
            w = np.float64(rows[r, c])
            v = keep * np.float64(rows[r, width + c]) + (np.float64(values[i, c]) + l2 * w)
            rows[r, width + c] = v
            rows[r, c] = w - lr * v


@compiled(*apply_signatures(3))
def adagrad(
    rows: ValueArray,
    slots: Slots,
    first: int,
    values: ValueArray,
    lr: float,
    beta: float,
    l1: float,
) -> None:
    """Take an adaptive step and the proximal step of l1; a row is w, n."""
    width = values.shape[1]
    for i in range(values.shape[0]):
        r = slots[i] if len(slots) else first + i
        for c in range(width):
            g = np.float64(values[i, c])
            if g == 0.0:
                continue
            n = np.float64(rows[r, width + c]) + g * g
            step = lr / (beta + math.sqrt(n))
            rows[r, width + c] = n
            rows[r, c] = _shrink(np.float64(rows[r, c]) - step * g, step * l1)


@compiled(*apply_signatures(3))
def adarevision(
    rows: ValueArray,
    slots: Slots,
    first: int,
    values: ValueArray,
    lr: float,
    beta: float,
    l1: float,
) -> None:
    """Take AdaGrad's step, and revise those that came in between; a row is w, sum, z, top."""
    width = values.shape[1] // 2
    for i in range(values.shape[0]):
        r = slots[i] if len(slots) else first + i
        for c in range(width):
            g = np.float64(values[i, c])
            if g == 0.0:
                continue
            total = np.float64(rows[r, width + c])
            top = np.float64(rows[r, 3 * width + c])
            # What others have pushed since the weight was read that g was computed with.
            missed = total - np.float64(values[i, width + c])
            z = np.float64(rows[r, 2 * width + c]) + (g * g + 2.0 * g * missed)
            before = lr / (beta + math.sqrt(top))
            top = max(z, top)
            step = lr / (beta + math.sqrt(top))
            w = np.float64(rows[r, c]) - step * g + (before - step) * missed
            rows[r, c] = _shrink(w, step * l1)
            rows[r, width + c] = total + g
            rows[r, 2 * width + c] = z
            rows[r, 3 * width + c] = top


@compiled(*apply_signatures(3))
def proximal(
    rows: ValueArray,
    slots: Slots,
    first: int,
    values: ValueArray,
    lr: float,
    l1: float,
    delta_max: float,
) -> None:
    """Minimise the model g d + u d^2 / 2 lr + l1 |w + d| over |d| <= delta; a row is w, delta."""
    width = values.shape[1] // 2
    for i in range(values.shape[0]):
        r = slots[i] if len(slots) else first + i
        for c in range(width):
            g = np.float64(values[i, c])
            u = np.float64(values[i, width + c]) / lr + 1e-10
            w = np.float64(rows[r, c])
            delta = np.float64(rows[r, width + c])
            if g + l1 <= u * w:
                d = -(g + l1) / u
            elif g - l1 >= u * w:
                d = -(g - l1) / u
            else:
                d = -w
            d = min(max(d, -delta), delta)
            rows[r, c] = w + d
            rows[r, width + c] = min(delta_max, 2.0 * abs(d) + 0.1)


@compiled(*apply_signatures(4))
def adam(
    rows: ValueArray,
    slots: Slots,
    first: int,
    values: ValueArray,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> None:
    """Take a step along the mean over the deviation of gradients; a row is w, m, v, and one t."""
    width = values.shape[1]
    for i in range(values.shape[0]):
        r = slots[i] if len(slots) else first + i
        t = np.float64(rows[r, 3 * width]) + 1.0
        rows[r, 3 * width] = t
        correct1 = 1.0 - beta1**t
        correct2 = 1.0 - beta2**t
        for c in range(width):
            g = np.float64(values[i, c])
            m = beta1 * np.float64(rows[r, width + c]) + (1.0 - beta1) * g
            v = beta2 * np.float64(rows[r, 2 * width + c]) + (1.0 - beta2) * (g * g)
            rows[r, width + c] = m
            rows[r, 2 * width + c] = v
            step = lr * (m / correct1) / (math.sqrt(v / correct2) + eps)
            rows[r, c] = np.float64(rows[r, c]) - step
