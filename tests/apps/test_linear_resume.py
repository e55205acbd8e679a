"""A linear model trained with stops at checkpoints is bitwise the one trained without."""

from pathlib import Path
from typing import Final

import numpy as np
import pytest

from mpips.apps.find import find_app
from mpips.config import parse
from mpips.files.model import read_model
from mpips.node.folder import RunFolder
from mpips.node.local import run_local
from tests.apps.linear_problems import Problem, make_labels, make_matrix, write_problem

SETTINGS: Final[dict[str, list[str]]] = {
    "exact": ["model.block=4"],
    "diagonal": ["model.tolerance=1e-4"],
    "delayed": ["model.blocks=4", "model.passes=12", "sync.max_delay=2"],
}


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """A problem of 90 rows and 12 columns."""
    matrix = make_matrix(1, n=90, d=12, mean=3.0)
    path = tmp_path_factory.mktemp("resume") / "train.h5"
    return write_problem(path, matrix, make_labels(1, matrix))


def train(
    problem: Problem, folder: Path, solver: str, *settings: str, servers: int = 2, workers: int = 2
) -> tuple[str, bytes]:
    """Return how a run ends, and the bytes of its weights."""
    config = parse("", "", [
        f"data.train={problem.path}", "model.kind=linear", f"model.solver={solver}",
        *SETTINGS[solver], f"run.servers={servers}", f"run.workers={workers}",
        "run.logical_workers=3", *settings])  # fmt: skip
    made = RunFolder(folder, config)
    try:
        result = run_local(find_app(config), config, made)
    finally:
        made._metrics.close()
    if result["status"] != "done":
        return result["status"], b""
    return "done", np.asarray(read_model(folder / "model.h5").weights).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("solver", SETTINGS)
def test_stopped_and_resumed_run_ends_with_the_same_bits(
    problem: Problem, tmp_path: Path, solver: str
) -> None:
    whole = train(problem, tmp_path / "whole", solver)
    assert whole[0] == "done"
    stops = 0
    # Stop after every few steps, and go on with other numbers of ranks.
    for clock in (1, 3, 4, 9, 17):
        shape = {"servers": 1 + clock % 3, "workers": 1 + clock % 2}
        status, weights = train(problem, tmp_path / "run", solver, "run.resume=auto",
                                f"run.stop_after_iterations={clock}", **shape)
        stops += status == "stopped"
        if status == "done":
            break
    if status == "stopped":
        status, weights = train(problem, tmp_path / "run", solver, "run.resume=auto")
    assert stops >= 2
    assert (status, weights) == whole
