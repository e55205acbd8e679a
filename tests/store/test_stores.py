"""Stores against a dictionary, on random traces."""

import numpy as np
import pytest

from mpips.errors import ProtocolError
from mpips.store.table import make_store
from tests.store.reference import Reference, dense_table, sparse_table

KINDS = {"dense": dense_table, "sparse": sparse_table}
SHAPES = [("f4", 1), ("f8", 1), ("f4", 3), ("f8", 3)]


def some_keys(rng, table, held):
    """Return sorted keys in held segments: clustered, strided by powers of two, and extreme."""
    parts = []
    for segment in held:
        begin, end = table.segment_range(segment)
        stride = 1 << int(rng.integers(0, max(1, (end - begin).bit_length() - 6)))
        start = begin + int(rng.integers(0, 40))
        parts += [begin, end - 1, *range(start, min(end, start + 50 * stride), stride)]
    keys = rng.choice(np.array(parts, dtype=np.uint64), int(rng.integers(1, 60)))
    return np.array(sorted(set(keys.tolist())), dtype=np.uint64)


@pytest.mark.parametrize("update", ["add", "assign"])
@pytest.mark.parametrize(("dtype", "width"), SHAPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_random_trace_gives_what_a_dictionary_gives(kind, dtype, width, update, seed):
    rng = np.random.default_rng(seed)
    table = KINDS[kind](dtype=dtype, width=width, update=update)
    store, model = make_store(table), Reference(table)
    store.hold_many(range(0, table.segments, 2))
    for _ in range(40):
        # Take or give up a segment now and then.
        segment = int(rng.integers(table.segments))
        if segment in store.held and len(store.held) > 1 and rng.random() < 0.2:
            store.drop(segment)
            model.drop(segment)
        elif segment not in store.held and rng.random() < 0.4:
            store.hold(segment)

        # Push to some keys, and pull others.
        keys = some_keys(rng, table, store.held)
        values = rng.standard_normal((len(keys), width)).astype(dtype)
        store.update_keys(keys, values)
        model.update_keys(keys, values)
        keys = some_keys(rng, table, store.held)
        out = np.full((len(keys), width), np.nan, dtype)
        store.read_keys(keys, out)
        assert out.tobytes() == model.read(keys).tobytes()

    # Every segment reads, as a range, as the dictionary does.
    for segment in store.held:
        begin, end = table.segment_range(segment)
        keys, values = store.read_range(begin, end)
        if kind == "dense":
            keys = np.arange(begin, end, dtype=np.uint64)
        else:
            assert keys.tolist() == model.existing(begin, end).tolist()
        assert values.tobytes() == model.read(keys).tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_segments_move_between_stores_exactly(kind):
    rng = np.random.default_rng(5)
    table = KINDS[kind](width=2)
    source, target = make_store(table), make_store(table)
    source.hold_many(range(table.segments))
    keys = some_keys(rng, table, source.held)
    source.update_keys(keys, rng.standard_normal((len(keys), 2)))

    # The target has other state there before, which must go.
    target.hold_many(range(table.segments))
    others = some_keys(rng, table, target.held)
    target.update_keys(others, np.full((len(others), 2), 9.0))
    for segment in source.held:
        target.load(segment, *source.snapshot(segment))

    for segment in source.held:
        for one, other in zip(source.snapshot(segment), target.snapshot(segment), strict=True):
            assert (one is None and other is None) or np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_snapshot_is_a_copy(kind):
    table = KINDS[kind]()
    store = make_store(table)
    store.hold(0)
    keys = np.array([0, 1], dtype=np.uint64)
    store.update_keys(keys, np.ones((2, 1)))
    rows = store.snapshot(0)[1]
    store.update_keys(keys, np.ones((2, 1)))
    assert rows[:2].tolist() == [[1.0], [1.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_dropped_segment_comes_back_empty(kind):
    store = make_store(KINDS[kind]())
    store.hold_many([0, 1])
    keys = np.array([0, 3], dtype=np.uint64)
    store.update_keys(keys, np.ones((2, 1)))
    store.drop(0)
    store.hold(0)
    out = np.full((2, 1), np.nan)
    store.read_keys(keys, out)
    assert out.tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("kind", KINDS)
def test_resolved_slots_stay_valid_until_generation_changes(kind):
    store = make_store(KINDS[kind]())
    store.hold_many([0, 1])
    keys = np.array([1, 4, 7], dtype=np.uint64)
    slots = store.resolve(keys, insert=True)
    generation = store.generation
    rng = np.random.default_rng(0)
    for _ in range(5):
        others = some_keys(rng, store.table, store.held)
        store.update_keys(others, np.ones((len(others), 1)))
    before = np.empty((3, 1))
    store.read_keys(keys, before)
    store.update_slots(slots, np.array([[1.0], [2.0], [3.0]]))
    after, by_slot = np.empty((3, 1)), np.empty((3, 1))
    store.read_keys(keys, after)
    store.read_slots(slots, by_slot)
    assert (after - before).tolist() == [[1.0], [2.0], [3.0]]
    assert by_slot.tolist() == after.tolist()
    assert store.generation == generation
    store.drop(0)
    assert store.generation != generation


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keys", [[4, 4], [5, 4], [2**63, 1], [60], [0, 60], [60, 61, 62]], ids=str)
def test_unsorted_and_foreign_keys_are_refused_unchanged(kind, keys):
    table = KINDS[kind](segments=2) if kind == "dense" else sparse_table(segments=2**59)
    store = make_store(table)
    store.hold(0)
    before = store.snapshot(0)[1]
    keys = np.array(keys, dtype=np.uint64)
    with pytest.raises(ProtocolError):
        store.update_keys(keys, np.ones((len(keys), 1)))
    with pytest.raises(ProtocolError):
        store.read_keys(keys, np.empty((len(keys), 1)))
    assert np.array_equal(before, store.snapshot(0)[1])


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_shapes_and_segments_are_refused(kind):
    store = make_store(KINDS[kind](dtype="f4"))
    store.hold(0)
    keys = np.array([0, 1], dtype=np.uint64)
    cases = [
        lambda: store.update_keys(keys, np.ones((2, 2))),
        lambda: store.update_keys(keys, np.ones((3, 1))),
        lambda: store.read_keys(keys, np.empty((2, 1))),
        lambda: store.read_keys(keys, np.empty((2, 2), np.float32)[:, :1]),
        lambda: store.read_range(0, 2**62),
        lambda: store.hold(0),
        lambda: store.hold_many([3, 3]),
        lambda: store.hold(8),
        lambda: store.hold(-1),
        lambda: store.drop(1),
        lambda: store.snapshot(1),
        lambda: store.load(1, *store.snapshot(0)),
        lambda: store.load(0, keys, np.ones((3, 1), np.float32)),
        lambda: store.load(0, np.array([2**62], np.uint64), np.ones((1, 1), np.float32)),
    ]
    for case in cases:
        with pytest.raises(ProtocolError):
            case()
    assert store.held == (0,)


@pytest.mark.parametrize("update", ["add", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_read_only_and_unaligned_values_are_taken(kind, update):
    # "add" runs in NumPy, "sgd" in a kernel that is compiled for aligned arrays.
    store = make_store(KINDS[kind](update=update))
    store.hold(0)
    keys = np.frombuffer(np.array([0, 5], dtype=np.uint64).tobytes(), np.uint64)
    buffer = np.ones(2).tobytes()
    for values in (
        np.frombuffer(buffer, np.float64).reshape(2, 1),
        np.frombuffer(b"x" + buffer, np.float64, offset=1).reshape(2, 1),
        np.ones((2, 2))[:, :1],
        np.ones((2, 1), np.float32),
    ):
        store.update_keys(keys, values)
    out = np.empty((2, 1))
    store.read_keys(keys, out)
    assert out == pytest.approx(np.full((2, 1), 4.0 if update == "add" else -0.04))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_messages_change_nothing(kind):
    store = make_store(KINDS[kind]())
    store.hold(0)
    keys, values = np.empty(0, np.uint64), np.empty((0, 1))
    store.update_keys(keys, values)
    store.read_keys(keys, values)
    store.update_slots(np.empty(0, np.int64), values)
    assert len(store.read_range(5, 5)[1]) == 0
    assert not store.snapshot(0)[1].any()
