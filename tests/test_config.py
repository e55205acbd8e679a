"""The config: every mistake is named with its line, and what is written reads the same again."""

from pathlib import Path

import pytest

from mpips.config import Config, load, parse
from mpips.errors import ConfigError, MissingInputError
from mpips.node.roles import size_config
from mpips.toml import assign, to_toml

TEXT = """\
[run]
servers = 2

[data]
train = "a.h5"

[model]
kind = "linear"
l1 = 0.5
"""


def error_of(text: str, *settings: str) -> ConfigError:
    """Return the error of a config that is wrong."""
    with pytest.raises(ConfigError) as error:
        parse(text, "job.toml", settings)
    assert error.value.exit_code == 2
    return error.value


def test_empty_config_has_defaults() -> None:
    assert parse("", "") == Config() == load(None)


def test_unknown_key_is_named_with_its_line_and_the_nearest() -> None:
    error = error_of(TEXT + "[sync]\nmoode = 'eventual'\n")
    assert error.what == "unknown key sync.moode"
    assert error.where == "job.toml line 11"
    assert error.remedy == "Did you mean sync.mode?"


def test_unknown_key_far_from_all_lists_what_there_is() -> None:
    error = error_of("[filters]\nzzz = 1\n")
    assert (error.where, error.remedy) == ("job.toml line 2", "There are: filters.compress.")


def test_unknown_section_is_named_with_its_line() -> None:
    error = error_of("[run]\n\n[sink]\nmode = ''\n")
    assert error.what == "unknown key sink"
    assert error.where == "job.toml line 3"
    assert error.remedy == "Did you mean sync?"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("servers = 'two'", "expected a whole number, got text"),
        ("servers = 0", ">= 1"),
        ("servers = 1.5", "expected a whole number, got a number"),
        ("seed = -1", ">= 0"),
        ("name = 'a/b'", "matching regex"),
    ],
)
def test_wrong_value_is_named_with_its_line(line: str, what: str) -> None:
    error = error_of(f"[data]\ntrain = 'x'\n[run]\nworkers = 3\n{line}\n")
    key = line.partition(" ")[0]
    assert error.what.startswith(f"run.{key}: ")
    assert what in error.what
    assert error.where == "job.toml line 5"


def test_value_that_is_not_among_the_choices_is_refused() -> None:
    error = error_of("[sync]\nmode = 'sometimes'\n")
    assert "sync.mode" in error.what
    assert "sometimes" in error.what


def test_text_that_is_no_toml_says_where() -> None:
    error = error_of("[run\nservers = 2")
    assert error.what.startswith("no TOML: ")
    assert "line 1" in error.what
    assert error.where == "job.toml"


def test_settings_win_over_the_file_and_may_be_text_or_numbers() -> None:
    config = parse(
        TEXT, "job.toml", ["run.servers=5", "run.name=night", "model.l1 = 2", "model.a=[1]"]
    )
    assert (config.run.servers, config.run.name) == (5, "night")
    assert config.model == {"kind": "linear", "l1": 2, "a": [1]}


@pytest.mark.parametrize("setting", ["run.servers", "servers=2", "run.=2", "=2", ""])
def test_setting_of_another_form_is_refused(setting: str) -> None:
    assert error_of("", setting).what == f"no setting: {setting}"


def test_wrong_setting_is_named() -> None:
    with pytest.raises(ConfigError, match=r"unknown key run.serverz") as error:
        parse("", "", ["run.serverz=2"])
    assert error.value.where == "in the settings of the command line"
    assert error.value.remedy == "Did you mean run.servers?"


def test_wrong_setting_is_not_blamed_on_the_line_that_it_replaces() -> None:
    error = error_of(TEXT, "run.servers=0")
    assert error.where == "in the settings of the command line"
    assert error_of(TEXT.replace("2", "0"), "run.workers=3").where == "job.toml line 2"


@pytest.mark.parametrize(("word", "remedy"), [
    ("sequntial", "Did you mean sequential?"), ("x", "There are: sequential, bounded, eventual."),
])  # fmt: skip
def test_value_that_is_near_to_a_choice_is_answered_with_it(word: str, remedy: str) -> None:
    assert error_of(f"[sync]\nmode = '{word}'\n").remedy == remedy


@pytest.mark.parametrize(("setting", "meant"), [("l1=1", "model.l1=1"), ("seed=2", "run.seed=2")])
def test_setting_without_its_section_is_answered_with_it(setting: str, meant: str) -> None:
    assert error_of("", setting).remedy.endswith(f"Did you mean {meant}?")


def test_section_that_is_no_table_is_refused_with_and_without_a_setting() -> None:
    assert "run" in error_of("run = 3").what
    assert "run" in error_of("run = 3", "run.servers=2").what


@pytest.mark.parametrize(
    "value",
    ["text", 'with "quotes" and \\', "line\nline", "ä", "2", "true", 1, 2**62, -3, 0.1, 1e-300,
     1e22, float("inf"), True, [1, 2.5, "x"], [], {"a": 1, "b c": {"d": [0.5]}}],
    ids=repr,
)  # fmt: skip
def test_written_config_reads_the_same_again(value: object) -> None:
    config = parse(TEXT, "", [assign("model.value", value)])
    again = parse(to_toml(config), "")
    assert again == config
    assert again.model["value"] == value
    assert type(again.model["value"]) is type(value)


def test_written_config_names_every_key() -> None:
    text = to_toml(Config())
    for key in ("[run]", "servers = 1", "seed = 1", "[data]", "[sync]", "[filters]", "[model]"):
        assert key in text.splitlines()


def test_paths_count_from_the_folder_of_the_file_and_in_settings_from_here(tmp_path: Path) -> None:
    path = tmp_path / "job.toml"
    path.write_text(TEXT + "test = 'ignored by data'\n[filters]\n", "utf-8")
    text = '[data]\ntrain = "a.h5"\ntest = "/abs/b.h5"\n[run]\nout = "here"\n'
    path.write_text(text, "utf-8")
    config = load(path)
    assert config.data.train == str(tmp_path / "a.h5")
    assert config.data.test == "/abs/b.h5"
    assert config.run.out == str(tmp_path / "here")
    assert load(path, ["data.train=c.h5"]).data.train == "c.h5"


def test_missing_and_unreadable_files_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"none.toml does not exist"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "bad.toml").write_bytes(b"[run]\nname = '\xff'\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("settings", "ranks", "workers", "logical"),
    [
        ([], 3, 1, 1),
        ([], 6, 4, 4),
        (["run.servers=2"], 6, 3, 3),
        # Surplus ranks change how fast a run is, and not its result.
        (["run.workers=2"], 6, 4, 2),
        (["run.workers=2", "run.logical_workers=8"], 6, 4, 8),
        (["run.logical_workers=8"], 6, 4, 8),
    ],
)
def test_ranks_give_workers_and_the_config_gives_logical_ones(
    settings: list[str], ranks: int, workers: int, logical: int
) -> None:
    config = size_config(parse("", "", settings), ranks)
    assert (config.run.workers, config.logical_workers) == (workers, logical)
    # Once decided, the numbers stay.
    assert config.sized(workers) == config
