"""What must hold after a simulated run, whatever went wrong in it; each returns what does not."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from mpips.config import Config
from mpips.testing.ledger import BASE, DIGITS, Draw, Floats, Settings, descend, draw, spread

EXAMPLES_MAX: Final = 3

Result = Mapping[str, Any]


class Expected:
    """What a ledger's run must give, computed without any parameter server.

    Args:
        settings: of the ledger.
        config: of the job.
    """

    def __init__(self, settings: Settings, config: Config) -> None:
        self.settings, self.workers = settings, config.logical_workers
        self._seed = config.run.seed
        self._draws: dict[tuple[int, int], Draw] = {}

    def draw(self, worker: int, step: int) -> Draw:
        """Return what a logical worker does in a step."""
        if (worker, step) not in self._draws:
            self._draws[worker, step] = draw(self.settings, self._seed, worker, step)
        return self._draws[worker, step]

    def counts(self, keys: int) -> np.ndarray:
        """Return how often each push is in each value: 0 or 1, `(keys, workers, pushes)`."""
        settings = self.settings
        there = np.zeros((keys, self.workers, settings.steps * settings.pushes), np.int64)
        for worker in range(self.workers):
            for step in range(settings.steps):
                for number, pushed in enumerate(self.draw(worker, step).keys):
                    at = step * settings.pushes + number
                    there[pushed.astype(np.int64), worker, at] = 1
        return there

    def sums(self) -> list[Floats]:
        """Return the sequential table after each step: the serial program, in worker order."""
        states, state = [], np.zeros(self.settings.keys)
        for step in range(self.settings.steps):
            parts = [self.draw(worker, step) for worker in range(self.workers)]
            begin, end = parts[0].range
            before = state[begin:end].copy()
            total = descend(parts[0].noise, before)
            for part in parts[1:]:
                total += descend(part.noise, before)
            state[begin:end] += total
            states.append(state.copy())
        return states


def digits(values: Floats, pushes: int) -> np.ndarray:
    """Return how often each push is in each value, by its digits.

    Args:
        values: rows of a table, float64 `(keys, workers * columns)`.
        pushes: of each logical worker.

    Returns:
        int64 `(keys, workers, pushes)`.

    >>> digits(np.array([[1 + 2 * 8.0, 8.0]]), 3).tolist()
    [[[1, 2, 0], [0, 1, 0]]]
    """
    columns = -(-pushes // DIGITS)
    by_worker = values.reshape(len(values), values.shape[1] // columns, columns)
    column, digit = np.divmod(np.arange(pushes), DIGITS)
    return (np.floor(by_worker[..., column] / BASE**digit) % BASE).astype(np.int64)


def check_once(expected: Expected, result: Result) -> list[str]:
    """Return the pushes that are in the tables never, twice, or where they were not sent."""
    wanted = expected.counts(expected.settings.keys)
    found = digits(result["marks"], wanted.shape[2])
    wrong = _differences("marks", wanted, found)
    # A sparse table has the keys that were pushed, and no others.
    touched = np.flatnonzero(wanted.any(axis=(1, 2)))
    keys = spread(touched.astype(np.uint64), expected.settings)
    if not np.array_equal(result["keys"], keys):
        return [*wrong, f"spread: {len(result['keys'])} keys, not the {len(keys)} pushed"]
    found = digits(result["found"], wanted.shape[2])
    return wrong + _differences("spread", wanted[touched], found)


def check_sums(expected: Expected, result: Result) -> list[str]:
    """Return where the sequential table differs from the serial program, by bits."""
    states, wrong = expected.sums(), []
    if states[-1].tobytes() != result["sums"].tobytes():
        wrong.append("sums: in the end, they are not the serial program's")
    for step, seen in enumerate(result["seen"]):
        begin, end = expected.draw(0, step).range
        wrong += [
            f"sums: logical worker {worker} saw others than the serial program after step {step}"
            for worker, one in enumerate(seen)
            if one["sums"].tobytes() != states[step][begin:end].tobytes()
        ]
    return wrong


def check_looks(expected: Expected, result: Result) -> list[str]:
    """Return what workers must have seen and did not, or saw before it was sent, or no more.

    A pull that started after a push was finished contains it, and a worker's later pull contains
    all that an earlier one did (its clocks never go back). Where servers die, a push that was not
    finished may have been seen on one of them, and then be gone until it is sent again.
    """
    settings, wrong = expected.settings, []
    may_go = result["counters"]["deaths"] > 0
    wanted = expected.counts(settings.keys)
    steps, places = np.divmod(np.arange(wanted.shape[2]), settings.pushes)
    for worker in range(expected.workers):
        last = np.zeros_like(wanted)
        for step, calls in enumerate(result["seen"]):
            for place, look in enumerate(calls[worker]["looks"]):
                seen = digits(look, wanted.shape[2])
                who = f"logical worker {worker}, step {step}, look {place}"
                if (seen > wanted).any() or seen[:, :, steps > step].any():
                    wrong.append(f"{who}: a push twice, or one that was not sent yet")
                if not may_go and (seen < last).any():
                    wrong.append(f"{who}: what an earlier look saw has gone")
                # Calls of steps before are over, and of this one every second push was awaited.
                if (seen < wanted)[:, :, steps < step].any():
                    wrong.append(f"{who}: a push of a finished call is missing")
                awaited = (steps == step) & (places % 2 == 0) & (places <= 2 * place)
                if (seen < wanted)[:, worker, awaited].any():
                    wrong.append(f"{who}: a finished push of its own is missing")
                last = seen
    return wrong


def check_calls(expected: Expected, result: Result) -> list[str]:
    """Return the server calls that were run twice, or not at all.

    When a server has died, the others are called again, and a spare that follows it, or comes by
    order, begins anew.
    """
    if result["counters"]["deaths"] or result["counters"]["orders"]:
        return []
    return [
        f"step {step}: the servers were called {counts} times"
        for step, counts in enumerate(result["served"])
        if any(count != step + 1 for count in counts)
    ]


CHECKS: Final[dict[str, Callable[[Expected, Result], list[str]]]] = {
    "each push is applied once": check_once,
    "sequential sums are the serial program's, bit for bit": check_sums,
    "pulls see what is finished, and never go back": check_looks,
    "each call runs once": check_calls,
}


def _differences(table: str, wanted: np.ndarray, found: np.ndarray) -> list[str]:
    places = np.argwhere(wanted != found)[:EXAMPLES_MAX].tolist()
    return [
        f"{table}: push {push} of logical worker {worker} is in row {row}"
        f" {found[row, worker, push]} times, not {wanted[row, worker, push]}"
        for row, worker, push in places
    ]
