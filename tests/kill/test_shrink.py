"""Real jobs never hang where a shrink fails.

That they go on on a smaller communicator after each kind of death is told in `test_kills.py`, and
that they do not where that is not wanted in `test_points.py`.
"""

from pathlib import Path

import pytest

from mpips.node.folder import read_result
from tests.kill.harness import Report, run_plan
from tests.kill.plans import KILL, RIGHT, Plan, Strike
from tests.run.jobs import processes_of

SEED = 1
STRIKE = Strike(KILL, (("server", 2),), share=0.2)
WINDOW = Plan("window", SEED, servers=3, workers=2, spares=0, logical_workers=2, replicas=1,
              expected=RIGHT, strikes=(STRIKE,), every_s=0.3)  # fmt: skip


def counter(report: Report, folder: Path, name: str = "shrinks") -> int:
    """Return a counter of a job that has ended as it must."""
    assert report.is_as_expected, str(report)
    assert processes_of(str(folder)) == []
    result = read_result(folder / "job" / "out")
    assert result is not None
    return int(result["counters"][name])


@pytest.mark.slow
@pytest.mark.parametrize("point", [
    pytest.param("take Halt", marks=pytest.mark.soak), "sent Drained",
])  # fmt: skip
def test_death_before_the_order_calls_the_shrink_off(point: str, tmp_path: Path) -> None:
    strikes = (Strike(KILL, (("server", 0),), share=0.2),)
    plan = Plan("early", SEED, 3, 2, 1, 2, replicas=1, expected=RIGHT, strikes=strikes)
    # A server is gone, and a worker dies while all stand still for that.
    report = run_plan(plan, tmp_path / "job", die_at=f"1 {point} 0")
    assert counter(report, tmp_path, "deaths") == 2
    assert counter(report, tmp_path) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("who", [pytest.param("worker", marks=pytest.mark.soak), "scheduler"])
def test_rank_that_stops_before_it_shrinks_ends_in_a_restart_and_in_no_hang(
    who: str, tmp_path: Path
) -> None:
    home, node = tmp_path / "job", {"scheduler": 0, "worker": 1}[who]
    report = run_plan(WINDOW, home, "recovery.mode=in-place", die_at=f"{node} take Shrink 0 stop")
    assert report.is_as_expected, str(report)
    result = read_result(home / "out")
    assert result is not None
    # Whoever stops keeps the others waiting, until all end.
    assert result["attempt"] == "2"
    assert processes_of(str(tmp_path)) == []


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("point", [
    pytest.param("0 take Shrink", marks=pytest.mark.soak),
    pytest.param("1 take Shrink", marks=pytest.mark.soak),
    "3 during Shrink",
])  # fmt: skip
def test_death_inside_the_shrink_ends_right_in_place_or_by_restart(
    point: str, tmp_path: Path
) -> None:
    home = tmp_path / "job"
    report = run_plan(WINDOW, home, "recovery.mode=in-place", die_at=f"{point} 0")
    assert report.is_as_expected, str(report)
    assert processes_of(str(tmp_path)) == []
