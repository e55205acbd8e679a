"""A job that starts again leaves out the hosts that were lost, and has as many ranks as fit."""

import socket
import stat
from pathlib import Path

import pytest

from mpips.config import Config, parse
from mpips.node import hosts
from mpips.node.hosts import ANSWERS, REFUSES, SILENT, Choice, Hosts, choose, find_slots, fit, look
from mpips.node.roles import rank_count

SLOTS = {"a": 4, "b": 4, "c": 2}


def config(servers: int = 3, workers: int = 4, spares: int = 2, *others: str) -> Config:
    """Return a job's config, its workers decided."""
    numbers = (f"run.servers={servers}", f"run.workers={workers}", f"run.spares={spares}")
    return parse("", "", [*numbers, *others]).sized(workers)


def chosen(lost: set[str], job: Config) -> Choice:
    """Return a choice that has to be possible."""
    choice = choose(SLOTS, lost, job)
    assert choice is not None
    return choice


def test_nothing_changes_while_all_hosts_are_there() -> None:
    job = config()
    choice = chosen(set(), job)
    assert choice == Choice((), job)
    assert choice.words(job) == []


def test_lost_host_is_left_out_and_spares_are_given_up_first() -> None:
    job = config()
    choice = chosen({"c"}, job)
    assert choice.hosts == ("a:4", "b:4")
    assert rank_count(choice.config) == 8
    assert choice.words(job) == ["--set", "run.spares=0"]
    assert choice.note == ("c cannot be reached any more; 8 ranks start on a, b,"
                           " without 2 spares")  # fmt: skip


def test_ranks_that_fit_stay_as_they_are() -> None:
    job = config(1, 2, 1)
    choice = chosen({"b"}, job)
    assert choice.hosts == ("a:4", "c:2")
    assert choice.config == job
    assert choice.words(job) == []
    assert choice.note == "b cannot be reached any more; 5 ranks start on a, c"


def test_logical_workers_stay_so_that_the_checkpoint_fits() -> None:
    job = config(2, 6, 0)
    choice = chosen({"a"}, job)
    run = choice.config.run
    assert (run.servers, run.workers, run.logical_workers) == (2, 3, 6)
    # The ranks have to be told: they do not know how many workers there were.
    assert choice.words(job) == ["--set", "run.workers=3", "--set", "run.logical_workers=6"]
    open_job = parse("", "", ["run.servers=2", "run.workers=6"])
    words = chosen({"a"}, open_job).words(open_job)
    assert words == ["--set", "run.workers=3", "--set", "run.logical_workers=6"]


@pytest.mark.parametrize("room", range(12))
def test_smaller_job_has_all_roles_and_fills_the_room(room: int) -> None:
    job = config()
    smaller = fit(job, room)
    if room < 3:
        assert smaller is None
        return
    assert smaller is not None
    assert rank_count(smaller) == min(room, rank_count(job))
    assert min(smaller.run.servers, smaller.run.workers) >= 1
    if smaller.run.spares:
        assert (smaller.run.servers, smaller.run.workers) == (3, 4)


def test_job_begins_with_as_many_ranks_as_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "find_slots", lambda: SLOTS)
    monkeypatch.setattr(hosts, "look", lambda host, port: ANSWERS)
    there, large, fits = Hosts(), config(3, 10, 2), config(3, 4, 2)
    assert there.begin(fits) == Choice((), fits)
    choice = there.begin(large)
    # All hosts are there: mpirun need not be told. The checkpoint of a larger one fits, too.
    assert choice.hosts == ()
    assert choice.words(large) == ["--set", "run.workers=6", "--set", "run.spares=0",
                                   "--set", "run.logical_workers=10"]  # fmt: skip
    assert choice.note == ("there is no room for more ranks; 10 ranks start on a, b, c,"
                           " without 2 spares, 4 workers")  # fmt: skip
    # Nor is a single host too small, nor one of which nothing is known.
    for known in ({"a": 1}, {}):
        monkeypatch.setattr(hosts, "find_slots", lambda known=known: known)
        assert Hosts().begin(large) == Choice((), large)
    # Where there is no room at all, mpirun says what it has.
    monkeypatch.setattr(hosts, "find_slots", lambda: {"a": 1, "b": 1})
    assert Hosts().begin(large) == Choice((), large)


def test_too_few_hosts_are_none() -> None:
    assert choose(SLOTS, {"a", "b"}, config()) is None
    assert choose(SLOTS, set(SLOTS), config()) is None


def test_host_counts_as_lost_only_if_it_could_be_reached_before(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"a": ANSWERS, "b": SILENT, "c": REFUSES}
    monkeypatch.setattr(hosts, "find_slots", lambda: SLOTS)
    monkeypatch.setattr(hosts, "look", lambda host, port: states[host])
    there, job = Hosts(), config(1, 2, 0)
    # A firewall may keep this process from what mpirun reaches by other ways.
    assert there.choose(job) == Choice((), job)
    states["c"] = SILENT
    choice = there.choose(job)
    assert choice is not None
    assert choice.hosts == ("a:4", "b:4")
    states["a"] = REFUSES
    choice = there.choose(job)
    assert choice is not None
    assert choice.hosts == ("b:4",)
    # Who has come back is there again.
    states.update(a=ANSWERS, c=REFUSES)
    assert there.choose(job) == Choice((), job)


def test_single_host_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "find_slots", lambda: {"a": 8})
    monkeypatch.setattr(hosts, "look", lambda host, port: pytest.fail("asked"))
    job = config()
    assert Hosts().choose(job) == Choice((), job)


def test_port_tells_who_listens_and_who_does_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert look("127.0.0.1", port, 5.0) == ANSWERS
    assert look("127.0.0.1", port, 5.0) == REFUSES
    assert look("no.such.host.invalid", port, 0.1) == SILENT


def test_slots_are_those_of_slurm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = tmp_path / "scontrol"
    script.write_text('#!/bin/sh\n[ "$3" = "n[1-3]" ] && printf "n1\\nn2\\nn3\\n"\n', "utf-8")
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(hosts, "slurm_problem", lambda: "")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SLURM_JOB_NODELIST", "n[1-3]")
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "4(x2),1")
    assert find_slots() == {"n1": 4, "n2": 4, "n3": 1}
    # What does not fit together is not believed.
    monkeypatch.setenv("SLURM_TASKS_PER_NODE", "4(x2)")
    assert find_slots() == {}


def test_slots_are_those_of_a_node_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "nodes").write_text("a\na\nb\n", "utf-8")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("PBS_NODEFILE", str(tmp_path / "nodes"))
    assert find_slots() == {"a": 2, "b": 1}
    monkeypatch.delenv("PBS_NODEFILE")
    assert find_slots() == {}
