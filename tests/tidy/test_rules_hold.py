"""The project keeps its rules."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.tidy.rules import LAYERS, RULES, sources

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds(rule: Callable[[Path], list[str]]) -> None:
    assert not rule(ROOT), "\n" + "\n".join(rule(ROOT))


def test_rules_see_the_project() -> None:
    assert sum(1 for _ in sources(ROOT)) > 10


def test_layers_have_no_circle() -> None:
    # A layer's imports are themselves layers, and following them never comes back.
    for start in LAYERS:
        reached: set[str] = set()
        front = set(LAYERS[start][0])
        while front:
            reached |= front
            front = {below for layer in front for below in LAYERS[layer][0]} - reached
        assert start not in reached
