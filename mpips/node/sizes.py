"""How much memory, which messages and which checkpoints a job will have, from its config alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mpips.config import Config
from mpips.core.ring import place, place_copies
from mpips.node.app import App
from mpips.node.roles import assign_roles
from mpips.store.updates import find_update
from mpips.wire.types import NOBODY, Table

# What Python, NumPy, the kernels and MPI take in each rank, measured with the sample data; most of
# it is the same pages in all ranks of a host, which is not reckoned with.
RANK_BYTES = 180 << 20
KEY_BYTES = 8
# A key of a sparse table: itself, and at most so much of the index, beside its row.
SPARSE_KEY_BYTES = KEY_BYTES + 14


@dataclass(frozen=True, slots=True)
class TableSize:
    """What a table takes.

    Attributes:
        table: as it is cut.
        row_bytes: of a key's values and state, and in a sparse table of the key.
        total_bytes: of all rows, once; 0 for a sparse table, whose keys are not known before.
        push_bytes: of the largest push: values, and keys where these are not a range.
        pull_bytes: of a pull of all keys.
        by_server: what each server holds, its copies of others' segments included.
    """

    table: Table
    row_bytes: int
    total_bytes: int
    push_bytes: int
    pull_bytes: int
    by_server: dict[int, int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a job takes.

    Attributes:
        hosts: the host of each rank.
        roles: the role of each rank.
        tables: of the job.
        ranks: bytes of memory that each rank will have at least.
        checkpoint_bytes: of a checkpoint, but for the states of apps that do not tell theirs.
        copies: bytes that each rank has to copy for a checkpoint at most, if there is memory.
    """

    hosts: list[str]
    roles: list[str]
    tables: list[TableSize]
    ranks: list[int]
    checkpoint_bytes: int
    copies: list[int]
    by_host: dict[str, int] = field(default_factory=dict)

    def largest(self, role: str) -> int:
        """Return the memory of the rank of a role that needs most; 0 if there is none."""
        return max((n for n, r in zip(self.ranks, self.roles, strict=True) if r == role), default=0)


def spread(ranks: int, hosts: Sequence[str]) -> list[str]:
    """Return the host of each rank: equal shares, one host after the other.

    >>> spread(5, ["a", "b"])
    ['a', 'a', 'a', 'b', 'b']
    """
    return [hosts[rank * len(hosts) // ranks] for rank in range(ranks)]


def table_size(
    index: int, table: Table, hosts: Mapping[int, str], replicas: int, push_keys: int | None
) -> TableSize:
    """Return what a table takes on servers.

    Args:
        index: of the table in the job.
        table: as it is cut.
        hosts: of each server.
        replicas: copies of each segment, beside its owner's.
        push_keys: the most keys that one push names; None: all.
    """
    update = find_update(table.update, table.settings, table.width)
    item = np.dtype(table.dtype).itemsize
    is_sparse = table.kind == "sparse"
    row = update.columns * item + (SPARSE_KEY_BYTES if is_sparse else 0)
    keys = 0 if is_sparse else table.size
    named = push_keys if push_keys is not None else keys
    # Whoever names some keys sends them once, and then their hash.
    key_bytes = KEY_BYTES if push_keys is not None else 0
    owners = place(index, table.segments, sorted(hosts))
    empty = np.full((len(owners), replicas), NOBODY, np.int32)
    copies = place_copies(index, owners, empty, hosts, replicas)
    ends = np.minimum((np.arange(len(owners)) + 1) * table.segment_size, keys)
    lengths = np.diff(ends, prepend=0)
    held = np.column_stack([owners, copies])
    return TableSize(
        table=table,
        row_bytes=row,
        total_bytes=keys * row,
        push_bytes=named * (update.push_width * item + key_bytes),
        pull_bytes=keys * update.pull_width * item,
        by_server={
            server: int(lengths[(held == server).any(axis=1)].sum()) * row for server in hosts
        },
    )


def job_sizes(app: App, config: Config, hosts: Sequence[str]) -> Sizes:
    """Return what a job takes.

    Args:
        app: made from the facts of the data.
        config: with the numbers of ranks decided.
        hosts: names of those that the ranks are spread over.
    """
    run, facts = config.run, app.job.facts
    places = spread(1 + run.servers + run.workers + run.spares, hosts)
    roles = assign_roles(places, run.servers, run.workers, run.spares)
    servers = {rank: places[rank] for rank, role in enumerate(roles) if role == "server"}
    if len(set(servers.values())) == 1:
        servers = {rank: str(rank) for rank in servers}
    replicas = min(config.replicas, run.servers + run.spares - 1)
    # A logical worker more or less rows than another is nothing here.
    logical = config.logical_workers
    needs = app.needs(-(-facts.get("rows", 0) // logical), -(-facts.get("nonzeros", 0) // logical))
    tables = [
        table_size(index, table, servers, replicas, needs.push_keys.get(table.name))
        for index, table in enumerate(table.cut(run.servers) for table in app.tables())
    ]
    ranks, copies = [], []
    for rank, role in enumerate(roles):
        held = sum(size.by_server.get(rank, 0) for size in tables)
        acts_for = -(-logical // run.workers) if role == "worker" else 0
        # A server keeps aside what changes, which may become all that it holds.
        copies.append(held + acts_for * needs.state_bytes)
        ranks.append(RANK_BYTES + held + acts_for * needs.worker_bytes)
    by_host: dict[str, int] = {}
    for host, size in zip(places, ranks, strict=True):
        by_host[host] = by_host.get(host, 0) + size
    return Sizes(
        hosts=places,
        roles=roles,
        tables=tables,
        ranks=ranks,
        checkpoint_bytes=sum(t.total_bytes for t in tables) + logical * needs.state_bytes,
        copies=copies,
        by_host=by_host,
    )
