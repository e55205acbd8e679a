"""Add or remove servers and workers of a running job, or say who is in it.

The job goes on meanwhile. Servers and workers come from its spares (--spares N at its start) and
become spares again. Segments of the model move a few at a time, and are served all the while.
"""

import argparse
from pathlib import Path

from mpips.core.orders import COMMANDS
from mpips.errors import UsageError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="the run folder of the job")
    texts = "; ".join(f"{name}: {text}" for name, text in COMMANDS.items())
    parser.add_argument("order", metavar="COMMAND", choices=tuple(COMMANDS), help=texts)
    parser.add_argument("node", metavar="NODE", nargs="?", type=int,
                        help="whom it is about; without it, the job chooses")


def run(arguments: argparse.Namespace) -> int:
    """Write the order, wait for the answer, and print it."""
    from mpips.node.control import ask

    if arguments.order == "status" and arguments.node is not None:
        raise UsageError("status is of the whole job", "", "Leave the node away.")
    print(ask(Path(arguments.run), arguments.order, arguments.node))
    return 0
