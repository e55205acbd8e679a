"""Orders to a running job, as files in its run folder, and the answers to them.

Who orders writes `ctl/NAME.order`, whole or not at all; the scheduler calls it `ctl/NAME.asked`,
and once it is decided what follows, writes `ctl/NAME.answer` and removes it. If the scheduler dies
before that, the next one finds it. Files of other users, or that others could have written, are
left alone.
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
from mpips.files.steps import reach
from mpips.node.folder import CONFIG, read_result

log = logging.getLogger(__name__)

FOLDER: Final = "ctl"
ORDER, ASKED, ANSWER = ".order", ".asked", ".answer"
BYTES_MAX: Final = 4096
LOOK_S: Final = 1.0
WAIT_S: Final = 15.0
"""How long an answer may take: the scheduler looks every second."""

Follow = Callable[[str, str, int | None], None]
"""Follows an order: its name, the command, and the node; raises `UsageError` if it cannot."""


class Control:
    """The scheduler's side.

    Args:
        run: the run folder.
        is_new: whether nobody waits for answers yet: what is there is of a run before.
    """

    def __init__(self, run: Path, is_new: bool = True) -> None:
        self._folder = run / FOLDER
        self._warned: set[str] = set()
        # The orders that are being followed.
        self._asked: set[str] = set()
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for old in self._names((ORDER, ASKED, ANSWER)) if is_new else ():
                (self._folder / old).unlink(missing_ok=True)
        except OSError as error:
            raise FileError(f"{self._folder}: {error.strerror}") from None

    def serve(self, follow: Follow) -> None:
        """Follow the orders that are there; those that cannot be followed are answered at once."""
        try:
            names = self._names((ORDER, ASKED)) if self._is_ours(self._folder) else []
            for name in names:
                self._serve(self._folder / name, follow)
        except OSError as error:
            # The job does not depend on it.
            self._warn(str(error))

    def answer(self, name: str, text: str) -> None:
        """Answer an order that is decided, unless that has happened before."""
        reach("answering")
        try:
            self._answer(name, {"text": text})
        except OSError as error:
            self._warn(str(error))

    def _serve(self, path: Path, follow: Follow) -> None:
        """Follow an order, once."""
        if path.stem in self._asked or not self._is_ours(path):
            return
        asked, answer = path.with_suffix(ASKED), path.with_suffix(ANSWER)
        # The scheduler before may have died after its answer.
        if answer.exists():
            path.unlink()
            return
        path.rename(asked)
        self._asked.add(path.stem)
        reach("asked")
        problem = _follow(path.stem, _read(asked), follow)
        if problem:
            self._answer(path.stem, problem)

    def _answer(self, name: str, content: dict[str, Any]) -> None:
        asked = self._folder / (name + ASKED)
        if asked.exists():
            _write(asked.with_suffix(ANSWER), content)
            asked.unlink(missing_ok=True)

    def _names(self, suffixes: tuple[str, ...]) -> list[str]:
        return sorted(name for name in os.listdir(self._folder) if name.endswith(suffixes))

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
        is_taken = found is None and not _call_back(order)
    except FileNotFoundError:
        raise MissingInputError(f"no job runs in {run}", f"It has no folder {FOLDER}.") from None
    except OSError as error:
        raise FileError(f"{folder}: {error.strerror}") from None
    if is_taken:
        return f"asked, and not decided within {wait_s:g} s; status shows what comes of it"
    if found is None:
        what = f"no answer from {run} within {wait_s:g} s"
        raise MissingInputError(what, "Nothing comes of the order.", "Does the job still run?")
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
    # First what was asked: where only that is left, it would be done again.
    path.with_suffix(ASKED).unlink(missing_ok=True)
    path.unlink()
    return found


def _call_back(order: Path) -> bool:
    """Remove an order, and return whether nobody has taken it."""
    try:
        order.unlink()
    except FileNotFoundError:
        return False
    return True


def _read(path: Path) -> str:
    """Return what an order says; empty if it is not this user's alone."""
    # What is read is what was looked at: links are not followed.
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        text = os.read(file, BYTES_MAX) if _is_safe(os.fstat(file)) else b""
    finally:
        os.close(file)
    return text.decode("utf-8", "replace")


def _follow(name: str, text: str, follow: Follow) -> dict[str, Any]:
    """Follow what an order says, and return the answer if it cannot be followed, else nothing."""
    try:
        order = json.loads(text)
        command, node = order["command"], order["node"]
        if not isinstance(command, str) or not isinstance(node, int | None):
            raise ValueError(order)
    except (ValueError, KeyError, TypeError):
        return {"error": ["the order cannot be read", "", "Use mpips ctl."]}
    try:
        follow(name, command, node)
    except UsageError as error:
        return {"error": [error.what, error.where, error.remedy]}
    return {}


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
