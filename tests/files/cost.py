"""Measure how fast a checkpoint is written, against raw writing to the same disk in the same run.

    python tests/files/cost.py FOLDER [MB] [TIMES]

Prints MB/s of both, and the share.
"""

import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from mpips.files.parts import Segment, write_segments

SEGMENT_ROWS, COLUMNS, STREAMS = 65_536, 2, 8
RAW_BYTES = 4 << 20


def make_segments(megabytes: int) -> list[Segment]:
    """Return segments of a dense table, random so that no disk can pack them."""
    rng = np.random.default_rng(1)
    count = max(1, megabytes * 10**6 // (SEGMENT_ROWS * COLUMNS * 8))
    marks = np.zeros(STREAMS, np.int64)
    return [
        Segment("w", at, 0, marks, marks, None, rng.normal(size=(SEGMENT_ROWS, COLUMNS)))
        for at in range(count)
    ]


def write_raw(path: Path, segments: list[Segment]) -> None:
    """Write the rows with nothing beside them, to the disk."""
    with open(path, "wb", buffering=0) as file:
        for segment in segments:
            view = memoryview(segment.rows).cast("B")
            for begin in range(0, len(view), RAW_BYTES):
                file.write(view[begin : begin + RAW_BYTES])
        os.fsync(file.fileno())


def seconds(call: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def measure(folder: Path, megabytes: int, times: int) -> tuple[float, float]:
    """Return bytes per second of raw writing and of a checkpoint's part, by turns.

    Both are the median of the faster half: what else the machine does makes some far slower.
    """
    segments = make_segments(megabytes)
    size = sum(segment.rows.nbytes for segment in segments)
    raw, part = [], []
    for number in range(times + 1):
        home = folder / f"cost-{number}"
        home.mkdir()
        try:
            both = (
                seconds(lambda home=home: write_raw(home / "raw", segments)),
                seconds(lambda home=home: write_segments(home, 1, segments)),
            )
        finally:
            shutil.rmtree(home)
        # The first time pays for what is loaded only then.
        if number:
            raw.append(size / both[0])
            part.append(size / both[1])
    return statistics.quantiles(raw, n=4)[2], statistics.quantiles(part, n=4)[2]


def main() -> None:
    """Measure, and print."""
    folder = Path(sys.argv[1])
    megabytes, times = ([int(word) for word in sys.argv[2:]] + [400, 7][len(sys.argv) - 2 :])[:2]
    raw, part = measure(folder, megabytes, times)
    print(f"raw {raw / 1e6:.0f} MB/s, a checkpoint {part / 1e6:.0f} MB/s: {part / raw:.2f}")


if __name__ == "__main__":
    main()
