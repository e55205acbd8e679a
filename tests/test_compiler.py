"""Kernels are loaded without linear algebra, which is there as soon as somebody asks for it."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mpips.compiler import standing_in

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = """
import sys
import numpy as np
import mpips.store.kernels.merge
assert "numba" in sys.modules
assert not {"scipy.linalg", "scipy.linalg.cython_blas"} & set(sys.modules)

# A user's own compiled function still has np.dot, from the real SciPy.
from mpips.compiler import njit

@njit
def norm(values):
    return np.dot(values, values)

assert norm(np.array([3.0, 4.0])) == 25.0
import scipy.linalg
assert scipy.linalg.det(2 * np.eye(2)) == 4.0
"""


@pytest.mark.slow
def test_kernels_come_without_linear_algebra_and_users_get_it() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True,
                          text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr


def test_modules_stand_in_for_those_that_are_not_there_and_leave(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("no_such_package", "no_such_package.part")
    with standing_in(names):
        assert all(name in sys.modules for name in names)
    assert not set(names) & set(sys.modules)
    real = ModuleType("no_such_package")
    monkeypatch.setitem(sys.modules, "no_such_package", real)
    with standing_in(names):
        assert sys.modules["no_such_package"] is real
    assert sys.modules["no_such_package"] is real
