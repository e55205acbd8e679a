"""Every push is applied once, in every order, though nodes die and each message comes again.

Each message comes one to three times, late copies of requests also to former and to later owners;
servers and workers die, or are left behind; calls are done again by others, now and then by two at
once; and half of the runs send bytes through a filter chain.
"""

from collections import Counter

import numpy as np
import pytest

from mpips.filters import compressing
from tests.core.redo import RedoSchedule
from tests.core.redo_kinds import BoundedRedo, FreeRedo, SumRedo

KINDS = (FreeRedo, BoundedRedo, SumRedo)
SEEDS, AT_ONCE, SOAK = 200, 2, 10_000

SEEN = (
    "servers killed",
    "servers left behind",
    "workers killed",
    "workers left behind",
    "promoted",
    "moved",
    "doubled",
    "admitted",
    "of strangers",
    "of later views",
    "duplicate_slices",
    "refused",
    "repeated_requests",
)


@pytest.fixture(autouse=True)
def _compress_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let filters take arrays that are as small as those of schedules."""
    monkeypatch.setattr(compressing, "BYTES_MIN", 8)
    monkeypatch.setattr(compressing, "GAIN_MAX", 10.0)


def run_some(kind: type[RedoSchedule], first: int, count: int) -> Counter[str]:
    """Run schedules of a kind from many seeds, and count what happened in them."""
    total: Counter[str] = Counter()
    for seed in range(first, first + count):
        try:
            total += kind(seed).run().counts
        except Exception as error:
            error.add_note(f"{kind.__name__}({seed})")
            raise
    return total


@pytest.mark.parametrize("first", range(0, SEEDS, AT_ONCE))
@pytest.mark.parametrize("kind", KINDS)
def test_pushes_are_applied_once_whoever_dies(kind: type[RedoSchedule], first: int) -> None:
    run_some(kind, first, AT_ONCE)


@pytest.mark.slow
def test_schedules_have_everything_that_may_go_wrong() -> None:
    total = run_some(FreeRedo, 0, 30)
    assert all(total[name] > 0 for name in (*SEEN, "parked_slices")), total


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_schedules(
    kind: type[RedoSchedule], request: pytest.FixtureRequest, rng: np.random.Generator
) -> None:
    # For soaks, `mpips test unit --soak 2`: with another --seed these are others.
    if request.config.getoption("--seed") == 1:
        pytest.skip("for soaks: mpips test unit --soak 2")
    run_some(kind, int(rng.integers(SEEDS, 10**9)), SOAK)


def test_copy_that_was_brought_level_knows_what_was_before_the_last_update() -> None:
    # It is promoted, and a call that is done again reads from it as of its own last push.
    SumRedo(5084).run()
