"""Runs that have found something once, so that it is not found again."""

import pytest

from mpips.testing.trial import Shape, run_trial

FOUND = {
    # The only spare became a server, and no worker was left.
    100039: Shape(2, 1, 2, spares=1, replicas=2),
    # All nodes had died, and the scheduler waited for their goodbye.
    102427: Shape(1, 1, 2, spares=0, replicas=1),
    # A call was done again from values that the owner lost with its life.
    200294: Shape(3, 4, 4, spares=0, replicas=2),
    # Two attempts of a call at once: the first one read what the other one had pushed.
    400531: Shape(2, 3, 3, spares=1, replicas=2),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", FOUND)
def test_run_that_failed_once_holds(seed: int) -> None:
    trial = run_trial(seed, FOUND[seed])
    assert not trial.has_failed, f"{trial.error} {trial.violations} {trial.replay()}"
