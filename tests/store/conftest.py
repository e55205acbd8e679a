"""Kernels are compiled before the first test, so that no test has to wait for one."""

import pytest

from mpips.node.kernels import compile_kernels


@pytest.fixture(scope="session", autouse=True)
def kernels():
    """Compile all kernels, or load them from the cache."""
    compile_kernels(print)
