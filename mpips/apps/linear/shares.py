"""Work that is cut into a share for each logical worker that takes part."""

from collections.abc import Generator, Mapping, Sequence
from typing import Any

from mpips.core.task import Task
from mpips.node.kv import Worker


def share_out(
    function: str, among: list[int]
) -> Generator[Task, list[dict[str, Any]], list[dict[str, Any]]]:
    """Have a function of the workers run, as a part of a plan, so that each share has been done.

    It is told `among`, does the share that `share_of` gives, and returns it by `answer_share`. If
    logical workers are dropped meanwhile, all is done again by those that are left.

    Args:
        function: its name.
        among: the logical workers that take part, rising; those that are dropped are removed.

    Returns:
        The results, in the order of shares.
    """
    while True:
        found = yield Task(group="workers", function=function, arguments={"among": [*among]})
        left = [part["worker"] for part in found]
        if left == among:
            return found
        among[:] = left


def share_of(worker: Worker, among: Sequence[int]) -> tuple[int, int]:
    """Return which share of how many is a logical worker's."""
    return among.index(worker.id), len(among)


def answer_share(worker: Worker, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a worker has found, with its name."""
    return {"worker": worker.id, **found}


def share_range(size: int, part: int, parts: int) -> tuple[int, int]:
    """Return the range [begin, end) of a share of [0, size).

    >>> [share_range(10, part, 3) for part in range(3)]
    [(0, 3), (3, 6), (6, 10)]
    """
    return size * part // parts, size * (part + 1) // parts
