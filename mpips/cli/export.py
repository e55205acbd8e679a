"""Write a model or a data file as text.

Of a model: a line for each nonzero weight, with the number of its feature (from 1, as in libsvm
text), a tab and the value, and the feature's name after another tab if the model has names. Of a
data file: libsvm text, which mpips convert turns into the same rows again. Names of outputs that
end in .gz are packed.
"""

import argparse

from mpips.errors import DataError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("input", metavar="FILE.h5", help="a model, a run folder or a data file")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the text to write")
    parser.add_argument("--zero-based", action="store_true", help="features count from 0, not 1")


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what was written."""
    from mpips.files.csr import CsrFile
    from mpips.files.kinds import Kind, kind_of
    from mpips.files.libsvm import export
    from mpips.files.model import export_weights, read_model
    from mpips.node.folder import model_in

    path, first = model_in(arguments.input), 0 if arguments.zero_based else 1
    kind, what = kind_of(path)
    if kind is Kind.MODEL:
        model = read_model(path)
        lines = export_weights(model, arguments.output, first)
        print(f"{arguments.output}: {lines:,} nonzero weights of {model.n_features:,}")
        return 0
    if kind is not Kind.DATA:
        raise DataError(f"{arguments.input} is neither a model nor training data", what)
    with CsrFile(path) as data:
        size = export(data, arguments.output, first)
        print(f"{arguments.output}: {data.n_rows:,} rows, {size / 1e6:,.1f} MB of text")
        print(f"  to convert it back: --features {data.n_features}"
              + (" --scale-rows" if data.row_scaling == "unit" else "")
              + (" --zero-based" if arguments.zero_based else ""))  # fmt: skip
    return 0
