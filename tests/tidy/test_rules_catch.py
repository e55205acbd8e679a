"""Each rule catches what it is for, and nothing else."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tidy import rules

GOOD = '"""A module."""\n'
LONG = GOOD + "def _f():\n" + "    x = 1\n" * 70
CASES = [
    (rules.arrows, "mpips/core/a.py", GOOD + "from mpips.node.mpirun import find\n"),
    (rules.arrows, "mpips/core/a.py", GOOD + "import mpips.transport.base\n"),
    (rules.arrows, "mpips/core/a.py", GOOD + "from mpips import transport\n"),
    (rules.arrows, "mpips/core/a.py", GOOD + "from . import b\n"),
    (rules.arrows, "mpips/core/a.py", GOOD + "def _f():\n    import scipy.sparse\n"),
    (rules.arrows, "mpips/wire/a.py", GOOD + "import mpips\n"),
    (rules.arrows, "mpips/other/a.py", GOOD),
    (rules.purity, "mpips/store/a.py", GOOD + "from time import monotonic\n"),
    (rules.purity, "mpips/core/a.py", GOOD + "import os.path\n"),
    (rules.places, "mpips/node/kv.py", GOOD + "from mpi4py import MPI\n"),
    (rules.places, "mpips/transport/loop.py", GOOD + "import mpi4py\n"),
    (rules.places, "mpips/cli/info.py", GOOD + "import h5py\n"),
    (rules.sizes, "mpips/core/a.py", GOOD + "x = 1\n" * 400),
    (rules.sizes, "tests/core/a.py", LONG),
    (rules.sizes, "mpips/core/a.py", GOOD + "x = '" + "x" * 100 + "'\n"),
    (rules.docstrings, "mpips/core/a.py", "x = 1\n"),
    (rules.docstrings, "mpips/core/a.py", '"""No full stop"""\n'),
    (rules.docstrings, "mpips/core/a.py", GOOD + "def f():\n    pass\n"),
    (rules.docstrings, "mpips/core/a.py", GOOD + "class A:\n    '''A.'''\n    def f(self): 1\n"),
    (rules.habits, "mpips/core/a.py", GOOD + "try:\n    1\nexcept:\n    pass\n"),
    (rules.habits, "mpips/core/a.py", GOOD + "print(1)\n"),
    (rules.habits, "mpips/core/a.py", GOOD + "np.unique(x)\n"),
    (rules.habits, "mpips/core/a.py", GOOD + "@njit(fastmath=True)\ndef _f(): 1\n"),
    (rules.paths, "README.md", "See `mpips/core/none.py`."),
    (rules.paths, "ARCHITECTURE.md", "See [this](tests/none/)."),
    (rules.paths, "CONTRIBUTING.md", "See `mpips/none/*.py`."),
    (rules.definitions, "ARCHITECTURE.md", "| `mpips/core/good.py: Good.none` |"),
    (rules.definitions, "ARCHITECTURE.md", "| `mpips/core/none.py: f` |"),
]

TREE = {
    "mpips/core/good.py": '''"""A module of the core."""

from dataclasses import dataclass

import numpy as np

from mpips.errors import MpipsError
from mpips.wire.types import Key


class Good:
    """A class."""

    def push(self) -> None:
        """Do it."""

    def _hidden(self) -> None:
        pass
''',
    "mpips/transport/mpi.py": '"""Carry frames."""\nfrom mpi4py import MPI\n',
    "mpips/files/csr.py": '"""Read rows."""\nimport h5py\nimport os\n',
    "mpips/cli/info.py": '"""Print."""\nprint(1)\n',
    "README.md": "See `mpips/core/good.py`, `mpips/files/*.py`, [files](mpips/files/) and `data`.",
    "ARCHITECTURE.md": "| push | `mpips/core/good.py: Good.push` |",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A small project that keeps all the rules."""
    for name, text in TREE.items():
        write(tmp_path, name, text)
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    """Write a file of the project, with its folders."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "utf-8")


def test_good_project_breaks_no_rule(tree: Path) -> None:
    assert [rule(tree) for rule in rules.RULES] == [[]] * len(rules.RULES)


@pytest.mark.parametrize(("rule", "name", "text"), CASES)
def test_violation_is_caught(
    rule: Callable[[Path], list[str]], name: str, text: str, tree: Path
) -> None:
    write(tree, name, text)
    found = rule(tree)
    assert len(found) == 1
    assert name in found[0]


def test_every_rule_has_a_violation_to_catch() -> None:
    assert {case[0] for case in CASES} == set(rules.RULES)
