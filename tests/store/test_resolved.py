"""Lists that a store keeps: looked up once, and again whenever their rows have moved."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mpips.store.base import Store
from mpips.store.resolved import ResolvedLists
from mpips.store.table import make_store
from tests.store.reference import dense_table, sparse_table

KINDS = {"dense": dense_table, "sparse": sparse_table}


class Counted:
    """A store with a list that it keeps, and the number of look-ups of it."""

    def __init__(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store: Store = make_store(KINDS[kind](segments=8))
        self.store.hold_many(range(8))
        size = self.store.table.segment_size
        self.keys = np.array([s * size + k for s in range(7) for k in (1, 3)], np.uint64)
        self.store.keep(self.keys)
        self.looks = 0
        place = self.store._place

        def count(keys: Any, insert: bool) -> Any:
            self.looks += 1
            return place(keys, insert)

        monkeypatch.setattr(self.store, "_place", count)

    def push(self, value: float) -> None:
        """Push a value to each key of the list."""
        self.store.update_keys(self.keys, np.full((len(self.keys), 1), value))

    def read(self) -> list[float]:
        """Return the values of the list."""
        out = np.empty((len(self.keys), 1))
        self.store.read_keys(self.keys, out)
        return out.ravel().tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_kept_list_is_looked_up_once(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Counted(kind, monkeypatch)
    for value in (1.0, 2.0, 3.0):
        one.push(value)
    assert one.read() == [6.0] * len(one.keys)
    assert one.looks == 1


def test_growth_leaves_a_kept_list_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Counted("sparse", monkeypatch)
    one.push(1.0)
    others = np.arange(10_000, 30_000, dtype=np.uint64)
    one.store.update_slots(one.store.resolve(others, insert=True), np.ones((len(others), 1)))
    one.push(1.0)
    assert one.read() == [2.0] * len(one.keys)
    assert one.looks == 1


def leave_and_come(store: Store) -> None:
    """Give up two segments and take them again."""
    store.drop_many([0, 3])
    store.hold_many([0, 3])


def load_others(store: Store) -> None:
    """Replace two segments by what they were before anything was pushed."""
    fresh = make_store(store.table)
    fresh.hold_many(range(8))
    for segment in (0, 3):
        store.load(segment, *fresh.snapshot(segment))


@pytest.mark.parametrize("change", [leave_and_come, load_others])
@pytest.mark.parametrize("kind", KINDS)
def test_kept_list_is_found_again_when_its_rows_have_moved(
    kind: str, change: Callable[[Store], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Counted(kind, monkeypatch)
    one.push(1.0)
    change(one.store)
    # Others take the place of what has gone.
    more = one.keys + np.uint64(1)
    one.store.update_keys(more, np.full((len(more), 1), 9.0))
    expected = [0.0 if at // 2 in (0, 3) else 1.0 for at in range(len(one.keys))]
    assert one.read() == expected
    one.push(1.0)
    assert one.read() == [value + 1.0 for value in expected]


@pytest.mark.parametrize("kind", KINDS)
def test_kept_list_is_refused_where_it_is_not_held(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mpips.errors import ProtocolError

    one = Counted(kind, monkeypatch)
    one.push(1.0)
    one.store.drop(3)
    with pytest.raises(ProtocolError):
        one.push(1.0)


def test_keys_that_were_absent_at_the_first_look_are_found_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = Counted("sparse", monkeypatch)
    one.store.update_keys(one.keys[:4].copy(), np.ones((4, 1)))
    assert one.read() == [1.0] * 4 + [0.0] * 10
    one.store.update_keys(one.keys[4:].copy(), np.full((10, 1), 2.0))
    assert one.read() == [1.0] * 4 + [2.0] * 10
    one.push(1.0)
    assert one.read() == [2.0] * 4 + [3.0] * 10


def test_another_array_is_another_list() -> None:
    kept, keys = ResolvedLists(), np.arange(5, dtype=np.uint64)
    kept.keep(keys)
    assert kept.find(keys) is not None
    assert kept.find(keys.copy()) is None
    # What lies at the address of a list that is gone is not that list.
    kept._all[id(other := keys.copy())] = kept._all[id(keys)]
    assert kept.find(other) is None
    kept.forget(keys)
    assert kept.find(keys) is None
