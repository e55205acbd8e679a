"""A server's threads do all of a work, and all are done when it is over."""

import threading
import time

import pytest

from mpips.config import parse
from mpips.node.cores import Cores


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("n", [0, 1, 4, 100])
def test_parts_are_all_there_is_and_none_twice(count: int, n: int) -> None:
    done: list[int] = []
    Cores(count).spread(lambda begin, end: done.extend(range(begin, end)), n)
    assert sorted(done) == list(range(n))


def test_parts_are_worked_on_at_once() -> None:
    # Each waits for the other.
    both = threading.Barrier(2, timeout=30)
    Cores(2).spread(lambda begin, end: both.wait() and None, 10)


@pytest.mark.parametrize("bad", [0, 5])
def test_error_comes_when_nobody_works_any_more(bad: int) -> None:
    ended: list[int] = []

    def work(begin: int, end: int) -> None:
        if begin == bad:
            raise ZeroDivisionError
        time.sleep(0.01)
        ended.append(begin)

    with pytest.raises(ZeroDivisionError):
        Cores(2).spread(work, 10)
    assert ended == [5 - bad]


def test_one_core_is_the_default() -> None:
    assert parse("", "").run.server_cores == 1
