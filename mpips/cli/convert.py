"""Convert libsvm (svmlight) text to the HDF5 files that training reads.

Lines are LABEL INDEX:VALUE INDEX:VALUE ...; text behind # and blank lines are passed over. Files
are read once, as a stream, so that any size will do. A wrong line is named by its number.
"""

import argparse
import os
import sys
import time

from mpips.errors import UsageError

SECONDS_BETWEEN_LINES = 5.0
SECONDS_ON_TERMINAL = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("inputs", nargs="+", metavar="FILE", help="text, plain or .gz; - is the standard input")
    add("-o", "--output", required=True, metavar="FILE.h5", help="the file to write")
    add("--features", type=_count, metavar="D", help="number of columns (default: as met)")
    add("--zero-based", action="store_true", help="indices in the text count from 0, not 1")
    add("--labels", type=_two_labels, metavar="A,B", help="keep these, A as -1 and B as +1")
    add("--like", metavar="FILE", help="columns and scaling as in this data file or model")
    add("--scale-rows", action="store_true", help="have readers scale rows to length 1")
    add("--nan", choices=("error", "drop", "zero"), default="error", help=
        "a value that is NaN or infinite: refuse it, drop its row, or make it 0")  # fmt: skip
    add("--unpacked", action="store_true", help="larger files, which are read five times as fast")
    add("--sort", action="store_true", help="sort rows whose indices do not rise")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and say what was written."""
    from mpips.files.libsvm import TextOptions, convert

    _refuse_same_file(arguments.inputs, arguments.output)
    features, scaling = arguments.features, "unit" if arguments.scale_rows else "none"
    if arguments.like:
        features, scaling = _like(arguments)
    options = TextOptions(
        first_index=0 if arguments.zero_based else 1,
        n_features=features,
        clip=arguments.like is not None,
        labels=arguments.labels,
        nan=arguments.nan,
        sort=arguments.sort,
    )
    line = ProgressLine()
    files = arguments.inputs, arguments.output
    done = convert(*files, options, scaling, line.show, packed=not arguments.unpacked)
    line.clear()
    # Say what came of it, and what did not come along.
    seconds = max(time.monotonic() - line.start, 1e-9)
    print(
        f"{arguments.output}: {done.rows:,} rows, {done.nonzeros:,} nonzeros;"
        f" {done.bytes / 1e6:,.1f} MB of text in {seconds:.1f} s"
    )
    for count, what in (
        (done.rows_left_out, "rows left out"),
        (done.values_left_out, f"values left out: their columns are not in {arguments.like}"),
        (done.values_zeroed, "values that were no finite numbers made 0"),
    ):
        if count:
            print(f"  {count:,} {what}")
    return 0


class ProgressLine:
    """Show rows, megabytes and speed on stderr: in place on a terminal, else a line at times."""

    def __init__(self) -> None:
        self.start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def show(self, rows: int, size: int) -> None:
        """Show progress if it is time: `rows` read, from `size` bytes of text."""
        now = time.monotonic()
        pause = SECONDS_ON_TERMINAL if self._terminal else SECONDS_BETWEEN_LINES
        if now - self._shown < pause:
            return
        self._shown = now
        speed = rows / (now - self.start)
        text = f"{rows:>14,} rows {size / 1e6:>10,.0f} MB {speed:>12,.0f} rows/s"
        print(f"\r{text}" if self._terminal else text, end="" if self._terminal else "\n",
              file=sys.stderr, flush=True)  # fmt: skip

    def clear(self) -> None:
        """Remove the line from a terminal."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _like(arguments: argparse.Namespace) -> tuple[int, str]:
    """Return the number of columns and the row scaling of the file to be alike."""
    from mpips.files.kinds import Kind, kind_of
    from mpips.files.many import open_data
    from mpips.files.model import read_model

    if arguments.features is not None or arguments.scale_rows:
        raise UsageError("--like already says what --features and --scale-rows say")
    if kind_of(arguments.like)[0] is Kind.MODEL:
        model = read_model(arguments.like)
        return model.n_features, model.row_scaling
    with open_data(arguments.like) as data:
        return data.n_features, data.row_scaling


def _refuse_same_file(inputs: list[str], output: str) -> None:
    """Refuse to write over what is read."""
    for path in inputs:
        if os.path.exists(path) and os.path.exists(output) and os.path.samefile(path, output):
            raise UsageError(f"{output} is the input", remedy="Give -o another name.")


def _count(text: str) -> int:
    """Return a number of columns."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of columns")
    return int(text)


def _two_labels(text: str) -> tuple[float, float]:
    """Return two different labels."""
    try:
        negative, positive = (float(word) for word in text.split(","))
    except ValueError:
        negative = positive = 0.0
    if negative == positive:
        raise argparse.ArgumentTypeError(f"{text!r} is not two labels, like 0,1")
    return negative, positive
