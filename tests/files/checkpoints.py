"""Random segments of some tables, and checkpoints made of them."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mpips.files.checkpoint import (
    Checkpoint,
    new_checkpoint,
    write_manifest,
    write_results,
    write_states,
)
from mpips.files.parts import Segment, write_segments
from mpips.files.tree import encode_states
from mpips.wire.types import Table

STREAMS, COLUMNS = 3, 2
TABLES = [
    Table(name="w", size=1000, segments=7),
    Table(name="a/b.c %", size=40, segments=7, dtype="f4"),
    Table(name="sparse", kind="sparse", segments=5, dtype="f4"),
    Table(name="none", kind="sparse", segments=2),
    Table(name="short", size=3, segments=5),
]
SMALL = [Table(name="w", size=10, segments=2)]
STATES: dict[int, Any] = {0: {"margins": np.arange(3.0)}, 1: None, 2: [np.eye(2, dtype="i4"), "x"]}
FACTS = {"config": "[run]\n", "epoch": 5, "positions": {2: 7, 10: 8}}
RESULTS = [{"w": np.arange(4, dtype=np.float32)}, 1.5, None]


def make_segment(rng: np.random.Generator, table: Table, number: int) -> Segment:
    """Return a random segment; the last one of a sparse table, and all of "none", are empty."""
    begin, end = table.segment_range(number)
    rows, keys = end - begin, None
    if table.kind == "sparse":
        rows = 0 if table.name == "none" or number == table.segments - 1 else 4
        keys = np.sort(rng.integers(begin, end - 1, rows, np.uint64))
    return Segment(
        table=table.name,
        segment=number,
        log=int(rng.integers(10, 99)),
        numbers=rng.integers(0, 99, STREAMS),
        clocks=rng.integers(0, 99, STREAMS),
        keys=keys,
        rows=rng.normal(size=(rows, COLUMNS)).astype(table.dtype),
    )


def make_segments(seed: int, tables: Sequence[Table] = TABLES) -> list[Segment]:
    """Return random segments, all of the tables."""
    rng = np.random.default_rng(seed)
    return [make_segment(rng, table, at) for table in tables for at in range(table.segments)]


def make_checkpoint(
    run: Path, number: int, servers: int = 3, tables: Sequence[Table] = TABLES
) -> tuple[Path, list[Segment]]:
    """Write a whole checkpoint, after `number` tasks, with segments spread over servers.

    Return its folder, and the segments.
    """
    folder, segments = new_checkpoint(run), make_segments(number, tables)
    parts = [write_segments(folder, n + 1, segments[n::servers]) for n in range(servers)]
    parts += [write_states(folder, 8, encode_states({0: STATES[0], 2: STATES[2]}))]
    parts += [write_states(folder, 9, encode_states({1: STATES[1]}))]
    parts += [write_results(folder, RESULTS)]
    # Facts come to the scheduler in messages.
    write_manifest(folder, number, tables, json.loads(json.dumps(parts)), FACTS)
    return folder, segments


def bits(segment: Segment) -> tuple[Any, ...]:
    """Return a segment as values that compare by all of their bits."""
    arrays = (segment.numbers, segment.clocks, segment.rows)
    keys = None if segment.keys is None else (segment.keys.dtype, segment.keys.tobytes())
    head = (segment.table, segment.segment, segment.log, keys)
    return (*head, *((a.dtype, a.shape, a.tobytes()) for a in arrays))


def read_all(checkpoint: Checkpoint) -> list[tuple[Any, ...]]:
    """Return the bits of all segments, in the order of tables and numbers."""
    found = []
    for name, table in checkpoint.manifest.tables.items():
        segments = checkpoint.segments(name, range(table["segments"]))
        found += sorted((bits(segment) for segment in segments), key=lambda b: b[1])
    return found


def all_bits(segments: Iterable[Segment]) -> list[tuple[Any, ...]]:
    """Return the bits of segments."""
    return [bits(segment) for segment in segments]
