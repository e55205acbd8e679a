"""Whole jobs on the ranks of this MPI world: large transfers, errors, and bits that stay."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from mpips.config import Config, parse
from mpips.node.app import App
from mpips.node.local import run_local
from mpips.node.loop import Node, run_loop
from mpips.node.roles import assign_roles, size_config
from mpips.node.scheduler import SchedulerNode
from mpips.node.server import ServerNode
from mpips.node.worker import WorkerNode
from mpips.transport.backoff import Backoff
from mpips.transport.base import Transport
from tests.node.transfer import Transfer
from tests.sim.jobs import Descent, Neighbours, Wrong

FLUSH_S = 20.0


@pytest.fixture
def end() -> Iterator[Transport]:
    """Give this rank's end of a fresh communicator."""
    from mpi4py import MPI

    from mpips.transport.mpi import MPITransport

    transport = MPITransport(MPI.COMM_WORLD)
    yield transport
    transport.flush(FLUSH_S)
    transport.close()


def run_here(end: Transport, kind: type[App], config: Config) -> tuple[int, dict[str, Any] | None]:
    """Be this rank of a job; return its exit code, and on the scheduler the result."""
    roles = assign_roles(["here"] * end.size, config.run.servers, 1)
    config = size_config(config, end.size)
    node: Node
    match roles[end.node]:
        case "scheduler":
            node = SchedulerNode(end, time.monotonic, kind, config, roles)
        case "server":
            node = ServerNode(end, time.monotonic, kind, config)
        case _:
            node = WorkerNode(end, time.monotonic, kind, config)
    code = run_loop(node, Backoff(crowded=True)).exit_code
    return code, node.result if isinstance(node, SchedulerNode) else None


@pytest.mark.mpi(min_size=4)
def test_large_transfers_are_byte_exact(end: Transport) -> None:
    # 64 MB of a dense range, and a million sparse keys.
    values, keys = 8 * 2**20, 10**6
    settings = [f"model.values={values}", f"model.keys={keys}", "run.servers=2"]
    code, result = run_here(end, Transfer, parse("", "", [*settings, "run.logical_workers=2"]))
    assert code == 0
    if result is not None:
        assert (result["wrong"], result["keys"], result["servers"]) == (0, keys, 2)
        counters = result["counters"]
        assert counters["bytes_push"] > 8 * values + 8 * keys
        assert counters["bytes_keys"] >= 8 * keys


@pytest.mark.mpi(min_size=4)
@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("compress", ["off", "lz4"])
def test_sequential_job_has_the_bits_of_one_process(
    end: Transport, servers: int, compress: str
) -> None:
    config = parse("", "", ["run.logical_workers=4", f"filters.compress={compress}"])
    wide = parse("", "", [f"run.servers={servers}", "run.logical_workers=4",
                          f"filters.compress={compress}"])  # fmt: skip
    code, result = run_here(end, Descent, wide)
    assert code == 0
    if result is not None:
        expected = run_local(Descent, config)
        for name in ("w", "keys", "seen"):
            assert result[name].tobytes() == expected[name].tobytes()
        assert result["norm"] == expected["norm"]


@pytest.mark.mpi(min_size=4)
@pytest.mark.parametrize(
    ("place", "code"), [("worker data", 65), ("server", 1), ("plan data", 65), ("tables", 1)]
)
def test_error_anywhere_ends_all_ranks_and_the_scheduler_with_its_exit_code(
    end: Transport, place: str, code: int
) -> None:
    config = parse("", "", [f"model.place={place}", "run.logical_workers=3"])
    seen, result = run_here(end, Wrong, config)
    assert seen == (0 if result is None else code)
    assert result is None or result["status"] == "failed"


@pytest.mark.mpi(min_size=4)
def test_plan_and_workers_call_single_nodes_and_groups(end: Transport) -> None:
    code, result = run_here(end, Neighbours, parse("", "", ["model.iterations=3"]))
    assert code == 0
    if result is None:
        return
    (server,), names, alone = result["servers"], result["workers"], result["alone"]
    assert len({server, *names}) == len(alone) == end.size - 1
    assert alone[server] == [list(range(8))]
    assert [alone[name] for name in names] == [[n] for n in range(len(names))]
    for found in result["worked"]:
        (mine,) = found["id"]
        assert found["servers"] == found[server] == [alone[server]] * 3
        # All have answered, this very rank among them.
        assert all([n for n, _ in look] == list(range(len(names))) for look in found["workers"])
        assert [look[mine] for look in found["workers"]] == [[mine, n] for n in (1, 2, 3)]
        for n, name in enumerate(names):
            assert [who for ((who, _),) in found[name]] == [n] * 3
