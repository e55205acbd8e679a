"""Runs that have found something once, so that it is not found again."""

from dataclasses import replace

import numpy as np
import pytest

from mpips.testing.faults import draw_faults
from mpips.testing.ledger import Settings
from mpips.testing.trial import Setup, Shape, play_trial

Kills = tuple[tuple[float, int], ...]
Stops = tuple[tuple[float, int, float], ...]


def setup(
    seed: int,
    shape: Shape,
    settings: Settings,
    silence_s: float,
    kills: Kills = (),
    stops: Stops = (),
) -> Setup:
    """Return a run whose deaths are given, and whose other faults are drawn."""
    faults = draw_faults(np.random.default_rng([seed, 1]), shape.nodes)
    faults = replace(faults, kills=kills, stops=stops, kill_works=0.5)
    return Setup(shape, settings, faults, "off", silence_s, has_kills=True)


FOUND = {
    # The only spare became a server, and no worker was left.
    100039: setup(
        100039,
        Shape(2, 1, 2, spares=1, replicas=2),
        Settings(steps=2, pushes=3, reissue_s=0.3),
        3.0,
        ((0.10670729675638436, 3), (0.17447844042649724, 2), (0.9933157302439649, 4)),
    ),
    # All nodes had died, and the scheduler waited for their goodbye.
    102427: setup(
        102427,
        Shape(1, 1, 2, spares=0, replicas=1),
        Settings(steps=2, pushes=3, reissue_s=0.3),
        3.0,
        ((0.1460094053841461, 1), (0.1539337656651886, 2)),
        ((0.16012306683560945, 2, 8.437295064940145),),
    ),
    # A call was done again from values that the owner lost with its life.
    200294: setup(
        200294,
        Shape(3, 4, 4, spares=0, replicas=2),
        Settings(steps=3, pushes=3, reissue_s=0.03),
        0.4,
        ((0.22346697696155282, 7), (0.6759224692712582, 4), (0.8819634888949449, 3)),
    ),
    # Two attempts of a call at once: the first one read what the other one had pushed.
    400531: setup(
        400531,
        Shape(2, 3, 3, spares=1, replicas=2),
        Settings(steps=3, pushes=2, reissue_s=0.03),
        3.0,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", FOUND)
def test_run_that_failed_once_holds(seed: int) -> None:
    trial = play_trial(seed, FOUND[seed])
    assert not trial.has_failed, f"{trial.error} {trial.violations} {trial.replay()}"
