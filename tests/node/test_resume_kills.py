"""A run whose process is killed while it writes checkpoints goes on to the same bits."""

import os
from pathlib import Path

import numpy as np
import pytest

from mpips.files.steps import watch
from mpips.node.resume import find_resume
from tests.node.test_resume import Forgetful, Walk, job, run, same

ALWAYS = ("run.resume=auto", "checkpoint.every_s=0.000001", "checkpoint.keep=1")
AT_ONCE = 4
KILLED = 9


def run_until(place: int, folder: Path) -> bool:
    """Run in a process that ends at a step of writing, and return whether it came so far.

    A run from its beginning has 231 steps.
    """
    process = os.fork()
    if not process:
        left = [place]

        def die(step: str) -> None:
            # Items are many, and what is between them all looks alike.
            left[0] -= step != "item"
            if left[0] < 0:
                os._exit(KILLED)

        watch(die)
        try:
            run(Walk, folder, job(*ALWAYS))
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == KILLED


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_killed_run_goes_on_to_the_bits_of_the_one_that_was_not(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    random = np.random.default_rng([request.config.getoption("--seed"), 11])
    whole = run(Walk, tmp_path / "whole", job())
    for number in range(AT_ONCE):
        folder = tmp_path / str(number)
        # Each time it comes further, be it on other checkpoints than before.
        places = []
        while len(places) < 4 and run_until(place := int(random.integers(0, 230)), folder):
            places.append(place)
        if not (folder / "result.json").exists():
            assert places
            assert same(run(Walk, folder, job(*ALWAYS)), whole), places


@pytest.mark.slow
def test_state_that_is_not_restored_after_a_kill_is_noticed(tmp_path: Path) -> None:
    whole = run(Walk, tmp_path / "whole", job())
    assert run_until(100, tmp_path / "run")
    assert not same(run(Forgetful, tmp_path / "run", job(*ALWAYS)), whole)


def test_run_that_was_killed_in_its_first_checkpoint_begins_anew(tmp_path: Path) -> None:
    assert run_until(0, tmp_path / "run")
    (first,) = (tmp_path / "run" / "checkpoints").iterdir()
    assert list(first.iterdir()) == []
    assert find_resume(job(*ALWAYS), tmp_path / "run") is None
