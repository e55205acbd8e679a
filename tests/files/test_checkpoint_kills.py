"""A process killed while it writes a checkpoint leaves the one before, or the whole new one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mpips.files.checkpoint import find_checkpoint, prune
from mpips.files.steps import STEPS, reach, unwatch, watch
from tests.files.checkpoints import SMALL, all_bits, make_checkpoint, make_segments, read_all

KILLED = 9


def save(run: Path, tasks: int) -> None:
    """Write a checkpoint of two servers, and remove all others."""
    prune(run, 1, make_checkpoint(run, tasks, 2, SMALL)[0])


def steps_of(call: Callable[[], object]) -> list[str]:
    """Return the steps that a call reaches."""
    seen: list[str] = []
    watch(seen.append)
    try:
        call()
    finally:
        unwatch(seen.append)
    return seen


def kill_at(place: int, call: Callable[[], object]) -> None:
    """Run a call in a process that ends, without any word, at the step of this place."""
    process = os.fork()
    if not process:
        left = [place]

        def die(step: str) -> None:
            left[0] -= 1
            if left[0] < 0:
                os._exit(KILLED)

        watch(die)
        try:
            call()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == KILLED


def test_all_named_steps_are_reached_and_no_other(tmp_path: Path) -> None:
    save(tmp_path, 1)
    assert set(steps_of(lambda: save(tmp_path, 2))) == set(STEPS)
    assert steps_of(lambda: reach("opened")) == ["opened"]
    # Who has stopped watching is told nothing.
    assert steps_of(lambda: None) == []


@pytest.mark.slow
def test_kill_at_any_step_leaves_the_one_before_or_the_whole_new_one(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    save(tmp_path / "whole", 1)
    steps = steps_of(lambda: save(tmp_path / "whole", 2))
    # The manifest is the last file.
    appears = len(steps) - steps[::-1].index("renamed")
    for place, step in enumerate(steps):
        run = tmp_path / str(place)
        run.mkdir()
        save(run, 1)
        kill_at(place, lambda run=run: save(run, 2))
        wanted = 1 if place < appears - 1 else 2
        assert found_in(run) == (wanted, all_bits(make_segments(wanted, SMALL))), (place, step)
        # The run goes on, and does not stumble over what is left.
        save(run, 3)
        assert found_in(run) == (3, all_bits(make_segments(3, SMALL))), (place, step)
        assert len(list((run / "checkpoints").iterdir())) == 1


def found_in(run: Path) -> tuple[int, list[tuple[object, ...]]]:
    """Return how many tasks the newest checkpoint has, and its segments."""
    found, _ = find_checkpoint(run)
    assert found is not None
    return found.manifest.tasks, read_all(found)


@pytest.mark.slow
def test_old_checkpoint_that_is_removed_too_early_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A build that removes the old checkpoint before the new one is whole.
    from tests.files import checkpoints

    def early(run: Path) -> Path:
        folder = new(run)
        prune(run, 1, folder)
        return folder

    new = checkpoints.new_checkpoint
    save(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "new_checkpoint", early)
    kill_at(9, lambda: save(tmp_path, 2))
    assert find_checkpoint(tmp_path)[0] is None
