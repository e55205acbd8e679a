"""Update functions against plain NumPy formulas."""

import msgspec
import numpy as np
import pytest

from mpips.errors import AppError, ConfigError
from mpips.store.table import make_store
from mpips.store.updates import BUILT_IN, UserUpdate, find_update
from mpips.wire.types import Table

NO_SLOTS = np.empty(0, np.int64)

CASES = {
    "add": {},
    "assign": {},
    "max": {"initial": -0.5},
    "sgd": {"lr": 0.3, "l2": 0.25},
    "sgd momentum": {"lr": 0.3, "l2": 0.25, "momentum": 0.75},
    "adagrad": {"lr": 0.5, "beta": 0.125, "l1": 0.2},
    "adarevision": {"lr": 0.5, "beta": 0.125, "l1": 0.2},
    "adam": {"lr": 0.1, "beta1": 0.8, "beta2": 0.95, "eps": 0.01},
    "ftrl": {"alpha": 0.7, "beta": 0.9, "l1": 0.4, "l2": 0.3},
    "proximal": {"l1": 0.5, "lr": 0.8, "delta": 0.6, "delta_max": 1.5},
}


def shrink(x, by):
    return np.sign(x) * np.maximum(np.abs(x) - by, 0.0)


def add(s, g):
    return {"sum": s["sum"] + g}


def assign(s, g):
    return {"value": g}


def maximum(s, g, initial):
    return {"max": np.maximum(s["max"], g)}


def sgd(s, g, lr, l2):
    return {"w": s["w"] - lr * (g + l2 * s["w"])}


def sgd_momentum(s, g, lr, l2, momentum):
    v = momentum * s["v"] + (g + l2 * s["w"])
    return {"w": s["w"] - lr * v, "v": v}


def adagrad(s, g, lr, beta, l1):
    n = s["n"] + g * g
    step = lr / (beta + np.sqrt(n))
    return {"w": np.where(g == 0, s["w"], shrink(s["w"] - step * g, step * l1)), "n": n}


def adarevision(s, pushed, lr, beta, l1):
    g, known = np.split(pushed, 2, axis=1)
    b = s["sum"] - known
    # What is in brackets may cancel, so that its order matters.
    z = s["z"] + (g * g + 2 * g * b)
    top = np.maximum(z, s["top"])
    before, step = lr / (beta + np.sqrt(s["top"])), lr / (beta + np.sqrt(top))
    w = shrink(s["w"] - step * g + (before - step) * b, step * l1)
    new = {"w": w, "sum": s["sum"] + g, "z": z, "top": top}
    return {name: np.where(g == 0, s[name], column) for name, column in new.items()}


def adam(s, g, lr, beta1, beta2, eps):
    t = s["t"] + 1
    m = beta1 * s["m"] + (1 - beta1) * g
    v = beta2 * s["v"] + (1 - beta2) * (g * g)
    step = lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return {"w": s["w"] - step, "m": m, "v": v, "t": t}


def ftrl_weight(z, n, alpha, beta, l1, l2):
    return np.where(np.abs(z) <= l1, 0.0, -shrink(z, l1) / ((beta + np.sqrt(n)) / alpha + l2))


def ftrl(s, g, alpha, beta, l1, l2):
    z, n = s["z"], s["n"]
    sigma = (np.sqrt(n + g * g) - np.sqrt(n)) / alpha
    return {"z": z + g - sigma * ftrl_weight(z, n, alpha, beta, l1, l2), "n": n + g * g}


def proximal(s, gu, l1, lr, delta, delta_max):
    width = gu.shape[1] // 2
    g, u = gu[:, :width], gu[:, width:] / lr + 1e-10
    w, d_max = s["w"], s["delta"]
    d = np.where(g + l1 <= u * w, -(g + l1) / u, np.where(g - l1 >= u * w, -(g - l1) / u, -w))
    d = np.clip(d, -d_max, d_max)
    return {"w": w + d, "delta": np.minimum(delta_max, 2 * np.abs(d) + 0.1)}


FORMULAS = {
    "add": add,
    "assign": assign,
    "max": maximum,
    "sgd": sgd,
    "sgd momentum": sgd_momentum,
    "adagrad": adagrad,
    "adarevision": adarevision,
    "adam": adam,
    "ftrl": ftrl,
    "proximal": proximal,
}


def make(case, width):
    return find_update(case.split()[0], CASES[case], width)


def start(update, count, dtype):
    rows = np.empty((count, update.columns), dtype)
    rows[:] = update.initial_row(dtype)
    return rows


def pushes(update, count, dtype, seed, messages=6):
    """Return values of some messages, with zeros among them; second derivatives are positive."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((messages, count, update.push_width))
    values[rng.random(values.shape) < 0.1] = 0.0
    if update.push_width > update.width:
        values[:, :, update.width :] = np.abs(values[:, :, update.width :])
    return values.astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_update_is_its_formula_in_float64_rounded_to_the_state(case, width, dtype):
    update = make(case, width)
    rows = start(update, 50, dtype)
    for values in pushes(update, 50, dtype, seed=1):
        # What the formula gives, from the same state.
        ends = np.cumsum([field.width for field in update.fields])
        names = [field.name for field in update.fields]
        parts = np.split(rows.astype(np.float64), ends[:-1], axis=1)
        new = FORMULAS[case](
            dict(zip(names, parts, strict=True)), values.astype(np.float64), **CASES[case]
        )
        expected = np.concatenate([new[name] for name in names], axis=1).astype(dtype)
        update.apply(rows, NO_SLOTS, 0, values)
        # Powers near 1 are taken from 1 in Adam, which magnifies their last bit.
        np.testing.assert_array_max_ulp(rows, expected, maxulp=64 if case == "adam" else 4)

    # A pull gives the first fields, or FTRL's weights.
    out = np.empty((50, update.pull_width), dtype)
    update.read(rows, NO_SLOTS, 0, out)
    expected = rows[:, : update.pull_width]
    if case == "ftrl":
        wide = rows.astype(np.float64)
        expected = ftrl_weight(wide[:, :width], wide[:, width:], **CASES[case]).astype(dtype)
        assert (out == 0).any()
    np.testing.assert_array_max_ulp(out, expected, maxulp=4)
    assert (out != 0).any()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("case", CASES)
def test_slots_range_and_pieces_give_the_same_bits(case, width, dtype):
    update = make(case, width)
    count = 41
    by_range, by_slots, by_pieces = (start(update, count + 5, dtype) for _ in range(3))
    order = np.random.default_rng(2).permutation(count)
    for values in pushes(update, count, dtype, seed=3):
        update.apply(by_range, NO_SLOTS, 5, values)
        update.apply(by_slots, order + 5, 0, values[order])
        update.apply(by_pieces, NO_SLOTS, 5, values[:17])
        update.apply(by_pieces, order[order >= 17] + 5, 0, values[order[order >= 17]])
    assert by_range.tobytes() == by_slots.tobytes() == by_pieces.tobytes()
    assert (by_range[:5] == update.initial_row(dtype)).all()

    # Reading in both ways gives the same bits too.
    one, other = (np.empty((count, update.pull_width), dtype) for _ in range(2))
    update.read(by_range, NO_SLOTS, 5, one)
    update.read(by_range, np.arange(5, 5 + count), 0, other)
    assert one.tobytes() == other.tobytes()


def test_ftrl_is_the_paper_s_other_form():
    # Per step: w = argmin g.w + sum sigma (w - w_s)^2 / 2 + l1 |w| + l2 w^2 / 2, by a fine search.
    update = make("ftrl", 1)
    s = CASES["ftrl"]
    rows = start(update, 1, "f8")
    gradients, weights, sigmas = [1.5, -0.2, 0.8, -2.0, 0.3], [], []
    n = 0.0
    for g in gradients:
        out = np.empty((1, 1))
        update.read(rows, NO_SLOTS, 0, out)
        weights.append(out[0, 0])
        sigmas.append((np.sqrt(n + g * g) - np.sqrt(n)) / s["alpha"])
        n += g * g
        update.apply(rows, NO_SLOTS, 0, np.array([[g]]))
    update.read(rows, NO_SLOTS, 0, out)
    w = np.linspace(-2, 2, 400_001)
    objective = (
        sum(gradients) * w + s["l1"] * np.abs(w) + 0.5 * (s["l2"] + s["beta"] / s["alpha"]) * w**2
    )
    for sigma, old in zip(sigmas, weights, strict=True):
        objective += 0.5 * sigma * (w - old) ** 2
    assert abs(out[0, 0] - w[np.argmin(objective)]) < 2e-5


def test_proximal_step_minimises_the_model_inside_the_trust_region():
    update = make("proximal", 1)
    s = CASES["proximal"]
    rng = np.random.default_rng(4)
    for _ in range(20):
        w, delta, g, u = rng.normal(), rng.random() + 0.1, rng.normal(0, 2), rng.random() + 0.2
        rows = np.array([[w, delta]])
        update.apply(rows, NO_SLOTS, 0, np.array([[g, u]]))
        d = np.append(np.linspace(-delta, delta, 20_001), -w)
        d = d[np.abs(d) <= delta]
        model = g * d + u * d**2 / (2 * s["lr"]) + s["l1"] * np.abs(w + d)
        assert abs(rows[0, 0] - (w + d[np.argmin(model)])) <= 2e-4 * delta


def test_sgd_without_momentum_keeps_no_velocity():
    assert find_update("sgd", {}, 2).columns == 2
    assert find_update("sgd", {"momentum": 0.5}, 2).columns == 4


def test_ftrl_in_float32_takes_8_bytes_of_state():
    assert find_update("ftrl", {}, 1).initial_row("f4").nbytes == 8


@pytest.mark.parametrize(
    ("update", "settings", "word"),
    [
        ("ftrl", {"alhpa": 1.0}, "alhpa"),
        ("ftrl", {"alpha": 0.0}, "alpha"),
        ("ftrl", {"alpha": -1}, "alpha"),
        ("sgd", {"momentum": 1.0}, "momentum"),
        ("sgd", {"lr": float("nan")}, "lr"),
        ("sgd", {"lr": float("inf")}, "lr"),
        ("sgd", {"lr": "fast"}, "lr"),
        ("add", {"lr": 1.0}, "lr"),
    ],
)
def test_wrong_settings_are_named(update, settings, word):
    with pytest.raises(ConfigError, match=word) as caught:
        find_update(update, settings, 1)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "name", ["fttrl", "no.such.module:Class", "math:nothing", "math:pi", "collections:Counter", int]
)
def test_unknown_update_functions_are_refused(name):
    with pytest.raises(ConfigError):
        find_update(name, {}, 1)


class Decay(UserUpdate):
    """A user's function with two fields and a setting."""

    class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
        """Its setting."""

        rate: float = 0.5

    state = {"w": 1.0, "n": 0.0}  # noqa: RUF012 - as users write it

    def update(self, s, values):
        """Forget a part, then add; count the pushes."""
        s.n += 1
        s.w = s.w * self.settings.rate + values


class Broken(UserUpdate):
    """A user's function with a misprint."""

    state = {"w": 0.0}  # noqa: RUF012 - as users write it

    def update(self, s, values):
        """Write to a field that is not there."""
        s.v = values


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_user_s_class_keeps_its_state_in_stores(kind):
    size = 2**64 if kind == "sparse" else 100
    table = Table(
        name="u", kind=kind, size=size, segments=2, width=2, update=Decay, settings={"rate": 0.25}
    )
    store = make_store(table)
    store.hold(0)
    for keys in ([1, 2, 3], [1, 5]):
        keys = np.array(keys, np.uint64)
        store.update_keys(keys, np.full((len(keys), 2), 8.0))
    out = np.empty((4, 2))
    store.read_keys(np.array([0, 1, 2, 5], np.uint64), out)
    assert out.tolist() == [[1.0] * 2, [8.25 * 0.25 + 8.0] * 2, [8.25] * 2, [8.25] * 2]
    keys, rows = store.snapshot(0)
    row = 1 if keys is None else keys.tolist().index(1)
    assert rows[row].tolist() == [10.0625, 10.0625, 2.0, 2.0]


def test_user_s_class_is_found_by_name():
    update = find_update("tests.store.test_updates:Decay", {"rate": 0.5}, 1)
    assert type(update).__name__ == "Decay"
    assert update.settings.rate == 0.5
    with pytest.raises(ConfigError, match="speed"):
        find_update(Decay, {"speed": 1.0}, 1)


def test_user_s_error_is_chained_and_gathered_rows_stay():
    update = find_update(Broken, {}, 1)
    rows = np.ones((3, 1))
    with pytest.raises(AppError, match=r"your update function .*Broken raised .*no v") as caught:
        update.apply(rows, np.array([1]), 0, np.zeros((1, 1)))
    assert isinstance(caught.value.__cause__, AttributeError)
    assert caught.value.__cause__.__traceback__ is not None
    assert rows.tolist() == [[1.0]] * 3


def test_user_s_class_without_state_is_refused():
    class Empty(UserUpdate):
        def update(self, s, values):
            """Do nothing."""

    with pytest.raises(ConfigError, match="no state"):
        find_update(Empty, {}, 1)


def test_every_built_in_goes_by_its_name():
    assert sorted(BUILT_IN) == sorted({case.split()[0] for case in CASES})
