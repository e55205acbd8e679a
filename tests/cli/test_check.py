"""`mpips check` says what a job takes, with train's errors, and starts nothing."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mpips.cli import main
from mpips.config import parse
from mpips.node.app import App, Job, check_model
from mpips.node.local import make_nodes
from mpips.node.loop import run_together
from mpips.node.server import ServerNode
from mpips.node.sizes import job_sizes, spread
from mpips.transport.loop import LoopTransport
from mpips.wire.types import Table
from tests.run.jobs import write_rows


class Three(App):
    """Tables of three kinds."""

    def tables(self) -> list[Table]:
        """Return them, dense ones with and without state."""
        return [
            Table(name="w", size=100_003, segments=50, update="adagrad", dtype="f4"),
            Table(name="v", size=700, segments=7, width=3),
            Table(name="s", kind="sparse", width=2, dtype="f4"),
        ]

    async def work(self, worker: Any) -> None:
        """Do nothing."""


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write data into the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    return write_rows(tmp_path / "rows.h5", rows=50, columns=30)


def facts_of(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    """Return what check says, as JSON."""
    code = main.main(["check", *words, "--json"])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    found: dict[str, Any] = json.loads(said.out)
    return found


@pytest.mark.parametrize("replicas", [0, 1, 2])
def test_reckoned_memory_of_servers_is_what_their_stores_take(replicas: int) -> None:
    config = check_model(Three, parse("", "", [
        "run.servers=3", "run.workers=2", f"replicas={replicas}"])).sized(2)  # fmt: skip
    sizes = job_sizes(Three(Job(config, {})), config, ["here"])
    nodes = make_nodes(list(LoopTransport.world(6)), time.monotonic, Three, config)
    run_together(nodes, lambda: None)
    for place, size in enumerate(sizes.tables[:2]):
        # Ranks have other numbers under mpirun: the same shares, for others.
        held = [
            len(node.machine.stores[place].held) * size.table.segment_size * size.row_bytes
            for node in nodes if isinstance(node, ServerNode) and node.machine
        ]  # fmt: skip
        assert sum(size.by_server.values()) == size.total_bytes * (1 + replicas)
        # All segments but the last are of one size.
        slack = 2 * size.table.segment_size * size.row_bytes
        assert max(held) == pytest.approx(max(size.by_server.values()), rel=0.25, abs=slack)
        store = nodes[1].machine.stores[place]  # type: ignore[attr-defined]
        assert store.update.columns * store.dtype.itemsize == size.row_bytes
    assert sizes.tables[0].total_bytes == 100_003 * 8
    assert (sizes.tables[2].total_bytes, sizes.tables[2].row_bytes) == (0, 8 + 8 + 14)


def test_check_tells_ranks_tables_messages_and_checkpoints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = facts_of(capsys, "rows.h5", "--servers", "2", "--workers", "3", "--hosts", "2",
                     "--disk", "1", "--set", "checkpoint.every_s=auto")  # fmt: skip
    assert found["data"]["rows"] == 50
    total: dict[str, int] = {}
    for roles in found["ranks"].values():
        for role, count in roles.items():
            total[role] = total.get(role, 0) + count
    assert total == {"scheduler": 1, "server": 2, "worker": 3}
    assert [host["server"] for host in found["ranks"].values()] == [1, 1]
    tables = {table["name"]: table for table in found["tables"]}
    assert tables["gradient"]["bytes"] == tables["gradient"]["largest_push_bytes"] == 30 * 8
    saved = found["checkpoint"]
    assert saved["seconds"] == pytest.approx(saved["bytes"] / 1e6)
    assert saved["is_auto"]
    # A slower disk asks for fewer of them.
    slower = facts_of(capsys, "rows.h5", "--disk", "0.00001", "--set", "checkpoint.every_s=auto")
    assert slower["checkpoint"]["every_s"] > 10 * saved["every_s"]


def test_check_for_people_names_all_and_leaves_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert main.main(["check", "rows.h5", "--hosts", "3", "--workers", "5"]) == 0
    out = capsys.readouterr().out
    assert "warning" not in out
    for word in ("50 rows", "1 scheduler", "table w", "memory", "checkpoint", "more like it"):
        assert word in out
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("words", "code", "told"), [
    (["none.h5"], 66, "none.h5 does not exist"),
    (["rows.h5", "--set", "run.serves=2"], 2, "Did you mean run.servers?"),
    (["rows.h5", "--workers", "0"], 2, "--workers is 0"),
    (["rows.h5", "--hosts", "0"], 2, "--hosts is 0"),
    (["rows.h5", "--disk", "nan"], 2, "--disk is nan"),
    (["rows.h5", "--memory", "0.01"], 2, "has 0.0 GB free"),
    (["rows.h5", "--set", "model.solver=exat"], 2, "exact"),
    (["rows.h5", "--resume", "nowhere"], 66, "nowhere"),
    (["rows.h5", "--out", "done"], 73, "holds the result of another run"),
    (["rows.h5", "--out", "rows.h5/run"], 73, "cannot be made"),
    (["text.h5"], 65, "text.h5"),
])  # fmt: skip
def test_what_is_wrong_is_told_as_train_tells_it(
    words: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "done").mkdir()
    (tmp_path / "done" / "result.json").write_text("{}")
    (tmp_path / "text.h5").write_text("1 1:1\n")
    assert main.main(["check", *words]) == code
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(("settings", "told"), [
    ((), []),
    (("run.logical_workers=51",), ["51 logical workers share 50 rows: some have nothing to do"]),
    (("run.logical_workers=2", "run.workers=3"), ["2 logical workers cannot occupy 3 workers"]),
])  # fmt: skip
def test_what_makes_no_sense_and_works_is_a_warning(
    settings: tuple[str, ...], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word for setting in settings for word in ("--set", setting)]
    assert facts_of(capsys, "rows.h5", *words)["warnings"] == told


def test_hosts_of_an_allocation_are_counted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "4")
    found = facts_of(capsys, "rows.h5", "--workers", "6")
    assert len(found["ranks"]) == 4
    assert spread(4, ["a", "b"]) == ["a", "a", "b", "b"]
