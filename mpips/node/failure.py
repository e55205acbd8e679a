"""Turns whatever was raised into a sentence for the user, with the place in the user's own code."""

import traceback

from mpips.errors import MpipsError, UsageError


def explain_failure(error: Exception, who: str) -> MpipsError:
    """Return the error to tell the user; its `where` holds the traceback of foreign code.

    Args:
        error: what was raised.
        who: the node that it was raised on.
    """
    # A user's update function that failed is the cause of a UsageError.
    cause = error.__cause__ if isinstance(error, UsageError) else error
    if cause is None or isinstance(cause, MpipsError):
        assert isinstance(error, MpipsError)
        return error
    where = f"{who}\n{''.join(traceback.format_exception(cause)).rstrip()}"
    if not isinstance(error, MpipsError):
        return MpipsError(f"{type(error).__name__}: {error}", where)
    explained = MpipsError(error.what, "\n".join(filter(None, (error.where, where))), error.remedy)
    explained.exit_code = error.exit_code
    return explained
