"""What users are told of deaths: who died where, who goes on with what, and what is left."""

from typing import Any

import numpy as np
import pytest

from mpips.core.news import least_copies, tell_of_change, tell_of_copies, tell_of_deaths
from mpips.node.folder import plain
from tests.core.views import join_all, lose, make_view, rows


def text_of(change: Any) -> str:
    """Return the sentence about a change."""
    return str(tell_of_change(change).facts["text"])


def test_dead_are_named_with_their_hosts() -> None:
    view = make_view(1, servers=4)
    server, worker = view.nodes("server")[0], view.nodes("worker")[0]
    on = {member.node: member.host for member in view.members}
    one = tell_of_deaths(view, [f"server {server}"], [server])
    assert one.facts["text"] == f"server {server} on {on[server]} has died"
    two = tell_of_deaths(view, [f"server {server}", f"worker {worker}"], [server, worker])
    assert two.facts["deaths"] == 2
    assert f"{on[server]} and worker {worker} on {on[worker]} have died" in two.facts["text"]


def test_each_new_owner_is_named_with_what_it_has_taken_over() -> None:
    view = make_view(1, servers=4)
    change = lose(view, 4)
    report = tell_of_change(change)
    gained = [new[2] for old, new in zip(rows(view), rows(change.view), strict=True) if old[2] == 4]
    counts = np.bincount(gained)
    for node in set(gained):
        noun = "segment" if counts[node] == 1 else "segments"
        assert f"server {node} takes over {counts[node]} {noun}" in report.facts["text"]
    assert report.facts["segments"] == len(gained)
    assert report.facts["epoch"] == 2
    # Programs read the same facts in metrics.jsonl.
    assert plain(report.facts) == report.facts


@pytest.mark.parametrize(("policy", "spares", "expected"), [
    ("replace", 1, "spare 5 is a worker now; worker 5 goes on for logical workers 2 and 3"),
    ("replace", 0, "worker 1 goes on for logical workers 2 and 3"),
    ("drop", 1, "logical workers 2 and 3 will be left out"),
])  # fmt: skip
def test_whoever_goes_on_for_a_dead_worker_is_named(
    policy: str, spares: int, expected: str
) -> None:
    view = make_view(1, servers=2, workers=2, spares=spares)
    assert text_of(lose(view, 2, policy=policy)) == expected


def test_death_that_changes_nothing_is_told_as_such() -> None:
    assert text_of(lose(make_view(1, servers=3, spares=1), 6)) == "nothing to take over"


def test_user_is_warned_when_no_server_is_left_for_copies() -> None:
    text = text_of(lose(make_view(1, servers=2), 3))
    assert text.endswith("no server is left for copies: the next server's death will end the job")
    assert "no server" not in text_of(lose(make_view(1, servers=3), 3))


def test_redundancy_is_that_of_the_segment_with_the_fewest_copies() -> None:
    view = make_view(2, servers=4)
    assert least_copies(view) == 2
    change = lose(view, 4)
    assert least_copies(change.view) == 1
    assert least_copies(join_all(change.view)) == 2
    assert least_copies(make_view(0)) == 0


def test_copies_are_told_with_the_seconds_that_they_took() -> None:
    facts = tell_of_copies(0.12345678).facts
    assert "after 0.123 s" in facts["text"]
    assert facts["after_s"] == 0.123457
