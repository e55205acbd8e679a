"""Write a model's prediction for each row of a data file.

A line holds the probability of the positive class, in the fewest digits that give it back; the
lines are in the order of the rows. Names of outputs that end in .gz are packed.
"""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mpips.errors import UsageError

if TYPE_CHECKING:
    from mpips.files.csr import CsrFile
    from mpips.files.many import CsrFiles
    from mpips.files.model import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("model", metavar="MODEL.h5", help="a model, or a run folder that has one")
    add("data", metavar="DATA.h5", help="a data file, or a folder of them")
    add("-o", "--output", metavar="FILE.tsv", help="the text to write (default: standard output)")
    add("--margins", action="store_true", help="add the margin to each line, after a tab")


def run(arguments: argparse.Namespace) -> int:
    """Predict, block by block of rows."""
    from mpips.cli.convert import ProgressLine
    from mpips.files.many import open_data
    from mpips.files.model import check_key_space, read_model
    from mpips.node.folder import model_in

    arguments.model = model_in(arguments.model)
    _refuse_inputs(arguments)
    model = read_model(arguments.model)
    with open_data(arguments.data) as data:
        check_key_space(model, data)
        line, rows, size = ProgressLine(), 0, 0
        with _output(arguments.output) as file:
            for text, count in lines(data, model, arguments.margins):
                file.write(text)
                rows, size = rows + count, size + len(text)
                line.show(rows, size)
        line.clear()
    if arguments.output:
        print(f"{arguments.output}: {rows:,} rows")
    return 0


def lines(
    data: "CsrFile | CsrFiles", model: "Model", with_margins: bool
) -> Iterator[tuple[bytes, int]]:
    """Yield the text for a block of rows, and the number of its rows.

    Raises:
        DataError: the rows are damaged, or the model is not linear.
    """
    from mpips.apps.linear.scoring import probabilities, score_blocks

    for margins, _ in score_blocks(data, model, 0, data.n_rows, None):
        words = _texts(probabilities(margins))
        if with_margins:
            words = np.strings.add(np.strings.add(words, b"\t"), _texts(margins))
        yield b"".join(np.strings.add(words, b"\n").tolist()), len(margins)


def _texts(values: npt.NDArray[np.float64]) -> npt.NDArray[np.bytes_]:
    """Return numbers as text, each in the fewest digits that give it back."""
    return values.astype(np.bytes_)


@contextlib.contextmanager
def _output(path: str | None) -> Iterator[IO[bytes]]:
    """Open a file that appears when all is written, or else the standard output."""
    from mpips.files.atomic import open_output, replacing

    if path is None:
        yield sys.stdout.buffer
        return
    with replacing(path) as temporary, open_output(temporary, path) as file:
        yield file


def _refuse_inputs(arguments: argparse.Namespace) -> None:
    """Refuse to write over the model or the data."""
    output = arguments.output
    if output is None or not os.path.exists(output):
        return
    for path in (arguments.model, arguments.data):
        if os.path.exists(path) and os.path.samefile(path, output):
            raise UsageError(f"{output} is an input", remedy="Give -o another name.")
