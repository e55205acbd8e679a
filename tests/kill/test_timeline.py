"""What follows the death of a server comes in its order, and others' requests are left alone."""

from pathlib import Path

import pytest

from tests.kill.timeline import line, measure
from tests.run.jobs import processes_of


@pytest.mark.kill
@pytest.mark.slow
@pytest.mark.parametrize("run", [0, pytest.param(1, marks=pytest.mark.soak)])
def test_job_gets_over_a_server_s_death_step_by_step(
    run: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    found = measure(tmp_path / "job", request.config.getoption("--seed") + run, keys=60_000)
    print(line([found]))
    # Logs are exact to a millisecond.
    assert 0 < found.detected < found.promoted + 0.002
    assert found.detected < found.answered
    assert found.detected < found.redundant
    # Its worker had up to two requests under way; whatever was for others has not been disturbed.
    assert found.repeated <= 2
    assert found.repeated_else == 0
    # A worker may have a view a moment before a server has it, though servers are told first.
    assert found.parked_else <= 3
    assert processes_of(str(tmp_path)) == []
