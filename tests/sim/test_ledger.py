"""A ledger of many pushes says of each one how often it was applied."""

import numpy as np
import pytest

from mpips.config import parse
from mpips.testing.checkers import CHECKS, Expected, Result, check_looks, check_once, digits
from mpips.testing.cluster import Simulation
from mpips.testing.ledger import BASE, DIGITS, Ledger, Settings

SETTINGS = Settings(steps=12, pushes=3)
CONFIG = parse("", "", ["run.servers=2", "run.workers=2", "run.logical_workers=2",
                        "model.steps=12", "model.pushes=3"])


@pytest.fixture(scope="module")
def result() -> Result:
    """What a calm job gives."""
    return Simulation(Ledger, CONFIG, 1).run()


@pytest.mark.slow
def test_more_pushes_than_a_number_has_digits_are_told_apart(result: Result) -> None:
    expected = Expected(SETTINGS, CONFIG)
    assert SETTINGS.columns == 3
    assert [line for check in CHECKS.values() for line in check(expected, result)] == []
    counts = expected.counts(SETTINGS.keys)
    assert np.array_equal(digits(result["marks"], 36), counts)


@pytest.mark.slow
@pytest.mark.parametrize("push", [0, DIGITS - 1, DIGITS, 35])
def test_push_that_is_applied_again_is_named(result: Result, push: int) -> None:
    expected = Expected(SETTINGS, CONFIG)
    key = int(np.flatnonzero(expected.counts(SETTINGS.keys)[:, 1, push])[0])
    marks = result["marks"].copy()
    marks[key, SETTINGS.columns + push // DIGITS] += BASE ** (push % DIGITS)
    (line,) = check_once(expected, {**result, "marks": marks})
    assert line == f"marks: push {push} of logical worker 1 is in row {key} 2 times, not 1"


@pytest.mark.slow
def test_look_may_lose_what_was_not_finished_only_where_servers_die(result: Result) -> None:
    # Logical worker 0 saw a push of 1's step under way, and in its next look no more.
    expected = Expected(SETTINGS, CONFIG)
    key, number = np.argwhere(expected.counts(SETTINGS.keys)[:, 1, :3])[0].tolist()
    looks = [look.copy() for look in result["seen"][0][0]["looks"]]
    column = SETTINGS.columns
    looks[0][key, column] += (digits(looks[0], 36)[key, 1, number] == 0) * BASE**number
    looks[1][key, column] -= (digits(looks[1], 36)[key, 1, number] == 1) * BASE**number
    seen = [[{**result["seen"][0][0], "looks": looks}, result["seen"][0][1]], *result["seen"][1:]]
    changed = {**result, "seen": seen}
    died = {**changed, "counters": {**result["counters"], "deaths": 1}}
    assert check_looks(expected, died) == []
    assert "what an earlier look saw has gone" in check_looks(expected, changed)[0]
