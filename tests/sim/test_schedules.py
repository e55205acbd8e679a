"""Thousands of schedules: pushes and pulls over an unordered network that duplicates."""

from collections import Counter

import numpy as np
import pytest

from mpips.core import slicing
from tests.core.schedules import FreeSchedule, SumSchedule

SEEDS, SEEDS_MAX = 12, 120


def run_some(
    kind: type[FreeSchedule] | type[SumSchedule], first: int, count: int, *needed: str
) -> Counter[str]:
    """Run schedules of a kind from many seeds, and sum what the servers have counted.

    Which seeds have what is needed depends on where segments lie: more of them run until it came.
    """
    total: Counter[str] = Counter()
    for seed in range(first, first + SEEDS_MAX):
        if seed >= first + count and all(total[name] for name in needed):
            break
        try:
            world = kind(seed).run()
        except Exception as error:
            error.add_note(f"{kind.__name__}({seed})")
            raise
        for name in ("pushes", "pulls", "duplicate_slices", "parked_slices"):
            total[name] += world.count(name)
    return total


@pytest.fixture(params=["whole", "cut"])
def request_size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests be whole, or cut into several by a tiny limit."""
    if request.param == "cut":
        monkeypatch.setattr(slicing, "REQUEST_BYTES_MAX", 40)
        monkeypatch.setattr(slicing, "APART_BYTES_MIN", 20)


@pytest.mark.usefixtures("request_size")
@pytest.mark.parametrize("chunk", range(4))
def test_pushes_are_applied_once_and_in_the_order_of_their_stream(chunk: int) -> None:
    total = run_some(FreeSchedule, chunk * SEEDS_MAX, SEEDS, "duplicate_slices", "parked_slices")
    assert total["duplicate_slices"] > 0
    assert total["parked_slices"] > 0


@pytest.mark.usefixtures("request_size")
@pytest.mark.parametrize("chunk", range(4))
def test_sums_are_bitwise_those_of_the_serial_program(chunk: int) -> None:
    total = run_some(SumSchedule, chunk * SEEDS_MAX, SEEDS, "duplicate_slices")
    assert total["duplicate_slices"] > 0


@pytest.mark.slow
@pytest.mark.usefixtures("request_size")
@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("kind", [FreeSchedule, SumSchedule])
def test_many_more_schedules(
    kind: type[FreeSchedule] | type[SumSchedule], part: int, rng: np.random.Generator
) -> None:
    # With another --seed these are others.
    run_some(kind, int(rng.integers(10**6, 10**9)), 50)
