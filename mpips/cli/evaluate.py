"""Measure a model on a data file: log loss, AUC and accuracy.

A training run measures its test data in the same way: the same file gives the same digits.
"""

import argparse
import json
import math


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL.h5", help="a model, or a run folder that has one")
    parser.add_argument("data", metavar="DATA.h5", help="a data file, or a folder of them")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Print the measures."""
    from mpips.node.console import show
    from mpips.node.folder import model_in

    facts = evaluate(model_in(arguments.model), arguments.data)
    if arguments.json:
        print(json.dumps(facts, allow_nan=False))
        return 0
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {'-' if value is None else show(value)}")
    return 0


def evaluate(model_path: str, data_path: str) -> dict[str, int | float | None]:
    """Return the number of rows, the measures, and the number of nonzero weights.

    Measures that the rows do not allow are None: AUC if a class is missing, all if there are none.

    Raises:
        MissingInputError, DataError: a file is not there, is something else, or is damaged, or the
            data is of another key space than the model.
    """
    from mpips.apps.linear import scoring
    from mpips.files.model import read_model

    model = read_model(model_path)
    margins, labels = scoring.score_file(data_path, model)
    logloss, accuracy = scoring.logloss(margins, labels), scoring.accuracy(margins, labels)
    return {
        "rows": len(labels),
        "logloss": None if math.isnan(logloss) else logloss,
        "auc": scoring.auc(margins, labels),
        "accuracy": None if math.isnan(accuracy) else accuracy,
        "nonzeros": len(model.nonzeros()[0]),
    }
