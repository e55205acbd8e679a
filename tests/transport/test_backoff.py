"""An event loop that waits is fast at first and cheap in the end."""

import os

import pytest

from mpips.transport.backoff import SPINS, Backoff


class Night:
    """A clock that only sleeping moves, and the sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.sleeps: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.sleeps.append(seconds)


def waiting(crowded: bool = False) -> tuple[Night, Backoff]:
    night = Night()
    return night, Backoff(crowded, night.clock, night.sleep)


def test_first_waits_do_not_sleep() -> None:
    night, backoff = waiting()
    for _ in range(SPINS):
        backoff.wait()
    assert night.sleeps == []


def test_sleeps_double_from_ten_microseconds_to_one_millisecond() -> None:
    night, backoff = waiting()
    for _ in range(SPINS + 10):
        backoff.wait()
    growing = [x * 1e-6 for x in (10, 20, 40, 80, 160, 320, 640)]
    assert night.sleeps == pytest.approx(growing + 3 * [1e-3])


def test_a_second_of_silence_lets_sleeps_grow_to_twenty_milliseconds() -> None:
    night, backoff = waiting()
    for _ in range(SPINS + 1100):
        backoff.wait()
    in_time = [s for s, at in zip(night.sleeps, begins(night.sleeps), strict=True) if at < 1.0]
    assert max(in_time) == 1e-3
    assert night.sleeps[-1] == max(night.sleeps) == 20e-3


def test_sleep_ends_at_the_time_that_is_given_and_is_none_after_it() -> None:
    night, backoff = waiting()
    for _ in range(SPINS + 1100):
        backoff.wait()
    until = night.now + 25e-3
    for _ in range(3):
        backoff.wait(until)
    assert night.sleeps[-3:] == pytest.approx([20e-3, 5e-3, 0.0])


def test_idle_loop_polls_at_most_sixty_times_a_second() -> None:
    night, backoff = waiting()
    for _ in range(SPINS + 5000):
        backoff.wait()
    begin, end = begins(night.sleeps)[-500], begins(night.sleeps)[-1]
    assert 499 / (end - begin) < 60


def test_something_to_do_begins_anew() -> None:
    night, backoff = waiting()
    for _ in range(SPINS + 2000):
        backoff.wait()
    backoff.busy()
    before = len(night.sleeps)
    for _ in range(SPINS):
        backoff.wait()
    assert len(night.sleeps) == before
    backoff.wait()
    assert night.sleeps[-1] == 10e-6


@pytest.mark.parametrize(("crowded", "yields"), [(True, SPINS), (False, 0)])
def test_spin_gives_way_only_where_ranks_outnumber_cores(
    crowded: bool, yields: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[None] = []
    monkeypatch.setattr(os, "sched_yield", lambda: given.append(None))
    _, backoff = waiting(crowded)
    for _ in range(SPINS + 5):
        backoff.wait()
    assert len(given) == yields


def begins(sleeps: list[float]) -> list[float]:
    times, now = [], 0.0
    for seconds in sleeps:
        times.append(now)
        now += seconds
    return times
