"""`mpips sim`: it tells what happened, the same bytes each time, and fails with the seed."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpips.cli import main, sim
from mpips.errors import UsageError
from tests.core.test_mutants import NoDuplicateCheck

ROOT = Path(__file__).resolve().parents[2]
SEED_WITH_COPIES = "5"


def run(*words: str) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser()
    sim.add_arguments(parser)
    return sim.run(parser.parse_args(list(words)))


def test_story_of_a_seed_has_faults_counts_and_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seed", "3", "--servers", "2", "--workers", "3", "--logical-workers", "4",
               "--spares", "1", "--replicas", "2", "--no-kills") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "seed 3: servers 2, workers 3, logical workers 4, spares 1, replicas 2"
    assert any(line.startswith("  delay_s") for line in lines)
    assert lines[-5:] == [
        "  ok      the job ends",
        "  ok      each push is applied once",
        "  ok      sequential sums are the serial program's, bit for bit",
        "  ok      pulls see what is finished, and never go back",
        "  ok      each call runs once",
    ]


def test_many_seeds_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seed", "4", "--seeds", "3") == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("seeds 4 to 6: 3 ok, 0 failed; frames ")


def test_messages_of_a_node_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--seed", SEED_WITH_COPIES, "--servers", "1", "--story", "server 1") == 0
    lines = capsys.readouterr().out.splitlines()
    messages = lines[: next(n for n, line in enumerate(lines) if line.startswith("seed "))]
    told = [line for line in messages if " > " in line]
    assert all("server 1" in line for line in told)
    for ending in ("server 1 > scheduler 0  Hello", "scheduler 0 > server 1  Start"):
        assert any(line.endswith(ending) for line in told)
    assert all(" > " in line or line.startswith("server 1: ") for line in messages)


def test_failure_ends_with_1_and_the_command_that_shows_it_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpips.node.server.ServerMachine", NoDuplicateCheck)
    assert run("--seed", "3", "--seeds", "4", "--servers", "1", "--workers", "2",
               "--no-kills") == 1
    *shown, last = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("seed ")
    assert " failed: " in shown[0]
    assert last.startswith("seeds 3 to 6: ")
    words = shown[1].split()
    assert words[:2] == ["mpips", "sim"]
    assert run(*words[2:]) == 1
    told = capsys.readouterr().out
    assert "FAILED" in told
    assert told.endswith(f"again: {shown[1].strip()}\n")


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["--seed", "-1"], "--seed -1 is less than 0"),
        (["--seeds", "0"], "--seeds 0 is less than 1"),
        (["--logical-workers", "-2"], "--logical-workers -2 is less than 0"),
        (["--story", "server 9"], "there is no server 9 in this run"),
        (["--seeds", "2", "--story", "server 1"], "--story tells of one run"),
    ],
)
def test_wrong_options_are_refused(words: list[str], what: str) -> None:
    with pytest.raises(UsageError, match=what):
        run(*words)


@pytest.mark.slow
def test_output_is_the_same_in_every_process() -> None:
    command = [sys.executable, "-m", "mpips", "sim", "--no-kills", "--seed", SEED_WITH_COPIES]
    outputs = {
        subprocess.run(
            [*command, "--story", "worker 2", "--servers", "1"],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert b"(copy 1)" in outputs.pop()


def test_command_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    assert "  sim " in capsys.readouterr().out
