"""A rank's log says who it is, and warnings; with run.debug all that it does."""

import subprocess
import sys
from pathlib import Path

import pytest

from mpips.node.ranks import Rank, read_ranks

# Logging is set up once for a whole process.
PROGRAM = """
import logging, sys
from pathlib import Path
from mpips.node.log import introduce, open_log
log = logging.getLogger("mpips.node.member")
for _ in range(2):
    open_log(Path(sys.argv[1]), 3, sys.argv[2] == "debug")
introduce("spare 3 on here", 17)
introduce("worker 3 on here", 17)
log.info("call 1: sweep")
log.warning("node 4 has died")
"""


@pytest.mark.parametrize(("level", "said"), [
    ("", ["spare 3 on here, process 17", "worker 3 on here, process 17", "node 4 has died"]),
    ("debug", ["spare 3 on here, process 17", "worker 3 on here, process 17", "call 1: sweep",
               "node 4 has died"]),
])  # fmt: skip
def test_log_has_warnings_alone_unless_all_is_asked_for(
    level: str, said: list[str], tmp_path: Path
) -> None:
    (tmp_path / "log").mkdir()
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path), level], cwd=root,
                          capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = (tmp_path / "log" / "rank-0003.log").read_text("utf-8").splitlines()
    assert [line.partition(": ")[2] for line in lines] == said
    assert read_ranks(tmp_path) == {3: Rank(3, "worker", "here", 17)}
