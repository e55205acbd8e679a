"""Work in shares gives the same bits as work in one piece."""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import pytest

from mpips.apps.linear.update import BlockNewton
from mpips.store import sharing
from mpips.store.base import Store
from mpips.store.sharing import Sharing
from mpips.store.table import make_store
from mpips.store.update import Update
from mpips.store.updates import BUILT_IN
from mpips.store.user import State, UserUpdate
from mpips.wire.types import Table, ValueArray


class Shares:
    """Calls work in three uneven parts, the last one first, and counts them."""

    def __init__(self) -> None:
        self.calls = 0

    def spread(self, work: Callable[[int, int], None], n: int) -> None:
        """Share work out."""
        for begin, end in ((n // 2, n), (n // 3, n // 2), (0, n // 3)):
            self.calls += 1
            work(begin, end)


@pytest.fixture(autouse=True)
def _few_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "SHARED_MIN", 8)


def both(table: Table) -> tuple[Store, Store, Shares]:
    """Return two equal stores, of which the second shares its work out."""
    one, other, shares = make_store(table), make_store(table), Shares()
    for store in (one, other):
        store.hold_many(range(table.segments))
    other.sharing = Sharing(shares.spread)
    return one, other, shares


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("update", BUILT_IN)
def test_keys_get_the_same_bits(update: str, width: int) -> None:
    rng = np.random.default_rng(width)
    table = Table(name="s", kind="sparse", segments=4, width=width, dtype="f4", update=update)
    one, other, shares = both(table)
    keys = np.sort(rng.integers(10, 2**63, 50, dtype=np.uint64))
    read = []
    for _ in range(3):
        values = rng.normal(size=(50, one.update.push_width)).astype(np.float32)
        for store in (one, other):
            store.update_keys(keys, values)
            out = np.empty((60, one.update.pull_width), np.float32)
            # Some are absent.
            store.read_keys(np.sort(np.append(keys, np.arange(10, dtype=np.uint64))), out)
            read.append(out)
        assert read[-2].tobytes() == read[-1].tobytes()
    # Pushes, look-ups of pulls, pulls.
    assert shares.calls == 3 * 3 * 3
    assert one.snapshot(1)[1].tobytes() == other.snapshot(1)[1].tobytes()


@pytest.mark.parametrize("update", BUILT_IN)
def test_ranges_get_the_same_bits(update: str) -> None:
    rng = np.random.default_rng(1)
    one, other, shares = both(Table(name="d", size=64, segments=4, dtype="f8", update=update))
    for begin, end in ((0, 64), (3, 59), (10, 12)):
        values = rng.normal(size=(end - begin, one.update.push_width))
        one.update_range(begin, end, values)
        other.update_range(begin, end, values)
        assert one.read_range(3, 60)[1].tobytes() == other.read_range(3, 60)[1].tobytes()
    assert shares.calls == 3 * (2 + 3)


class Sum(UserUpdate):
    """Adds, for a user."""

    state: ClassVar[dict[str, float]] = {"w": 0.0}

    def update(self, s: State, values: ValueArray) -> None:
        """Add the values."""
        s.w += values


def test_users_update_function_is_called_once() -> None:
    table = Table(name="d", size=64, segments=4, update=f"{__name__}:Sum")
    _, other, shares = both(table)
    values = np.arange(64.0).reshape(64, 1)
    other.update_range(0, 64, values)
    assert other.read_range(0, 64)[1].tolist() == values.tolist()
    assert shares.calls == 0


def test_update_function_is_shared_only_if_it_says_that_rows_are_on_their_own() -> None:
    # A block's message is one Hessian; whatever is not told is not split.
    assert not Update.can_be_shared
    assert not BlockNewton.can_be_shared
    assert all(update.can_be_shared for update in BUILT_IN.values())
