"""The pulse tells a long computation from a stopped process, and kills only whom it means."""

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mpips.errors import OutputError
from mpips.node import pulse
from mpips.node.pulse import Pulse, kill_process, started_at

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 60.0
PATIENCE = 5
STAT = "{pid} (a b) Z) {state} 1 1 1 0 -1 0 0 0 0 0 {user} {system} 0 0 20 0 2 0 {started} 0 0"

CHILD = """
import sys
from pathlib import Path
from mpips.node.pulse import Pulse
mine = Pulse(Path(sys.argv[1]), 1, 4)
mine.start()
print("ready", flush=True)
"""
WORK = {
    "numpy": "import numpy as np; a = np.ones((1500, 1500))\nwhile True: a @ a",
    "python": "while True: pass",
    "keeps lock": "import collections as c, itertools as i; c.deque(i.repeat(0), 0)",
    "waits": "import ctypes; ctypes.CDLL(None).pause()",
    "waits, keeps lock": "import ctypes; ctypes.PyDLL(None).pause()",
    "until told": "input()",
}

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return where a test's nodes share their pulses."""
    return tmp_path / "pulse"


@pytest.fixture
def mine(path: Path) -> Iterator[Pulse]:
    """Return the pulse of node 0, which beats."""
    one = Pulse(path, 0, 4)
    one.start()
    yield one
    one.close()


@pytest.fixture
def start(path: Path) -> Iterator[Start]:
    """Return what starts a process that is node 1 and then does some work."""
    children: list[subprocess.Popen[str]] = []

    def begin(work: str) -> subprocess.Popen[str]:
        child = subprocess.Popen([sys.executable, "-c", CHILD + WORK[work], str(path)], cwd=ROOT,
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield begin
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is taken for /proc, with nothing in it."""
    folder = tmp_path / "proc"
    folder.mkdir()
    monkeypatch.setattr(pulse, "PROCESSES", folder)
    return folder


def write_stat(processes: Path, used: int, state: str = "R", started: int = 77) -> None:
    """Tell of this process."""
    folder = processes / str(os.getpid())
    folder.mkdir(exist_ok=True)
    line = STAT.format(pid=os.getpid(), state=state, user=used // 2, system=used - used // 2,
                       started=started)
    (folder / "stat").write_text(line)


def wait(condition: Callable[[], bool]) -> None:
    """Wait until something is so, looking again and again."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def look(mine: Pulse) -> set[int]:
    """Return who gives signs of life while node 0 gives a few."""
    mine.moved()
    moved: list[int] = []

    def is_over() -> bool:
        moved.extend(mine.moved())
        return moved.count(0) >= PATIENCE

    wait(is_over)
    return set(moved)


# -- Who lives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("work", ["numpy", "python", "keeps lock", "waits"])
def test_working_process_shows_life_and_a_stopped_one_does_not(
    work: str, mine: Pulse, start: Start
) -> None:
    child = start(work)
    for _ in range(PATIENCE):
        wait(lambda: 1 in mine.moved())
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert look(mine) == {0}
    child.send_signal(signal.SIGCONT)
    for _ in range(PATIENCE):
        wait(lambda: 1 in mine.moved())


def test_process_that_waits_and_keeps_the_lock_looks_stopped(mine: Pulse, start: Start) -> None:
    start("waits, keeps lock")
    wait(lambda: look(mine) == {0})


def test_dead_process_shows_no_life(mine: Pulse, start: Start) -> None:
    child = start("numpy")
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert look(mine) == {0}
    child.wait()
    assert look(mine) == {0}


@pytest.mark.usefixtures("processes")
def test_node_has_moved_if_it_has_beaten_since_last_asked(mine: Pulse, path: Path) -> None:
    other = Pulse(path, 3, 4)
    wait(lambda: other.moved() == [0])
    other.start()
    mine.moved()
    wait(lambda: 3 in other.moved())
    wait(lambda: 0 in other.moved())
    assert mine.moved() == [0, 3]
    mine.close()
    other.close()
    other.moved()
    assert other.moved() == []


def test_processor_time_stands_for_beats(path: Path, processes: Path) -> None:
    write_stat(processes, used=100)
    other = Pulse(path, 2, 4)
    assert other.moved() == []
    assert other.moved() == []
    write_stat(processes, used=101)
    assert other.moved() == [2]
    assert other.moved() == []
    # Somebody else has got the number of a process that is gone.
    write_stat(processes, used=500, started=78)
    assert other.moved() == []


def test_pulse_ends_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulse, "BEAT_S", 3600.0)
    one = Pulse(path, 0, 1)
    one.start()
    one.close()
    one.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "pulse"]


def test_pulse_that_never_began_can_end(path: Path) -> None:
    Pulse(path, 0, 1).close()


# -- The file ----------------------------------------------------------------------------------


def test_who_comes_late_erases_nobody(path: Path) -> None:
    nodes = [Pulse(path, node, 40) for node in range(40)]
    assert {one.pid(node) for one in nodes for node in range(40)} == {os.getpid()}


def test_node_that_has_not_come_has_no_process(mine: Pulse) -> None:
    assert mine.pid(3) == 0


def test_all_may_come_at_once(path: Path) -> None:
    gate, nodes = threading.Barrier(8), list[Pulse]()

    def come(node: int) -> None:
        gate.wait()
        nodes.append(Pulse(path, node, 1000))

    threads = [threading.Thread(target=come, args=(node,)) for node in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {one.pid(node) for one in nodes for node in range(8)} == {os.getpid()}
    assert len(nodes) == 8


@pytest.mark.usefixtures("processes")
def test_file_may_go_once_all_have_come(mine: Pulse, path: Path) -> None:
    other = Pulse(path, 3, 4)
    mine.remove()
    other.remove()
    assert not path.exists()
    wait(lambda: other.moved() == [0])


def test_file_is_its_owners_alone(path: Path) -> None:
    before = os.umask(0)
    try:
        Pulse(path, 0, 4)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_link_is_refused(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.touch()
    path.symlink_to(target)
    with pytest.raises(OutputError, match="cannot be shared"):
        Pulse(path, 0, 4)
    assert target.read_bytes() == b""


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.write_text("precious")])
def test_what_no_rank_has_made_is_refused(make: Callable[[Path], object], path: Path) -> None:
    make(path)
    with pytest.raises(OutputError) as caught:
        Pulse(path, 0, 4)
    assert caught.value.remedy
    assert not path.is_file() or path.read_text() == "precious"


def test_file_of_another_user_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(OutputError, match=f"user {os.getuid()}"):
        Pulse(path, 0, 4)
    assert path.read_bytes() == b""


def test_full_disk_is_told_and_no_bus_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OutputError, match="No space left"):
        Pulse(path, 0, 4)


def test_file_is_in_memory_where_there_is_such_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pulse, "SHARED", tmp_path)
    assert pulse.shared_path("job-1") == tmp_path / "mpips-job-1"
    monkeypatch.setattr(pulse, "SHARED", tmp_path / "none")
    assert pulse.shared_path("job-1").parent.is_dir()


# -- Killing -----------------------------------------------------------------------------------


def test_stopped_process_is_killed_once(mine: Pulse, start: Start) -> None:
    child = start("numpy")
    assert mine.pid(1) == child.pid
    child.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    assert mine.kill(1)
    # It is dead and not buried, then gone.
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not mine.kill(1)
    assert child.wait() == -signal.SIGKILL
    assert not mine.kill(1)


def test_process_that_got_the_number_of_another_is_spared(start: Start) -> None:
    child = start("until told")
    assert not kill_process(child.pid, started_at(child.pid) - 1)
    child.communicate("\n")
    assert child.returncode == 0


def test_nobody_is_killed_for_a_node_that_never_came(
    mine: Pulse, processes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number 0 would stand for all processes of the group."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, number: killed.append(pid))
    assert not mine.kill(3)
    assert not kill_process(-1, 0)
    # Without a /proc the number alone says who is meant.
    assert kill_process(5, 0)
    assert killed == [5]


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_process_that_is_gone_or_not_ours_was_not_there(
    error: type[OSError], processes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pid: int, number: int) -> None:
        raise error

    monkeypatch.setattr(os, "kill", fail)
    assert not kill_process(5, 0)


def test_start_of_a_process_is_found_behind_any_name(processes: Path) -> None:
    write_stat(processes, used=3, started=1234)
    assert started_at(os.getpid()) == 1234
    write_stat(processes, used=3, state="Z", started=1234)
    assert started_at(os.getpid()) == 0


# -- Cost --------------------------------------------------------------------------------------


@pytest.mark.rates
def test_rates_of_a_pulse(mine: Pulse) -> None:
    begin = time.process_time()
    time.sleep(2.0)
    print(f"\n  an idle rank's pulse {(time.process_time() - begin) / 2.0:.3%} of a core")
    begin = time.process_time()
    for _ in range(1000):
        mine.moved()
    print(f"  a look at one that has not beaten {(time.process_time() - begin) * 1e3:.0f} us")
