"""What a thread reads of a frozen store is of the moment of freezing, whatever pushes do to it."""

import threading
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest

from mpips.store import frozen, reserve, sparse
from mpips.store.base import Store
from mpips.store.directory import Directory
from mpips.store.frozen import CalledOffError, Frozen, FrozenRows
from mpips.store.frozen_keys import FrozenKeys
from mpips.store.table import make_store
from mpips.store.update import Slots
from mpips.wire.types import KeyArray, Table, ValueArray

SEGMENTS, SIZE = 5, 2600
State = dict[int, tuple[KeyArray | None, ValueArray]]

DENSE = Table(name="w", size=SIZE, segments=SEGMENTS, update="add", width=3)
RANGE = Table(name="w", size=SIZE, segments=SEGMENTS, update="adagrad", settings={"lr": 0.3})
SPARSE = Table(name="z", kind="sparse", segments=SEGMENTS, update="ftrl", dtype="f4")
KINDS = pytest.mark.parametrize("table", [DENSE, RANGE, SPARSE], ids=["dense", "adagrad", "sparse"])


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tables of some kilobytes have many pages and pieces."""
    monkeypatch.setattr(frozen, "PAGE_BYTES", 128)
    monkeypatch.setattr(frozen, "PIECE_BYTES", 1024)


class Pusher:
    """Fills a store, and goes on changing it."""

    def __init__(self, table: Table, seed: int = 0, count: int = 400) -> None:
        self.store: Store = make_store(table)
        self.random = np.random.default_rng(seed)
        self.store.hold_many(range(SEGMENTS))
        self.store.owned = self.store.held
        self.pushed = 0
        for _ in range(3):
            self.push(count)

    def keys(self, count: int) -> KeyArray:
        """Return keys in all segments, of a dense table or a sparse one."""
        if self.store.table.kind == "dense":
            chosen = self.random.choice(SIZE, count, replace=False).astype(np.uint64)
        else:
            span = np.uint64(2**64 // 4000)
            chosen = self.random.choice(4000, count, replace=False).astype(np.uint64) * span
        return np.sort(chosen)

    def push(self, count: int = 40) -> None:
        """Push to some keys."""
        self.pushed += 1
        keys = self.keys(count)
        shape = (count, self.store.update.push_width)
        self.store.update_keys(keys, self.random.normal(size=shape).astype(self.store.dtype))

    def push_range(self) -> None:
        """Push to a range that ends nowhere in particular."""
        begin, end = sorted(self.random.choice(SIZE, 2, replace=False).tolist())
        values = self.random.normal(size=(end - begin, self.store.update.push_width))
        self.store.update_range(begin, end, values)

    def push_slots(self) -> None:
        """Push to keys that were resolved."""
        slots = self.store.resolve(self.keys(30), insert=True)
        shape = (30, self.store.update.push_width)
        self.store.update_slots(slots, np.ones(shape, self.store.dtype))

    def state(self) -> State:
        """Return what the store says of all its segments."""
        return {segment: self.store.snapshot(segment) for segment in self.store.held}


def read_all(image: Frozen) -> State:
    """Return all segments as a reader gets them."""
    return {segment: image.read(segment) for segment in range(SEGMENTS)}


def same(one: State, other: State) -> bool:
    """Return whether two states are the same to the last bit."""
    return one.keys() == other.keys() and all(
        np.array_equal(a[1], other[segment][1])
        and (a[0] is other[segment][0] is None or np.array_equal(a[0], other[segment][0]))
        for segment, a in one.items()
    )


def change(pusher: Pusher) -> None:
    """Change a store in all ways that leave its segments where they are."""
    pusher.push()
    pusher.push_slots()
    if pusher.store.table.kind == "dense":
        pusher.push_range()
        pusher.push_range()


@KINDS
@pytest.mark.parametrize("seed", range(4))
def test_reader_sees_the_moment_of_freezing(table: Table, seed: int) -> None:
    pusher = Pusher(table, seed)
    for _ in range(2):
        before, image = pusher.state(), pusher.store.freeze(nullcontext())
        found: State = {}
        for segment in pusher.random.permutation(SEGMENTS).tolist():
            change(pusher)
            found[segment] = image.read(segment)
        assert same(before, dict(sorted(found.items())))
        assert not same(before, pusher.state())
        # A second one is of its own moment, whether the first was let go or not.
        if seed % 2:
            pusher.store.thaw()


class Interrupting:
    """A lock that lets a push come whenever the reader takes it."""

    def __init__(self, pusher: Pusher) -> None:
        self.pusher, self.is_on = pusher, False

    def __enter__(self) -> None:
        if self.is_on:
            self.is_on = False
            change(self.pusher)
            self.is_on = True

    def __exit__(self, *_: object) -> None:
        pass


@KINDS
def test_pushes_between_reading_and_looking_at_the_marks(table: Table) -> None:
    pusher = Pusher(table)
    guard = Interrupting(pusher)
    before, image = pusher.state(), pusher.store.freeze(guard)
    guard.is_on = True
    assert same(before, read_all(image))


def tear(pusher: Pusher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pushes come in the middle of whatever the reader copies."""
    copy, copy_slots = frozen._copy, frozen._copy_slots

    def torn(rows: ValueArray, low: int, high: int, out: ValueArray) -> None:
        middle = (low + high) // 2
        copy(rows, low, middle, out[: middle - low])
        change(pusher)
        copy(rows, middle, high, out[middle - low :])

    def torn_slots(rows: ValueArray, slots: Slots, out: ValueArray) -> None:
        middle = len(slots) // 2
        copy_slots(rows, slots[:middle], out[:middle])
        change(pusher)
        copy_slots(rows, slots[middle:], out[middle:])

    monkeypatch.setattr(frozen, "_copy", torn)
    monkeypatch.setattr(frozen, "_copy_slots", torn_slots)


@KINDS
def test_pushes_in_the_middle_of_a_copy(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    pusher = Pusher(table)
    before, image = pusher.state(), pusher.store.freeze(nullcontext())
    tear(pusher, monkeypatch)
    assert same(before, read_all(image))


def no_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Change frozen rows without a copy."""
    monkeypatch.setattr(FrozenRows, "keep", lambda *_: None)


def keep_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy rows aside when they have changed already."""
    before = Store._before_change

    def late(self: Store, slots: Slots, first: int, values: ValueArray) -> None:
        self.update.apply(self._rows, slots, first, values)
        before(self, slots, first, len(values))

    monkeypatch.setattr(Store, "_apply", late)


def no_mending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Believe what was read, whatever was kept aside."""
    monkeypatch.setattr(FrozenRows, "_mend", lambda *_: None)


def look_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look at the marks before the rows are read, not after."""
    mend = FrozenRows._mend

    def early(self: FrozenRows, pages: Slots, part: ValueArray) -> None:
        mend(self, pages, part)
        part[:] = self._rows.reshape(len(self._places), -1)[pages]

    monkeypatch.setattr(FrozenRows, "_mend", early)


@pytest.mark.parametrize("broken", [no_keep, keep_after, no_mending, look_first])
def test_broken_build_is_caught(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher = Pusher(RANGE)
    broken(monkeypatch)
    before, image = pusher.state(), pusher.store.freeze(nullcontext())
    change(pusher)
    assert not same(before, read_all(image))


@pytest.mark.parametrize("small", [64, 2**16])
def test_growth_leaves_the_frozen_rows_alone(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # Beyond so many rows they stay where they are when they grow.
    monkeypatch.setattr(reserve, "SMALL", small)
    pusher = Pusher(SPARSE, count=60)
    before, image = pusher.state(), pusher.store.freeze(nullcontext())
    for _ in range(40):
        pusher.push(400)
    assert pusher.store.statistics()["keys"] > 5 * sum(len(rows) for _, rows in before.values())
    assert same(before, read_all(image))


def forget_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the memory of rows that have grown for something else."""
    grow = sparse.grow_rows

    def overwrite(rows: ValueArray, count: int) -> ValueArray:
        grown: ValueArray = grow(rows, count)
        rows[:] = 7.0
        return grown

    monkeypatch.setattr(sparse, "grow_rows", overwrite)


def forget_extents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take keys that have come later for frozen ones."""
    monkeypatch.setattr(Directory, "extents", lambda self: {
        segment: np.zeros((self._each, 2), np.int64) for segment in self._held
    })  # fmt: skip


def forget_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep nothing of segments that go."""
    monkeypatch.setattr(FrozenKeys, "keep", lambda *_: None)


@pytest.mark.parametrize("broken", [forget_rows, forget_extents, forget_segments])
def test_broken_build_of_sparse_stores_is_caught(
    broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    pusher = Pusher(SPARSE)
    broken(monkeypatch)
    before, image = pusher.state(), pusher.store.freeze(nullcontext())
    # All these keys are new.
    keys = np.arange(1, 2**64 - 1, 2**50, dtype=np.uint64)
    pusher.store.update_keys(keys, np.ones((len(keys), 1), np.float32))
    pusher.store.drop_many([1])
    assert not same(before, read_all(image))


def test_keys_that_change_their_slots_are_read_as_they_were() -> None:
    pusher = Pusher(SPARSE)
    # So much comes and goes that slots are given out anew.
    before, image = pusher.state(), pusher.store.freeze(nullcontext())
    first = image.read(3)
    used = pusher.store._directory.used
    while pusher.store._directory.used >= used:
        used = pusher.store._directory.used
        pusher.store.drop_many([0, 1, 2, 4])
        pusher.store.hold_many([0, 1, 2, 4])
        pusher.push(400)
    found = {segment: image.read(segment) for segment in (0, 1, 2, 4)}
    assert same(before, dict(sorted({3: first, **found}.items())))


@KINDS
def test_segments_that_go_and_come_back_are_read_as_they_were(table: Table) -> None:
    pusher = Pusher(table)
    store = pusher.store
    before, image = pusher.state(), store.freeze(nullcontext())
    store.drop_many([1, 2])
    store.hold_many([1])
    for segment in (1, 4):
        keys, rows = before[segment]
        store.load(segment, keys, rows + 1.0)
    store.hold_many([2])
    change(pusher)
    assert same(before, read_all(image))
    assert not same(before, pusher.state())


@pytest.mark.parametrize("ending", ["thaw", "freeze"])
@KINDS
def test_reader_of_what_was_let_go_is_told(table: Table, ending: str) -> None:
    pusher = Pusher(table)
    image = pusher.store.freeze(nullcontext())
    image.read(0)
    _ = pusher.store.thaw() if ending == "thaw" else pusher.store.freeze(nullcontext())
    with pytest.raises(CalledOffError):
        image.read(1)


def test_what_is_kept_is_bounded_by_what_was_changed_and_not_read() -> None:
    pusher = Pusher(RANGE)
    store = pusher.store
    store.freeze(nullcontext())
    kept = store._frozen
    assert kept is not None
    assert kept.kept_bytes == 0
    # A page is 8 rows of 16 bytes.
    store.update_keys(np.array([0, 1, 100], np.uint64), np.ones((3, 1)))
    store.update_keys(np.array([2, 101], np.uint64), np.ones((2, 1)))
    assert kept.kept_bytes == 2 * 128
    store.update_range(0, SIZE, np.ones((SIZE, 1)))
    assert kept.kept_bytes == SIZE * 16
    store.update_range(0, SIZE, np.ones((SIZE, 1)))
    assert kept.kept_bytes == SIZE * 16


def test_what_was_read_is_not_kept_any_more() -> None:
    pusher = Pusher(RANGE)
    store = pusher.store
    image = store.freeze(nullcontext())
    for segment in range(SEGMENTS):
        image.read(segment)
    change(pusher)
    # But for pages that lie in two segments, as nobody knows which of these are read.
    assert store._frozen is not None
    assert store._frozen.kept_bytes <= (SEGMENTS - 1) * 128


@pytest.mark.slow
@KINDS
def test_thread_reads_while_pushes_come(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frozen, "PIECE_BYTES", 4096)
    pusher = Pusher(table)
    for _ in range(60):
        before, image = pusher.state(), pusher.store.freeze(threading.RLock())
        found: list[State] = []

        def run(found: list[State] = found, image: Frozen = image) -> None:
            found.append(read_all(image))

        reader = threading.Thread(target=run)
        reader.start()
        while reader.is_alive():
            change(pusher)
        reader.join()
        assert same(before, found[0])
