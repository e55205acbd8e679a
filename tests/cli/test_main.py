"""The command line answers at once, and every error is a sentence with an exit code."""

import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from mpips import __version__, bootstrap, errors
from mpips.cli import main
from mpips.node import surroundings

ROOT = Path(__file__).resolve().parents[2]
Command = Callable[[Callable[[object], int]], None]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Command:
    """Install a command `bench` that does what the test wants."""
    monkeypatch.setattr(bootstrap, "ensure", lambda *a, **k: None)
    monkeypatch.setattr(main, "commands", lambda: {"bench": "measure", "train": "train"})
    for name in ("OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"):
        monkeypatch.delenv(name, raising=False)

    def install(run: Callable[[object], int]) -> None:
        module = types.ModuleType("mpips.cli.bench", "Measure.")
        vars(module)["add_arguments"] = lambda parser: parser.add_argument("--servers", type=int)
        vars(module)["run"] = run
        monkeypatch.setitem(sys.modules, "mpips.cli.bench", module)

    return install


def fail(error: BaseException) -> Callable[[object], int]:
    """Return a command that raises an error."""

    def run(arguments: object) -> int:
        raise error

    return run


def test_help_lists_the_commands_that_exist_and_the_exit_codes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    listed = {line.split()[0] for line in shown.splitlines() if line[:2] == "  " and line[2] != " "}
    for name in main.COMMANDS:
        exists = (ROOT / "mpips" / "cli" / f"{name}.py").is_file()
        assert (name in listed) == exists, name
    for code in ("0 ", "1 ", "2 ", "65", "66", "69", "70", "73", "74", "75", "76"):
        assert code in shown


def test_help_of_a_command_is_what_its_option_shows(capsys: pytest.CaptureFixture[str]) -> None:
    shown = []
    for arguments in (["help", "info"], ["info", "--help"]):
        assert main.main(arguments) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert shown[0].startswith("usage: mpips info")


@pytest.mark.parametrize(("is_script", "name"), [(True, "mpips"), (False, "python3 -m mpips")])
def test_hints_name_the_program_that_the_user_started(
    is_script: bool, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = tmp_path / "mpips"
    if is_script:
        started.touch()
    else:
        started.mkdir()
    monkeypatch.setattr(sys, "argv", [str(started)])
    assert main.program() == name


def test_every_command_module_is_in_the_table() -> None:
    modules = {path.stem for path in (ROOT / "mpips" / "cli").glob("*.py")}
    programs = {stem for stem in modules
                if "\ndef add_arguments(" in (ROOT / "mpips/cli" / f"{stem}.py").read_text("utf-8")}
    assert programs <= set(main.COMMANDS)


def test_version_is_the_packages_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"mpips {__version__}\n"


def test_help_and_version_import_nothing_but_the_standard_library() -> None:
    code = ("import sys; from mpips.cli.main import main; main(['--help']); main(['--version'])\n"
            "bad = {m.split('.')[0] for m in sys.modules} - set(sys.stdlib_module_names)\n"
            "print(sorted(bad - {'mpips', '__main__'}), 'subprocess' in sys.modules)")
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, text=True, check=True,
                          capture_output=True, timeout=20)
    assert done.stdout.splitlines()[-1] == "[] False"


@pytest.mark.parametrize("is_rank", [False, True])
def test_rank_does_not_look_again_for_what_its_launcher_has_found(
    is_rank: bool, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[object] = []
    command(lambda arguments: 0)
    monkeypatch.setattr(bootstrap, "ensure", lambda *a, **k: looked.append(a))
    monkeypatch.delenv(surroundings.MARKER, raising=False)
    if is_rank:
        monkeypatch.setenv(surroundings.MARKER, "1")
    assert main.main(["bench"]) == 0
    assert len(looked) == (0 if is_rank else 1)


@pytest.mark.parametrize("lacks", [True, False])
def test_import_that_fails_names_the_package_if_it_is_one_of_ours(
    lacks: bool, command: Command, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command(fail(ModuleNotFoundError("No module named 'their_own'")))
    monkeypatch.setattr(bootstrap, "lacking", lambda lines: ["numba"] * lacks)
    assert main.main(["bench"]) == (69 if lacks else 70)
    said = capsys.readouterr().err
    assert ("this Python lacks numba" if lacks else "No module named 'their_own'") in said


def test_no_command_shows_the_help_and_is_a_usage_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main.main([]) == 2
    assert "usage: mpips COMMAND" in capsys.readouterr().out


def test_misspelled_command_is_answered_with_the_closest(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["trian"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "mpips: error: there is no command trian", "  did you mean train?"]


def test_misspelled_option_is_answered_with_the_closest(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda arguments: 0)
    assert main.main(["bench", "--serves=2"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "mpips: error: unrecognized arguments: --serves=2", "  in: mpips bench ...",
        "  did you mean --servers?"]


def test_wrong_value_of_an_option_is_a_usage_error(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(lambda arguments: 0)
    assert main.main(["bench", "--servers", "two"]) == 2
    assert "argument --servers: invalid int value: 'two'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [
    errors.AppError, errors.UsageError, errors.ConfigError, errors.DataError,
    errors.MissingInputError,
    errors.LaunchError, errors.ProtocolError, errors.OutputError, errors.FileError,
    errors.RanksLostError])
def test_error_of_a_user_is_three_lines_and_its_exit_code(
    kind: type[errors.MpipsError], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(fail(kind("it is wrong", "line 3", "do this")))
    assert main.main(["bench"]) == kind.exit_code
    assert capsys.readouterr().err == "mpips: error: it is wrong\n  line 3\n  do this\n"


def test_error_without_a_place_takes_no_empty_line(
    command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(fail(errors.DataError("it is wrong", "", "do this")))
    main.main(["bench"])
    assert capsys.readouterr().err == "mpips: error: it is wrong\n  do this\n"


@pytest.mark.parametrize("arguments", [["bench", "--debug"], ["--debug", "bench"]])
def test_debug_shows_where_and_keeps_the_exit_code(
    arguments: list[str], command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    command(fail(errors.DataError("it is wrong")))
    assert main.main(arguments) == 65
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.endswith("mpips: error: it is wrong\n")


def test_bug_is_one_line_and_70(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(fail(ZeroDivisionError("by zero")))
    assert main.main(["bench"]) == 70
    assert capsys.readouterr().err == (
        "mpips: internal error: ZeroDivisionError: by zero; please report; --debug shows where\n")


def test_interrupt_is_quiet(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    command(fail(KeyboardInterrupt()))
    assert main.main(["bench"]) == 130
    assert capsys.readouterr() == ("", "")


def test_closed_pipe_is_quiet() -> None:
    code = ("import sys; from mpips.cli import main\n"
            "main.dispatch = lambda a: print('x' * 100_000) or 0\n"
            "sys.exit(main.main([]))")
    done = subprocess.run(["bash", "-c", '"$0" -c "$1" | head -c 1; exit ${PIPESTATUS[0]}',
                           sys.executable, code], cwd=ROOT, capture_output=True, text=True,
                          timeout=20, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("x", "", 141)


def test_other_ranks_leave_a_usage_error_to_the_first_while_there_is_one(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(fail(errors.ConfigError("it is wrong")))
    monkeypatch.setenv("PMIX_RANK", "3")
    # The launcher ends them while they wait.
    waits: list[float] = []

    def end(seconds: float) -> None:
        waits.append(seconds)
        raise SystemExit(143)

    monkeypatch.setattr(main.time, "sleep", end)
    with pytest.raises(SystemExit):
        main.main(["bench"])
    assert (waits, capsys.readouterr().err) == ([main.PATIENCE_S], "")
    monkeypatch.setattr(main.time, "sleep", waits.append)
    assert main.main(["bench"]) == 2
    assert capsys.readouterr().err == "[rank 3] mpips: error: it is wrong\n"


def test_other_ranks_name_themselves_in_an_error_of_their_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command(fail(errors.MissingInputError("no data here", "node 7")))
    monkeypatch.setenv("PMIX_RANK", "3")
    assert main.main(["bench"]) == 66
    assert capsys.readouterr().err == (
        "[rank 3] mpips: error: no data here\n[rank 3]   node 7\n")


def test_exit_code_of_the_command_is_returned(command: Command) -> None:
    command(lambda arguments: 75)
    assert main.main(["bench"]) == 75


def test_every_public_name_is_where_the_package_says() -> None:
    import mpips

    for name in mpips.__all__:
        assert getattr(mpips, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mpips.nothing  # noqa: B018
