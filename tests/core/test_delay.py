"""Tau is picked from waiting time: raised while it is large, lowered when it is negligible."""

from collections.abc import Callable

import numpy as np
import pytest

from mpips.core.delay import LARGEST, DelayControl


def settle(share: Callable[[int], float], rounds: int = 30) -> list[int]:
    """Return the taus that are picked if a tau makes workers wait for so much of their time."""
    control = DelayControl()
    return [control.observe(10 * share(control.max_delay), 10.0) for _ in range(rounds)]


def test_delay_is_raised_while_waiting_is_large_and_then_stays() -> None:
    """With half of the time waited at 0, as in the paper, halved with each doubling."""
    assert settle(lambda tau: 0.5 / max(1, 2 * tau))[:4] == [1, 1, 1, 1]
    assert settle(lambda tau: 1 - tau / 9 if tau < 9 else 0.06)[:6] == [1, 2, 4, 8, 8, 8]


def test_delay_is_lowered_when_waiting_is_negligible() -> None:
    control = DelayControl()
    taus = [control.observe(waited, 1.0) for waited in (1, 1, 1, 1, 1, 0.0, 0.04, 0.05, 0.25)]
    assert taus == [1, 2, 4, 8, 16, 8, 4, 4, 4]
    assert [control.observe(0, 1.0) for _ in range(4)] == [2, 1, 0, 0]


def test_delay_is_bounded() -> None:
    assert max(settle(lambda tau: 1.0)) == LARGEST
    control = DelayControl(largest=3)
    assert [control.observe(1, 1) for _ in range(4)] == [1, 2, 3, 3]
    assert DelayControl(largest=0).observe(1, 1) == 0


def test_nothing_measured_changes_nothing() -> None:
    control = DelayControl()
    assert control.observe(1, 1) == 1
    assert control.observe(0, 0) == 1


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_delay_does_not_swing_under_noise_of_a_tenth(exponent: float) -> None:
    random = np.random.default_rng(1)
    taus = settle(lambda tau: 0.6 / (1 + tau) ** exponent * random.uniform(0.9, 1.1))
    assert len(set(taus[8:])) == 1, taus
