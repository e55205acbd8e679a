"""Orders as files: followed once, answered, and never taken from others."""

import json
import os
import threading
from pathlib import Path

import pytest

from mpips.cli.main import main
from mpips.errors import MissingInputError, UsageError
from mpips.node.control import ANSWER, ASKED, FOLDER, ORDER, Control, Follow, ask
from mpips.node.folder import CONFIG


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the run folder of a job."""
    (tmp_path / CONFIG).write_text("")
    return tmp_path


def put(run: Path, name: str, command: str = "status", node: int | None = None) -> Path:
    """Write an order."""
    path = run / FOLDER / (name + ORDER)
    path.write_text(json.dumps({"command": command, "node": node}))
    path.chmod(0o600)
    return path


def names(run: Path) -> list[str]:
    """Return the files that there are."""
    return sorted(path.name for path in (run / FOLDER).iterdir())


def never(name: str, command: str, node: int | None) -> None:
    """Follow nothing."""
    pytest.fail("followed")


def refuse(name: str, command: str, node: int | None) -> None:
    """Refuse an order, as a job without spares does."""
    raise UsageError("no spare is left", "none at all", "Begin with more.")


def list_into(seen: list[tuple[str, str, int | None]]) -> Follow:
    """Return what lists the orders to follow."""

    def follow(name: str, command: str, node: int | None) -> None:
        seen.append((name, command, node))

    return follow


def test_order_is_followed_once_and_answered_when_it_is_decided(run: Path) -> None:
    seen: list[tuple[str, str, int | None]] = []
    control = Control(run)
    put(run, "one", "remove-server", 4)
    control.serve(list_into(seen))
    control.serve(list_into(seen))
    assert seen == [("one", "remove-server", 4)]
    assert names(run) == ["one" + ASKED]
    control.answer("one", "done")
    answer = run / FOLDER / ("one" + ANSWER)
    assert json.loads(answer.read_text()) == {"text": "done"}
    assert names(run) == [answer.name]
    assert (run / FOLDER).stat().st_mode & 0o777 == 0o700
    assert answer.stat().st_mode & 0o777 == 0o600
    # The answer may have been read meanwhile.
    answer.unlink()
    control.answer("one", "done")
    assert names(run) == []


def test_next_scheduler_finds_what_the_one_before_has_not_answered(run: Path) -> None:
    seen: list[tuple[str, str, int | None]] = []
    before = Control(run)
    put(run, "one", "add-server")
    before.serve(list_into(seen))
    after = Control(run, is_new=False)
    after.serve(list_into(seen))
    after.serve(list_into(seen))
    assert seen == 2 * [("one", "add-server", None)]
    after.answer("one", "done")
    assert names(run) == ["one" + ANSWER]


def test_order_that_is_answered_already_is_not_followed_by_the_next_scheduler(run: Path) -> None:
    before = Control(run)
    asked = put(run, "one", "add-server").with_suffix(ASKED)
    before.serve(refuse)
    answer = (run / FOLDER / ("one" + ANSWER)).read_text()
    # It died before it could remove what was asked.
    asked.write_text("{}")
    asked.chmod(0o600)
    Control(run, is_new=False).serve(never)
    assert names(run) == ["one" + ANSWER]
    assert (run / FOLDER / ("one" + ANSWER)).read_text() == answer


def test_user_gets_the_answer_and_the_reason(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control, is_over = Control(run), threading.Event()

    def follow(name: str, command: str, node: int | None) -> None:
        if node:
            refuse(name, command, node)
        control.answer(name, f"{command} it is")

    def serve() -> None:
        while not is_over.is_set():
            control.serve(follow)
            is_over.wait(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert main(["ctl", str(run), "status"]) == 0
        assert main(["ctl", str(run), "add-server", "3"]) == 2
    finally:
        is_over.set()
        thread.join()
    told = capsys.readouterr()
    assert told.out == "status it is\n"
    assert told.err.splitlines() == [
        "mpips: error: no spare is left",
        "  none at all",
        "  Begin with more.",
    ]
    assert names(run) == []


def test_user_is_told_that_nothing_is_decided_yet(run: Path) -> None:
    control, seen = Control(run), list[tuple[str, str, int | None]]()
    is_over = threading.Event()

    def serve() -> None:
        while not is_over.is_set():
            control.serve(list_into(seen))
            is_over.wait(0.01)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        assert ask(run, "add-server", None, wait_s=0.3).startswith("asked, and not decided")
    finally:
        is_over.set()
        thread.join()
    # Whoever is the scheduler then may do it still.
    assert [name.removesuffix(ASKED) for name in names(run)] == [name for name, *_ in seen]


@pytest.mark.parametrize("text", ["", "[]", "{", '{"command": 1, "node": 2}', '{"command": "x"}'])
def test_order_that_cannot_be_read_is_answered(run: Path, text: str) -> None:
    control = Control(run)
    put(run, "one").write_text(text)
    control.serve(refuse)
    answer = json.loads((run / FOLDER / ("one" + ANSWER)).read_text())
    assert answer["error"][0] == "the order cannot be read"


def test_files_that_others_could_have_written_are_left_alone(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    control = Control(run)
    put(run, "open").chmod(0o666)
    target = put(run, "target")
    target.rename(run / "target")
    (run / FOLDER / ("link" + ORDER)).symlink_to(run / "target")
    for _ in range(2):
        control.serve(never)
    assert len(caplog.records) == 2
    assert all("ignored" in record.message for record in caplog.records)
    assert len(list((run / FOLDER).iterdir())) == 2


@pytest.mark.skipif(os.getuid() != 0, reason="gives files away")
def test_files_of_others_are_left_alone(run: Path) -> None:
    control = Control(run)
    os.chown(put(run, "other"), 12345, -1)
    control.serve(never)
    assert len(list((run / FOLDER).iterdir())) == 1


def test_folder_that_others_can_write_is_not_looked_into(run: Path) -> None:
    control = Control(run)
    put(run, "one")
    (run / FOLDER).chmod(0o777)
    control.serve(never)


def test_orders_of_a_run_before_are_forgotten(run: Path) -> None:
    Control(run)
    put(run, "one")
    Control(run).serve(never)


def test_silent_job_is_given_up_on(run: Path) -> None:
    Control(run)
    with pytest.raises(MissingInputError, match="no answer"):
        ask(run, "status", None, wait_s=0.0)
    # Nobody follows it later.
    assert list((run / FOLDER).iterdir()) == []


def test_what_is_no_running_job_is_said(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with pytest.raises(MissingInputError, match="no run folder"):
        ask(tmp_path_factory.mktemp("empty"), "status", None)
    with pytest.raises(MissingInputError, match="no job runs"):
        ask(run, "status", None)
    (run / "result.json").write_text("{}")
    with pytest.raises(MissingInputError, match="has ended"):
        ask(run, "status", None)


def test_node_makes_no_sense_with_status(run: Path) -> None:
    assert main(["ctl", str(run), "status", "3"]) == 2
    assert main(["ctl", str(run), "explode"]) == 2
