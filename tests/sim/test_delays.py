"""The checker of bounded delay, on logs whose fault is known."""

import numpy as np
import pytest

from mpips.testing.delays import Ran, check_delay

WORKERS, TASKS = 5, 30


def made_log(rng: np.random.Generator, max_delay: int) -> list[Ran]:
    """Return the log of workers that wait exactly as long as they must."""
    log, ends = [], np.zeros(TASKS + 1)
    free = np.zeros(WORKERS)
    for task in range(1, TASKS + 1):
        start = np.maximum(free, ends[max(0, task - max_delay - 1)])
        free = start + rng.exponential(size=WORKERS)
        ends[task] = max(ends[task - 1], free.max())
        rows = zip(start.tolist(), free.tolist(), strict=True)
        log += [Ran(worker, task, *times) for worker, times in enumerate(rows)]
    return [log[i] for i in rng.permutation(len(log))]


def plain_staleness(log: list[Ran]) -> int:
    """Return the largest staleness, by looking at all pairs."""
    worst = 0
    for one in log:
        open_tasks = [other.task for other in log if other.finish > one.start]
        worst = max(worst, one.task - min([one.task, *open_tasks]))
    return worst


@pytest.mark.parametrize("max_delay", [0, 1, 3])
def test_log_that_waits_as_it_must_is_right_and_the_bound_is_attained(
    rng: np.random.Generator, max_delay: int
) -> None:
    log = made_log(rng, max_delay)
    assert check_delay(log, max_delay) == ([], max_delay)
    assert plain_staleness(log) == max_delay


@pytest.mark.parametrize("max_delay", [0, 1, 3])
def test_log_that_waits_one_task_too_short_is_wrong(
    rng: np.random.Generator, max_delay: int
) -> None:
    wrong, staleness = check_delay(made_log(rng, max_delay + 1), max_delay)
    assert staleness == max_delay + 1
    assert wrong
    assert all(f"with {max_delay + 1} of" in line for line in wrong)


def test_one_start_a_moment_too_early_is_named(rng: np.random.Generator) -> None:
    log = made_log(rng, 1)
    end = max(one.finish for one in log if one.task <= 7)
    at = next(i for i, one in enumerate(log) if one.task == 9)
    log[at] = log[at]._replace(start=float(np.nextafter(end, 0)))
    wrong, staleness = check_delay(log, 1)
    assert len(wrong) == 1
    assert wrong[0].startswith(f"logical worker {log[at].worker} started task 9 at ")
    assert staleness == 2
    log[at] = log[at]._replace(start=end)
    assert check_delay(log, 1) == ([], 1)


def test_task_that_is_missing_counts_as_unfinished(rng: np.random.Generator) -> None:
    log = made_log(rng, 0)
    whole = [one for one in log if one.task <= 20]
    assert check_delay(whole, 0)[0] == []
    holed = [one for one in whole if (one.worker, one.task) != (3, 11)]
    assert check_delay(holed, 0)[1] == 9
    # The end of a log may be missing.
    cut = [one for one in whole if (one.worker, one.task) != (3, 20)]
    assert check_delay(cut, 0)[0] == []
    assert check_delay([], 0) == ([], 0)


def test_log_with_a_task_twice_is_refused(rng: np.random.Generator) -> None:
    log = made_log(rng, 0)
    with pytest.raises(AssertionError, match="twice"):
        check_delay([*log, log[0]], 0)
