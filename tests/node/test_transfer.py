"""Large pushes and pulls come back byte for byte, over queues."""

import pytest

from mpips.config import parse
from mpips.node.local import run_local
from tests.node.transfer import Transfer


@pytest.mark.parametrize(
    ("values", "keys"),
    [(100_000, 3000), pytest.param(8 * 2**20, 10**6, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("servers", [1, 3])
def test_what_was_pushed_is_pulled_byte_for_byte(values: int, keys: int, servers: int) -> None:
    settings = [f"model.values={values}", f"model.keys={keys}", f"run.servers={servers}"]
    result = run_local(Transfer, parse("", "", [*settings, "run.logical_workers=3"]))
    assert (result["wrong"], result["keys"], result["servers"]) == (0, keys, servers)
    # More than one request each way, or nothing was cut.
    assert values < 10**6 or result["counters"]["server_pushes"] > 3 * servers


def test_a_wrong_byte_would_be_counted() -> None:
    class Broken(Transfer):
        def dense_values(self, begin: int, end: int):  # type: ignore[no-untyped-def]
            values = super().dense_values(begin, end)
            # The readers expect another bit in one place.
            if (begin, end) == (0, self.settings.values):
                values.view("u8")[7] ^= 1 << 40
            return values

    settings = ["model.values=1000", "model.keys=100", "run.logical_workers=3"]
    assert run_local(Broken, parse("", "", settings))["wrong"] == 3
