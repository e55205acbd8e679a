"""Checks a log of tasks against bounded delay, whoever wrote it: simulated ranks or real ones."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np

EXAMPLES_MAX: Final = 3


class Ran(NamedTuple):
    """A task of a logical worker, as it ran; all times are of one clock.

    Attributes:
        worker: the logical worker.
        task: its number, from 1, the same for all logical workers.
        start: when it had the values that it computes with.
        finish: when it was done with them, before it pushed.
    """

    worker: int
    task: int
    start: float
    finish: float


def check_delay(log: Iterable[Ran], max_delay: float) -> tuple[list[str], int]:
    """Return who started too early, and the largest staleness that a task has begun with.

    A task t may start when all tasks up to t - max_delay - 1 are finished by all logical workers.
    It is as stale as the number of tasks before it that somebody had not finished. A task that
    the log does not have counts as never finished; a log may end anywhere.

    Args:
        log: the tasks in any order, each one once; any type with the fields of `Ran`.
        max_delay: tau, in tasks.

    Cost: O(n log n). Source: the condition is that of Li et al., OSDI 2014, section 3.4.

    >>> log = [Ran(0, 1, 0.0, 1.0), Ran(1, 1, 0.0, 9.0), Ran(0, 2, 2.0, 3.0)]
    >>> check_delay(log, 1)
    ([], 1)
    >>> check_delay(log, 0)[0]
    ['logical worker 0 started task 2 at 2, with 1 of the tasks before it unfinished']
    """
    rows = np.array([tuple(one) for one in log], np.float64).reshape(-1, 4)
    workers, tasks = rows[:, 0].astype(np.int64), rows[:, 1].astype(np.int64)
    if not len(rows):
        return [], 0
    ends = _ends(workers, tasks, rows[:, 3])
    # By then, so many tasks, the first ones, were finished by all.
    finished = np.minimum(np.searchsorted(ends, rows[:, 2], side="right"), tasks - 1)
    staleness = tasks - 1 - finished
    wrong = np.flatnonzero(staleness > max_delay)
    return [
        f"logical worker {workers[i]} started task {tasks[i]} at {rows[i, 2]:g}, with"
        f" {staleness[i]} of the tasks before it unfinished"
        for i in wrong[np.argsort(rows[wrong, 2], kind="stable")][:EXAMPLES_MAX].tolist()
    ], int(staleness.max())


def _ends(workers: np.ndarray, tasks: np.ndarray, finishes: np.ndarray) -> np.ndarray:
    """Return when each task and all before it were finished by all, float64 `(tasks,)`."""
    table = np.full((workers.max() + 1, tasks.max()), np.inf)
    assert tasks.min() >= 1, "tasks count from 1"
    table[workers, tasks - 1] = finishes
    assert np.isfinite(table).sum() == len(workers), "a task is in the log twice"
    ends: np.ndarray = np.maximum.accumulate(table.max(axis=0))
    return ends
