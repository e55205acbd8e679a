"""A config names its app, and wrong settings are said before anything runs."""

import subprocess
import sys

import pytest

from mpips.apps.find import find_app
from mpips.apps.linear.adagrad import AdaGradLinear, AdaRevisionLinear
from mpips.apps.linear.diagonal import DiagonalLinear
from mpips.apps.linear.exact import ExactLinear
from mpips.apps.linear.ftrl import FtrlLinear
from mpips.config import parse
from mpips.errors import ConfigError
from mpips.node.app import check_model


@pytest.mark.parametrize(("text", "kind"), [
    ("", ExactLinear),
    ('kind = "linear"', ExactLinear),
    ('solver = "diagonal"', DiagonalLinear),
    ('solver = "ftrl"', FtrlLinear),
    ('solver = "adagrad"', AdaGradLinear),
    ('solver = "adarevision"', AdaRevisionLinear),
    ('kind = "mpips.apps.linear.exact:ExactLinear"', ExactLinear),
])
def test_app_is_found_by_kind_and_solver(text: str, kind: type) -> None:
    assert find_app(parse(f"[model]\n{text}", "")) is kind


@pytest.mark.parametrize("text", [
    'solver = "newton"', "solver = [1]", 'kind = "logistic"', "kind = 3",
    'kind = "no.such.module:App"', 'kind = "mpips.config:Config"', 'kind = "mpips.config:Nothing"',
])
def test_what_is_no_app_is_a_wrong_config(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        find_app(parse(f"[model]\n{text}", ""))
    assert error.value.exit_code == 2


@pytest.mark.parametrize("text", [
    "l1 = -1.0", "tolerance = 0.0", "block = 0", "passes = -1", "lambda = 1.0", 'l1 = "much"',
])
def test_wrong_settings_are_refused(text: str) -> None:
    config = parse(f"[model]\n{text}", "")
    with pytest.raises(ConfigError, match=r"model\."):
        check_model(find_app(config), config)


def test_finding_an_app_needs_neither_numba_nor_scipy_nor_hdf5() -> None:
    code = (
        "import sys; from mpips.apps.find import LINEAR, find_app; from mpips.config import parse;"
        "[find_app(parse(f'[model]\\nsolver = \"{s}\"', '')) for s in LINEAR];"
        "print([m for m in ('numba', 'scipy', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
