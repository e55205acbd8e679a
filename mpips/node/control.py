"""Orders to a running job, as files in its run folder, and the answers to them.

Who orders writes `ctl/NAME.order`, whole or not at all; the scheduler takes it away and writes
`ctl/NAME.answer`. Files of other users, or that others could have written, are left alone.
"""

import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from mpips.errors import FileError, MissingInputError, UsageError
from mpips.node.folder import CONFIG, read_result

log = logging.getLogger(__name__)

FOLDER: Final = "ctl"
ORDER, ANSWER = ".order", ".answer"
BYTES_MAX: Final = 4096
LOOK_S: Final = 1.0
WAIT_S: Final = 15.0
"""How long an answer may take: the scheduler looks every second."""

Follow = Callable[[str, int | None], str]
"""Follows a command about a node and returns the answer; raises `UsageError` if it cannot."""


class Control:
    """The scheduler's side.

    Args:
        run: the run folder.
        is_new: whether nobody waits for answers yet: what is there is of a run before.
    """

    def __init__(self, run: Path, is_new: bool = True) -> None:
        self._folder = run / FOLDER
        self._warned: set[str] = set()
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for old in self._names((ORDER, ANSWER)) if is_new else ():
                (self._folder / old).unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"{self._folder}: {error.strerror}") from None

    def serve(self, follow: Follow) -> None:
        """Follow the orders that are there, and answer them."""
        try:
            names = self._names((ORDER,)) if self._is_ours(self._folder) else []
            for name in names:
                text = self._take(name)
                if text is not None:
                    answer = _follow(text, follow)
                    _write(self._folder / (name.removesuffix(ORDER) + ANSWER), answer)
        except OSError as error:
            # The job does not depend on it.
            self._warn(str(error))

    def _names(self, suffixes: tuple[str, ...]) -> list[str]:
        return sorted(name for name in os.listdir(self._folder) if name.endswith(suffixes))

    def _take(self, name: str) -> str | None:
        """Return what an order says and remove it; None if it is not ours."""
        path = self._folder / name
        if not self._is_ours(path):
            return None
        # What is read is what was looked at: links are not followed.
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            text = os.read(file, BYTES_MAX) if _is_safe(os.fstat(file)) else b""
        finally:
            os.close(file)
        path.unlink()
        return text.decode("utf-8", "replace")

    def _is_ours(self, path: Path) -> bool:
        """Return whether nobody else can have written a file or folder; warn once if not."""
        is_safe = _is_safe(path.lstat())
        if not is_safe:
            self._warn(f"{path} is not only this user's, and ignored")
        return is_safe

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)


def ask(run: Path, command: str, node: int | None, wait_s: float = WAIT_S) -> str:
    """Order something of a running job, and return its answer.

    Raises:
        MissingInputError: there is no such job, or it does not answer.
        UsageError: the order cannot be followed.
        FileError: the order cannot be written.
    """
    folder = run / FOLDER
    if not (run / CONFIG).exists():
        raise MissingInputError(f"{run} is no run folder", "", "A job says which one is its.")
    if read_result(run) is not None:
        what = f"the job in {run} has ended"
        raise MissingInputError(what, "", f"mpips info {run} says how.")
    name = f"{time.time_ns()}-{secrets.token_hex(4)}"
    order, answer = folder / (name + ORDER), folder / (name + ANSWER)
    try:
        _write(order, {"command": command, "node": node})
        found = _await(answer, wait_s)
        order.unlink(missing_ok=True)
    except FileNotFoundError:
        raise MissingInputError(f"no job runs in {run}", f"It has no folder {FOLDER}.") from None
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from None
    if found is None:
        what = f"no answer from {run} within {wait_s:g} s"
        raise MissingInputError(what, "", "Does the job still run?")
    if "error" in found:
        what, where, remedy = found["error"]
        raise UsageError(what, where, remedy)
    return str(found["text"])


def _await(path: Path, wait_s: float) -> dict[str, Any] | None:
    """Return what an answer says and remove it; None if it does not come in time."""
    deadline = time.monotonic() + wait_s
    while not path.exists():
        if time.monotonic() >= deadline:
            return None
        time.sleep(0.05)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    return found


def _follow(text: str, follow: Follow) -> dict[str, Any]:
    """Return the answer to the text of an order."""
    try:
        order = json.loads(text)
        command, node = order["command"], order["node"]
        if not isinstance(command, str) or not isinstance(node, int | None):
            raise ValueError(order)
    except (ValueError, KeyError, TypeError):
        return {"error": ["the order cannot be read", "", "Use mpips ctl."]}
    try:
        return {"text": follow(command, node)}
    except UsageError as error:
        return {"error": [error.what, error.where, error.remedy]}


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file that this user alone may read, whole or not at all."""
    temporary = path.with_name(f".{path.name}.part")
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        json.dump(content, opened)
    temporary.rename(path)


def _is_safe(found: os.stat_result) -> bool:
    """Return whether a file or folder is this user's, and nobody else may write it."""
    is_plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    return is_plain and found.st_uid == os.getuid() and not found.st_mode & 0o022
