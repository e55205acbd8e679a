"""Failures: a user's code is told from mpips' own by where the error was raised."""

from pathlib import Path

import numpy as np
import pytest

import mpips
from mpips.config import parse
from mpips.errors import AppError, DataError, MpipsError
from mpips.node.failure import explain_failure
from mpips.node.local import run_local


class Mine:
    """A user's app, as far as errors are concerned."""

    def divide(self) -> float:
        """Fail in its own code."""
        return 1 / 0

    def solve(self) -> None:
        """Fail in a library that it calls."""
        np.linalg.inv(np.zeros((2, 2)))


def raised_by(function: object) -> Exception:
    """Return what a function raises."""
    with pytest.raises(Exception) as caught:
        function()  # type: ignore[operator]
    # The last places are those that a node would see: this file's helper is not among them.
    error = caught.value
    assert error.__traceback__ is not None
    return error.with_traceback(error.__traceback__.tb_next)


@pytest.mark.parametrize(("name", "words"), [
    ("divide", "ZeroDivisionError: division by zero"), ("solve", "LinAlgError: Singular matrix"),
])  # fmt: skip
def test_error_of_a_users_app_names_the_function_and_ends_with_1(name: str, words: str) -> None:
    explained = explain_failure(raised_by(getattr(Mine(), name)), "worker 3 on a")
    assert isinstance(explained, AppError)
    assert explained.exit_code == 1
    assert explained.what == f"your app Mine.{name} raised {words}"
    assert explained.where.startswith("worker 3 on a\nTraceback")
    assert f"in {name}" in explained.where


def test_error_of_mpips_itself_is_a_bug_with_its_whole_traceback() -> None:
    # The lambda is a user's as far as anybody can tell: cut it off.
    error = raised_by(lambda: parse(3, ""))  # type: ignore[arg-type]
    assert error.__traceback__ is not None
    explained = explain_failure(error.with_traceback(error.__traceback__.tb_next), "server 1")
    assert explained.exit_code == 70
    assert explained.what.startswith("internal error: ")
    assert "bug in mpips" in explained.remedy
    assert "mpips/config.py" in explained.where


def test_places_in_mpips_are_cut_from_a_users_traceback() -> None:
    error = raised_by(lambda: parse(3, ""))  # type: ignore[arg-type]
    explained = explain_failure(error, "server 1")
    assert isinstance(explained, AppError)
    assert "test_failure.py" in explained.where
    assert str(Path(mpips.__file__).parent) not in explained.where


class Misspelt(mpips.App):
    """An app whose plan names a function that it does not have."""

    def tables(self) -> list[mpips.Table]:
        """Return a table."""
        return [mpips.Table(name="w", size=8)]


class Lonely(Misspelt):
    """An app whose function does not take the worker."""

    async def work(self) -> None:
        """Do nothing."""


class Plain(Misspelt):
    """An app whose function is no coroutine."""

    def work(self, worker: mpips.Worker) -> int:
        """Do nothing."""
        return 3


@pytest.mark.parametrize(("kind", "words"), [
    (Misspelt, "has no attribute 'work'"), (Lonely, "takes 1 positional argument"),
    (Plain, "'send'"),
])  # fmt: skip
def test_function_that_cannot_be_called_is_no_bug_of_mpips(
    kind: type[mpips.App], words: str
) -> None:
    with pytest.raises(MpipsError, match="your app cannot be called as its plan asks") as caught:
        run_local(kind, parse("", ""))
    assert caught.value.exit_code == 1
    assert words in caught.value.what
    assert "async def NAME(self, worker, ...)" in caught.value.remedy
    assert caught.value.where.startswith("worker 2 on ")


def test_error_for_the_user_stays_as_it_is() -> None:
    error: MpipsError = DataError("it is damaged", "row 3")
    assert explain_failure(error, "worker 1") is error
