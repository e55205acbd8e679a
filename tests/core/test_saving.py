"""Checkpoints are due after seconds, after iterations, or as they cost."""

import math

import pytest

from mpips.core.saving import FIRST_S, LEAST_S, Saver, When, mean_time_between_failures

DAY_S = 86_400.0


def save(saver: Saver, now: float, cost_s: float) -> float:
    """Take a checkpoint that lasts so long, and return when it is done."""
    saver.start(now, 1, "folder", [4])
    assert saver.take(now + cost_s, 4, 1, [])
    saver.finish(now + cost_s)
    return now + cost_s


def due(saver: Saver, now: float, iterations: int = 0) -> float:
    """Return after how many whole seconds a checkpoint is due; infinity: not in a day."""
    seconds = (s for s in range(int(DAY_S)) if saver.is_due(now + s, iterations))
    return next(seconds, math.inf)


def test_nothing_is_due_that_nobody_has_asked_for() -> None:
    saver = Saver(When())
    saver.begin(0.0)
    assert due(saver, 0.0, 10**9) == math.inf


def test_given_seconds_count_from_the_end_of_the_last_one() -> None:
    saver = Saver(When(every_s=30.0))
    saver.begin(5.0)
    assert due(saver, 5.0) == 30
    assert due(saver, save(saver, 100.0, 7.0)) == 30


@pytest.mark.parametrize("cost_s", [0.5, 8.0, 200.0])
@pytest.mark.parametrize("mtbf_s", [3600.0, 1e6])
def test_computed_interval_costs_least(cost_s: float, mtbf_s: float) -> None:
    saver = Saver(When(every_s=None, mtbf_s=mtbf_s))
    saver.begin(0.0)
    assert due(saver, 0.0) == FIRST_S
    save(saver, 60.0, cost_s)
    chosen = saver.interval_s
    # What is lost a second: the checkpoints, and half an interval at each failure.
    lost = {t: cost_s / t + t / 2 / mtbf_s for t in (chosen, chosen * 0.9, chosen * 1.1)}
    assert min(lost, key=lost.__getitem__) == chosen
    # It follows the cost.
    save(saver, 1000.0, 4.0 * cost_s)
    assert saver.interval_s == pytest.approx(2.0 * chosen)


def test_interval_of_checkpoints_that_cost_nothing_is_not_nothing() -> None:
    saver = Saver(When(every_s=None))
    saver.begin(0.0)
    assert due(saver, save(saver, 60.0, 0.0)) == LEAST_S


def test_more_hosts_fail_sooner() -> None:
    one, many = Saver(When(every_s=None)), Saver(When(every_s=None))
    one.begin(0.0, hosts=1)
    many.begin(0.0, hosts=1000)
    for saver in (one, many):
        save(saver, 60.0, 5.0)
    assert one.interval_s > 1.5 * many.interval_s
    assert mean_time_between_failures(1) == pytest.approx(DAY_S, rel=0.01)
    assert mean_time_between_failures(10**6) == pytest.approx(365 * DAY_S / 1e6, rel=0.01)


def test_iterations_count_from_the_last_checkpoint_or_the_resume() -> None:
    saver = Saver(When(every_iterations=10))
    saver.begin(0.0, iterations=7)
    assert next(n for n in range(7, 30) if saver.is_due(1e6, n)) == 17
    assert saver.is_due(1e6, 19)
    save(saver, 1e6, 1.0)
    assert next(n for n in range(19, 40) if saver.is_due(1e6, n)) == 29
