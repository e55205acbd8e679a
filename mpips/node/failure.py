"""Turns whatever was raised into a sentence for the user, with the place in the user's own code."""

import sys
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final

from mpips.errors import AppError, MpipsError
from mpips.wire.messages import Failed

PACKAGE: Final = str(Path(__file__).resolve().parent.parent)
# Where nodes call an app's functions, and what these have to be.
CALLS: Final = frozenset(
    {
        "WorkerNode.call",
        "WorkerNode._recover_first",
        "WorkerNode._run_asked",
        "WorkerNode.work",
        "ServerNode.run",
    }
)
CALL_REMEDY: Final = (
    "A task names a method of the app: on workers async def NAME(self, worker, ...), on servers"
    " def NAME(self, stores, ...)."
)
LIBRARIES: Final = frozenset({"numpy", "scipy", "numba", "h5py", "msgspec", "mpi4py", "lz4"})


def tell_failure(error: Exception, who: str, epoch: int) -> Failed:
    """Return what a node tells the scheduler of what it has raised; see `explain_failure`."""
    explained = explain_failure(error, who)
    return Failed(
        epoch=epoch,
        exit_code=explained.exit_code,
        what=explained.what,
        where=explained.where or who,
        remedy=explained.remedy,
    )


def explain_failure(error: Exception, who: str) -> MpipsError:
    """Return the error to tell the user.

    What a user's own code raised is an `AppError` with the traceback of that code; anything else
    that is no `MpipsError` is a bug of mpips, with the whole traceback.

    Args:
        error: what was raised.
        who: the node that it was raised on.
    """
    # A user's update function that failed is the cause of an AppError.
    cause = error.__cause__ if isinstance(error, AppError) else error
    if cause is None or isinstance(cause, MpipsError):
        assert isinstance(error, MpipsError)
        return error
    users = _first_users(cause.__traceback__)
    where = f"{who}\n{_show(cause, users is not None)}"
    if isinstance(error, AppError):
        return AppError(error.what, "\n".join(filter(None, (error.where, where))), error.remedy)
    raised = f"{type(error).__name__}: {error}"
    if _is_wrong_call(cause):
        return AppError(f"your app cannot be called as its plan asks: {raised}", who, CALL_REMEDY)
    if users is None:
        return MpipsError(f"internal error: {raised}", where, "This is a bug in mpips: report it.")
    name = users.tb_frame.f_code.co_qualname
    return AppError(f"your app {name} raised {raised}", where)


def _is_wrong_call(error: BaseException) -> bool:
    """Tell whether it was the very call of an app's function that failed, not the function."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    code = at.tb_frame.f_code if at is not None else None
    is_call = code is not None and _is_ours(code.co_filename) and code.co_qualname in CALLS
    return is_call and isinstance(error, AttributeError | TypeError)


def _first_users(at: TracebackType | None) -> TracebackType | None:
    """Return the first place in a traceback that is a user's code, or None."""
    while at is not None and not _is_users(at):
        at = at.tb_next
    return at


def _is_users(at: TracebackType) -> bool:
    """Tell whether a place is in neither mpips nor Python nor a library that mpips calls."""
    module = str(at.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
    is_library = module in LIBRARIES or module in sys.stdlib_module_names
    return not is_library and not _is_ours(at.tb_frame.f_code.co_filename)


def _is_ours(path: str) -> bool:
    """Tell whether a file is one of mpips."""
    return path.startswith(f"{PACKAGE}/")


def _show(error: BaseException, is_users: bool) -> str:
    """Return the traceback of an error; of a user's one without the places in mpips."""
    shown = traceback.TracebackException.from_exception(error)
    if is_users:
        kept = [frame for frame in shown.stack if not _is_ours(frame.filename)]
        shown.stack = traceback.StackSummary.from_list(kept)
    return "".join(shown.format()).rstrip()
