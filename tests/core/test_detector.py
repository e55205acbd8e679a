"""Silence is told from the scheduler's own pauses, in random schedules and by broken builds."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest

from mpips.core.detector import Detector

NODES = range(1, 6)
TURNS = 750
BATCH = 64
SEEDS = 30
Times = npt.NDArray[np.float64]
Make = Callable[[Iterable[int], float], Detector]


@dataclass
class Run:
    """What happened in a schedule: when the scheduler ticked, who was heard last, who suspected."""

    silence_s: float
    pause_s: float
    silent: set[int] = field(default_factory=set)
    ticks: list[float] = field(default_factory=list)
    heard: dict[int, float] = field(default_factory=lambda: dict.fromkeys(NODES, 0.0))
    suspected: list[tuple[float, int]] = field(default_factory=list)

    def check(self) -> None:
        """Assert that the silent were suspected in time and once, and nobody else."""
        assert sorted(node for _, node in self.suspected) == sorted(self.silent)
        for when, node in self.suspected:
            since = self.heard[node]
            # A pause is what a gap between ticks has too much.
            paused = sum(max(0.0, end - begin - self.pause_s)
                         for begin, end in pairwise(self.ticks) if since < end <= when)
            assert when - since > self.silence_s
            assert when - since - paused <= self.silence_s + self.pause_s + 1e-6


def draw_turns(rng: np.random.Generator, silence_s: float) -> tuple[Times, Times]:
    """Return when the scheduler takes what has come, and when it ticks, turn by turn.

    It is paused anywhere in a turn, for up to 30 times the silence, or never; the last third is
    calm.
    """
    steps = rng.uniform(0, 0.02, (TURNS, 2)) * silence_s
    pauses = 10 ** rng.uniform(-2, 1.5, (TURNS, 2)) * silence_s
    paused = rng.random((TURNS, 2)) < rng.choice([0, 0.01, 0.1])
    paused[TURNS * 2 // 3 :] = False
    steps[:, 1] = 0.0
    times = np.cumsum(steps + paused * pauses).reshape(TURNS, 2)
    return times[:, 0], times[:, 1]


def draw_arrivals(rng: np.random.Generator, run: Run, polls: Times) -> list[tuple[float, int]]:
    """Return when beats arrive; some nodes fall silent, the others beat in time."""
    arrivals = []
    for node in NODES:
        beat_s = run.silence_s * rng.uniform(0.1, 0.5)
        times = np.arange(rng.uniform(0, beat_s), polls[-1], beat_s)
        times += rng.uniform(0, 0.2 * run.silence_s, len(times))
        if rng.random() < 0.4:
            run.silent.add(node)
            times = times[times < polls[rng.integers(0, TURNS // 2)]]
        arrivals += [(float(time), node) for time in times]
    return sorted(arrivals)


def play(seed: int, make: Make = Detector) -> Run:
    """Play a schedule: beats arrive, the scheduler turns, and is paused anywhere in a turn."""
    rng = np.random.default_rng(seed)
    silence_s = float(10 ** rng.uniform(0, 1.5))
    run = Run(silence_s, min(0.5, silence_s / 8))
    polls, ticks = draw_turns(rng, silence_s)
    arrivals = draw_arrivals(rng, run, polls)
    run.ticks = [0.0, *ticks.tolist()]

    # Begin with a tick, so that there is a time at which the silence began.
    detector = make(NODES, silence_s)
    assert detector.tick(0.0) == []
    at, late = 0, list[int]()
    for poll, tick in zip(polls.tolist(), ticks.tolist(), strict=True):
        # What piled up in a pause is not all taken at once.
        for time, node in arrivals[at : at + BATCH]:
            if time > poll:
                break
            detector.heard(poll, node)
            run.heard[node] = poll
            at += 1
        # A frame of somebody suspected may still have been on its way.
        for node in late:
            detector.heard(poll, node)
        late = detector.tick(tick)
        run.suspected += [(tick, node) for node in late]
    return run


@pytest.mark.parametrize("seed", range(SEEDS))
def test_only_the_silent_are_suspected_however_the_scheduler_is_paused(seed: int) -> None:
    play(seed).check()


def test_schedules_have_all_that_matters() -> None:
    runs = [play(seed) for seed in range(SEEDS)]
    gaps = [max(np.diff(run.ticks)) / run.silence_s for run in runs]
    assert sum(len(run.silent) for run in runs) > SEEDS
    assert sum(len(NODES) - len(run.silent) for run in runs) > SEEDS
    assert sum(gap > 10 for gap in gaps) > SEEDS // 3
    assert sum(gap < 0.1 for gap in gaps) > SEEDS // 6


# -- Broken builds -----------------------------------------------------------------------------


class NoCredit(Detector):
    """Takes its own pauses for the others' silence."""

    def __init__(self, nodes: Iterable[int], silence_s: float) -> None:
        super().__init__(nodes, silence_s)
        self._pause_s = math.inf


class ForgivesAll(Detector):
    """Begins everybody's silence anew after each pause, so that pauses hide the silent."""

    def tick(self, now: float) -> list[int]:
        """Tick."""
        if self._ticked is not None and now - self._ticked > self._pause_s:
            self._heard = dict.fromkeys(self._heard, self._own_clock(now))
        return super().tick(now)


class TellsAgain(Detector):
    """Tells a suspect at each tick."""

    def tick(self, now: float) -> list[int]:
        """Tick."""
        watched = dict(self._heard)
        suspects = super().tick(now)
        self._heard = watched
        return suspects


class Revives(Detector):
    """Watches a suspect again when a late message of it comes."""

    def heard(self, now: float, node: int) -> None:
        """Hear."""
        self.add(now, node)


class KeepsOrder(Detector):
    """Looks only at the node that was there first, however late it was heard."""

    def add(self, now: float, node: int) -> None:
        """Add."""
        self._heard[node] = self._own_clock(now)


@pytest.mark.parametrize("broken", [NoCredit, ForgivesAll, TellsAgain, Revives, KeepsOrder])
def test_broken_detector_is_noticed(broken: Make) -> None:
    noticed = 0
    for seed in range(SEEDS):
        try:
            play(seed, broken).check()
        except AssertionError:
            noticed += 1
    assert noticed > 5


# -- Single cases ------------------------------------------------------------------------------


def run_until(detector: Detector, begin: float, end: float) -> list[tuple[float, int]]:
    """Tick every quarter of a second and return who was suspected when."""
    times = np.arange(begin, end, 0.25)
    return [(float(now), node) for now in times for node in detector.tick(float(now))]


def test_longest_silence_is_told_first_and_all_of_one_moment_together() -> None:
    detector = Detector([1, 2, 3], 10.0)
    assert run_until(detector, 0, 5) == []
    detector.heard(5.0, 1)
    assert run_until(detector, 5, 30) == [(10.25, 2), (10.25, 3), (15.25, 1)]


def test_long_stop_of_the_scheduler_itself_suspects_nobody() -> None:
    detector = Detector([1, 2], 2.0)
    assert run_until(detector, 0, 1) == []
    assert detector.tick(3600.0) == []
    # Node 1 is heard again, and node 2 really is silent.
    detector.heard(3600.1, 1)
    assert run_until(detector, 3600.25, 3602) == [(3601.25, 2)]


def test_silence_of_who_joins_begins_then() -> None:
    detector = Detector([1], 10.0)
    run_until(detector, 0, 8)
    detector.add(8.0, 7)
    assert run_until(detector, 8, 18.25) == [(10.25, 1)]
    assert run_until(detector, 18.25, 20) == [(18.25, 7)]


def test_silence_begins_with_the_first_tick() -> None:
    """Starting ranks takes long, and nobody can be heard before."""
    detector = Detector([1], 10.0)
    detector.heard(900.0, 1)
    assert run_until(detector, 1000, 1010.25) == []
    assert run_until(detector, 1010.25, 1011) == [(1010.25, 1)]


def test_who_is_removed_is_not_suspected() -> None:
    detector = Detector([1, 2], 10.0)
    detector.remove(1)
    detector.remove(1)
    assert run_until(detector, 0, 50) == [(10.25, 2)]


def test_node_that_comes_back_by_a_view_is_watched_again() -> None:
    detector = Detector([1], 10.0)
    assert run_until(detector, 0, 50) == [(10.25, 1)]
    detector.add(50.0, 1)
    assert run_until(detector, 50, 90) == [(60.25, 1)]


def test_endless_silence_suspects_nobody() -> None:
    assert run_until(Detector([1], math.inf), 0, 1000) == []
