"""Spares go where the job would end without them, and a job without nodes ends at once."""

import pytest

from mpips.core.machine import End, Send
from mpips.testing.cases import Case
from mpips.testing.sites import SchedulerSite
from mpips.testing.trial import Shape, run_trial
from mpips.wire.messages import Stop
from tests.core.views import lose, make_view


@pytest.mark.parametrize("policy", ["replace", "spread"])
def test_only_spare_follows_the_last_worker_not_a_server(policy: str) -> None:
    # Nodes: worker 1, servers 2 to 4, spare 5.
    view = make_view(2, servers=3, workers=1, spares=1)
    change = lose(view, 1, 2, policy=policy)
    assert change.view.nodes("worker") == [5]
    assert change.view.nodes("server") == [3, 4]
    assert set(change.view.actors) == {5}
    assert not change.lost


def test_only_spare_follows_a_server_while_a_worker_is_left() -> None:
    view = make_view(2, servers=3, workers=2, spares=1)
    change = lose(view, 1, 3)
    assert change.view.nodes("worker") == [2]
    assert 6 in change.view.nodes("server")


def test_job_of_which_all_have_died_ends_at_once() -> None:
    scheduler, _, _ = Case(1, 0, ("push", "wait"), 2).begin()
    assert isinstance(scheduler, SchedulerSite)
    effects = scheduler.machine.lose(0.0, [1, 2])
    assert effects[-1] == End(76)
    assert scheduler.machine.state == "ended"


def test_job_of_which_one_is_left_waits_for_it() -> None:
    scheduler, _, _ = Case(1, 0, ("push", "wait"), 1).begin()
    effects = scheduler.machine.lose(0.0, [1])
    assert [e.dest for e in effects if isinstance(e, Send) and isinstance(e.message, Stop)] == [2]
    assert scheduler.machine.state == "stopping"


def test_run_in_which_nothing_is_pushed_is_checked_like_others() -> None:
    # All of this seed's key lists are empty.
    trial = run_trial(300969, Shape(servers=4, spares=2, replicas=2))
    assert not trial.has_failed, trial.error
