"""Fixtures for the tests of `mpips.files`."""

import pytest

from mpips.files.csr import CsrFile
from mpips.files.libsvm import TextOptions, convert, export
from tests.files.samples import Sample, make_sample


@pytest.fixture
def sample() -> Sample:
    """Return the usual random rows."""
    return make_sample(1)


@pytest.fixture(scope="session", autouse=True)
def kernels(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Compile the kernels of text once, before tests are timed."""
    folder = tmp_path_factory.mktemp("kernels")
    (folder / "a.svm").write_text("1 2:3 1:4\n")
    convert([str(folder / "a.svm")], folder / "a.h5", TextOptions(sort=True))
    with CsrFile(folder / "a.h5") as data:
        export(data, folder / "b.svm")
