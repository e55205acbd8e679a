"""Says by what a job has written whether it ended well; mpirun's exit code is not asked."""

import pickle
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

from mpips.config import load
from mpips.errors import RanksLostError
from mpips.node.folder import CONFIG, read_result
from mpips.testing.checkers import CHECKS, EXAMPLES_MAX, Expected, digits
from tests.kill import app
from tests.kill.plans import LOST, RIGHT, WRONG, Plan

NAMES: Final = r"\b(?:rank|node|scheduler|server|worker|spare) (\d+)"


def judge(plan: Plan, folder: Path, victims: Collection[int], code: int) -> tuple[str, list[str]]:
    """Return how a job that is over has ended, and what is wrong with that.

    Args:
        plan: what was to be done.
        folder: the run folder.
        victims: the ranks that were killed.
        code: what the launcher ended with: it has to tell what the result says.
    """
    result = read_result(folder)
    if result is None:
        # Who is left may be too few to decide anything, or to write; the launcher has to know.
        was_killed = bool(victims) and code == RanksLostError.exit_code
        return (LOST, []) if was_killed else (WRONG, [f"there is no result; exit code {code}"])
    wrong = [] if result["exit_code"] == code else [
        f"the launcher says {code}, the result {result['exit_code']}"]
    if result["exit_code"] == RanksLostError.exit_code:
        return LOST, wrong + check_names(result["error"], victims)
    if result["status"] != "done" or result["exit_code"] != 0:
        return WRONG, [*wrong, f"it ended with {result['exit_code']}: {result['error']}"]
    # Servers of a job that has started again count calls anew, as a spare does.
    deaths = len(victims) if plan.every_s else result["counters"]["deaths"]
    wrong += check_facts(folder, {**result["counters"], "deaths": deaths})
    # A death that nobody has noticed was not survived, and one that was not there is a mistake.
    # A job that has started again knows of none.
    if not plan.every_s and result["counters"]["deaths"] != len(victims):
        wrong.append(f"{len(victims)} were killed, and {result['counters']['deaths']} called dead")
    return (WRONG if wrong else RIGHT), wrong


def check_names(error: str, victims: Collection[int]) -> list[str]:
    """Return which ranks an error names that are well; an error has to name one that is dead."""
    named = {int(number) for number in re.findall(NAMES, error)}
    if not named & set(victims):
        return [f"killed were {sorted(victims)}, and not one of them is named: {error}"]
    return [f"rank {rank} is called lost, and was not killed" for rank in named - set(victims)]


def check_facts(folder: Path, counters: dict[str, int]) -> list[str]:
    """Return what does not hold in the ledger of a job that has ended well."""
    facts: dict[str, Any] = pickle.loads((folder / app.FACTS).read_bytes())
    facts["counters"] = counters
    expected = Expected(app.settings_of(folder), load(folder / CONFIG))
    wrong = [line for check in CHECKS.values() for line in check(expected, facts)]
    for worker in range(expected.workers):
        wrong += check_acknowledged(expected, facts, worker, app.finished(folder, worker))
    return wrong


def check_acknowledged(
    expected: Expected, facts: dict[str, Any], worker: int, acknowledged: Collection[int]
) -> list[str]:
    """Return the pushes whose number in the table is not 1 if acknowledged, and else 0 or 1."""
    wanted = expected.counts(expected.settings.keys)[:, worker]
    found = digits(facts["marks"], wanted.shape[1])[:, worker]
    wrong = []
    for push in range(wanted.shape[1]):
        is_wrong = found[:, push] > wanted[:, push]
        if push in acknowledged:
            is_wrong |= found[:, push] < wanted[:, push]
        if is_wrong.any():
            word = "" if push in acknowledged else "not "
            wrong.append(f"push {push} of logical worker {worker}, {word}acknowledged, is in"
                         f" {found[is_wrong, push].tolist()} times")
    return wrong[:EXAMPLES_MAX]
