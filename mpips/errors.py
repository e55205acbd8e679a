"""What can go wrong, and the exit code that each kind ends with.

::

    MpipsError                  what, where, remedy
      AppError            1     a user's own code raised an error
      UsageError          2     the command line does not make sense
        ConfigError       2     the config does not make sense
      DataError          65     a file is there, but its content is wrong
      MissingInputError  66     a file is not there
      LaunchError        69     no usable MPI, or the wrong launcher
      ProtocolError      70     a rule of the protocol is broken: a bug in mpips
        FrameError       70     bytes that are no frame
      OutputError        73     a file cannot be created
      FileError          74     reading or writing failed half way
      RanksLostError     76     a rank is gone, and the job cannot go on
"""


class MpipsError(Exception):
    """An error with a sentence for the user: what happened, where, and what to do.

    Args:
        what: one sentence that says what is wrong, with the value that was met.
        where: the file, line, row, key or rank; empty if `what` says it.
        remedy: what the user can do about it; empty if there is nothing to do.
    """

    exit_code = 70

    def __init__(self, what: str, where: str = "", remedy: str = "") -> None:
        super().__init__(what, where, remedy)
        self.what, self.where, self.remedy = what, where, remedy

    def __str__(self) -> str:
        return "\n".join(part for part in (self.what, self.where, self.remedy) if part)

    def explain(self) -> str:
        """Return the error as the user sees it: what, where and remedy, a line each or more.

        >>> print(MissingInputError("a.h5 does not exist", "", "Make it.").explain())
        mpips: error: a.h5 does not exist
          Make it.
        """
        return "mpips: error: " + str(self).replace("\n", "\n  ")


class AppError(MpipsError):
    """A user's own code, an app or an update function, raised an error."""

    exit_code = 1


class UsageError(MpipsError):
    """The command line does not make sense."""

    exit_code = 2


class ConfigError(UsageError):
    """The config does not make sense."""


class DataError(MpipsError):
    """A file is there, but its content is wrong."""

    exit_code = 65


class MissingInputError(MpipsError):
    """A file is not there."""

    exit_code = 66


class LaunchError(MpipsError):
    """There is no usable MPI, or the launcher does not belong to it."""

    exit_code = 69


class ProtocolError(MpipsError):
    """A rule of the protocol is broken, which is a bug in mpips."""

    exit_code = 70


class FrameError(ProtocolError):
    """Bytes that came over the wire are no frame of this version."""


class OutputError(MpipsError):
    """A file or folder cannot be created."""

    exit_code = 73


class FileError(MpipsError):
    """Reading or writing a file failed half way."""

    exit_code = 74


class RanksLostError(MpipsError):
    """A rank is gone, and the job cannot go on without it."""

    exit_code = 76
