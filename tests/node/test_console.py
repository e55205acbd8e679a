"""The console: a line now and then, never a flood, and the last one always."""

import io

import pytest

from mpips.node.console import LINES_PER_HEADER, Console, show, show_time


def lines_of(stream: io.StringIO) -> list[str]:
    """Return the lines that were printed."""
    text = stream.getvalue()
    assert not text or text.endswith("\n")
    return text.splitlines()


def test_rows_come_at_most_every_second_under_one_header() -> None:
    stream = io.StringIO()
    console = Console(100.0, stream)
    for tenth in range(35):
        console.row(100.0 + tenth / 10, {"rows": tenth, "log_loss": 0.5})
    header, *rows = lines_of(stream)
    assert header.split() == ["time", "rows", "log", "loss"]
    assert [row.split() for row in rows] == [[f"0:0{s}", f"{10 * s}", "0.50000"] for s in range(4)]


def test_rows_become_rarer_as_the_job_goes_on() -> None:
    stream = io.StringIO()
    console = Console(0.0, stream)
    for second in range(3600):
        console.row(float(second), {"rows": second})
    rows = [line for line in lines_of(stream) if "rows" not in line]
    assert len(rows) < 20 + 20 * 6
    assert len(rows) > 40


def test_header_comes_again() -> None:
    stream = io.StringIO()
    console = Console(0.0, stream)
    for number in range(LINES_PER_HEADER + 1):
        console.row(1000.0 * (number + 1) ** 2, {"rows": number})
    headers = [n for n, line in enumerate(lines_of(stream)) if "rows" in line]
    assert headers == [0, LINES_PER_HEADER + 1]


def test_row_that_was_held_back_is_shown_at_the_end() -> None:
    stream = io.StringIO()
    console = Console(0.0, stream)
    console.row(0.0, {"rows": 1})
    console.row(0.1, {"rows": 2})
    console.row(0.2, {"rows": 3})
    console.close(83.0, False, {"objective": 1234.5678, "kind": "x"}, "runs/a")
    assert [line.split() for line in lines_of(stream)] == [
        ["time", "rows"],
        ["0:00", "1"],
        ["1:23", "3"],
        ["done", "in", "1:23", "objective", "1,234.568"],
        ["out", "runs/a"],
    ]


@pytest.mark.parametrize(("converged", "shown"), [(True, "yes"), (False, "no")])
def test_job_that_has_not_converged_says_why_it_stopped(converged: bool, shown: str) -> None:
    stream = io.StringIO()
    Console(0.0, stream).close(5.0, False, {"converged": converged, "passes": 7}, "")
    line, *warnings = lines_of(stream)
    assert line == f"done in 0:05   converged {shown}   passes 7"
    assert len(warnings) == (not converged)
    assert all("stopped after model.passes = 7, before the tolerance" in one for one in warnings)


def test_failed_job_shows_no_folder_as_its_result() -> None:
    stream = io.StringIO()
    Console(0.0, stream).close(5.0, True, {}, "runs/a")
    assert lines_of(stream) == ["failed after 0:05"]


def test_terminal_that_has_gone_ends_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Console(0.0, Gone()).say("hello")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.0, "0.00000"), (999, "999"), (-1234567, "-1,234,567"), (99.9999, "99.99990"),
     (-250.0, "-250.000"), (1e-9, "1.0e-09"), (-0.0001, "-1.0e-04"), (float("nan"), "nan"),
     (float("inf"), "inf"), ("text", "text"), (None, "None")],
)  # fmt: skip
def test_numbers_fit_a_narrow_column(value: object, text: str) -> None:
    assert show(value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.0, "0:00"), (59.9, "0:59"), (3600.0, "60:00")])
def test_time_is_minutes_and_seconds(seconds: float, text: str) -> None:
    assert show_time(seconds) == text
