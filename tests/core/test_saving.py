"""Checkpoints are due after seconds, after iterations, or as they cost."""

import math
from typing import Any

import pytest

from mpips.core.saving import (
    FIRST_S,
    LEAST_S,
    Resume,
    Saver,
    When,
    mean_time_between_failures,
)
from mpips.wire.messages import Saved

DAY_S = 86_400.0
POINT = Resume(path="folder", tasks=1, results=[], takeovers={})


def saved(parts: list[dict[str, Any]]) -> Saved:
    """Return a node's answer."""
    return Saved(epoch=1, number=1, parts=parts)


def save(saver: Saver, now: float, cost_s: float) -> float:
    """Take a checkpoint that lasts so long, and return when it is done."""
    saver.start(now, [4], POINT)
    assert saver.take(4, saved([]))
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


# -- Who has copied, and who has written ---------------------------------------------------------


def begin(*nodes: int, when: When = When(every_s=1.0)) -> Saver:  # noqa: B008
    """Return a saver with a checkpoint on its way since the time 10."""
    saver = Saver(when)
    saver.begin(0.0)
    assert saver.is_due(10.0, 3)
    saver.start(10.0, nodes, POINT)
    return saver


def test_job_goes_on_when_the_last_one_has_copied() -> None:
    saver = begin(4, 5)
    assert saver.is_pausing
    assert not saver.copy(10.1, 4, 1)
    assert not saver.copy(10.2, 4, 1)
    assert not saver.copy(10.2, 5, 2)
    assert saver.is_pausing
    assert saver.copy(10.3, 5, 1)
    assert saver.is_pausing is False
    assert saver.pause_s == pytest.approx(0.3)


def test_checkpoint_is_whole_when_all_have_written_though_the_job_goes_on() -> None:
    saver = begin(4, 5)
    assert [saver.copy(10.1, node, 1) for node in (4, 5)] == [False, True]
    assert not saver.take(4, saved([{"name": "a"}]))
    assert not saver.take(4, saved([{"name": "a"}]))
    assert saver.take(5, saved([{"name": "b"}]))
    done = saver.finish(14.0)
    assert done.goes_on
    assert [part["name"] for part in done.parts] == ["a", "b"]
    assert saver.pause_s == pytest.approx(0.1)
    assert saver.cost_s == pytest.approx(4.0)


def test_next_checkpoint_does_not_begin_while_one_is_written() -> None:
    saver = begin(4)
    assert saver.copy(10.1, 4, 1)
    assert not saver.is_due(100.0, 9)
    # Nor does one that the job stops at.
    saver.stop = "a signal"
    assert not saver.is_due(101.0, 9)
    assert saver.take(4, saved([]))
    saver.finish(102.0)
    assert saver.is_due(102.1, 9)


def test_job_that_stops_waits_until_all_is_written() -> None:
    saver = begin(4)
    saver.stop = "a signal"
    assert not saver.copy(10.1, 4, 1)
    assert saver.is_pausing
    assert saver.take(4, saved([]))
    done = saver.finish(12.0)
    assert not done.goes_on
    assert saver.pause_s == pytest.approx(2.0)


def test_checkpoint_that_is_called_off_is_not_finished_by_late_answers() -> None:
    saver = begin(4, 5)
    assert saver.call_off()
    assert not saver.copy(11.0, 4, 1)
    assert not saver.take(4, saved([]))
    saver = begin(4)
    assert saver.copy(11.0, 4, 1)
    # The job does not stand still: it has nothing to go on with.
    stood_still = saver.call_off()
    assert not stood_still
    assert saver.saving is None


def test_iterations_count_from_where_a_checkpoint_was_begun() -> None:
    saver = begin(4, when=When(every_iterations=3))
    assert saver.copy(10.1, 4, 1)
    assert not saver.is_due(11.0, 5)
    assert saver.take(4, saved([]))
    saver.finish(12.0)
    assert not saver.is_due(12.0, 5)
    assert saver.is_due(12.0, 6)
