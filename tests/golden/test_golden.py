"""Golden scripts: commands to the machines, and what they do, as text that explains the protocol.

`python -m pytest tests/golden --rewrite` writes what they do now; commit it only if you understand
every difference.
"""

from pathlib import Path

import pytest

from tests.golden.stage import play_script

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_machines_do_what_the_script_says(path: Path, request: pytest.FixtureRequest) -> None:
    text = path.read_text("utf-8")
    played = play_script(text)
    if request.config.getoption("--rewrite"):
        path.write_text(played, "utf-8")
        return
    assert played == text


def test_there_are_scripts_and_each_explains_itself() -> None:
    assert len(SCRIPTS) >= 7
    for path in SCRIPTS:
        text = path.read_text("utf-8")
        assert text.startswith("# "), path
        assert text.count("\n> ") > 2, path


def test_another_effect_is_another_script() -> None:
    text = next(path for path in SCRIPTS if path.stem == "push_and_ack").read_text("utf-8")
    assert play_script(text.replace("> push 2 0..8 1", "> push 2 0..8 2")) != text
