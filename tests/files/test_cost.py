"""The measurement of what a checkpoint costs; no figure is asserted, for machines differ.

Run as: python -m pytest tests/files/test_cost.py -m rates -s
"""

from pathlib import Path

import pytest

from tests.files.cost import make_segments, measure


def test_measurement_writes_all_and_leaves_nothing(tmp_path: Path) -> None:
    raw, part = measure(tmp_path, 1, 2)
    assert raw > 0.0
    assert part > 0.0
    assert list(tmp_path.iterdir()) == []
    assert sum(segment.rows.nbytes for segment in make_segments(10)) == pytest.approx(1e7, rel=0.1)


@pytest.mark.rates
def test_rates_of_a_checkpoint(tmp_path: Path) -> None:
    raw, part = measure(tmp_path, 300, 7)
    print(f"\nraw {raw / 1e6:.0f} MB/s, a checkpoint {part / 1e6:.0f} MB/s: {part / raw:.2f}")
