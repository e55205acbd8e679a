"""Check a config and its data, and say what the job will take, without starting anything.

It looks at the config, the data, the run folder and the checkpoint to go on from as train does,
with the same errors and exit codes, and reckons memory, messages and checkpoints. Exit code 2 also
if the job does not fit into the memory of its hosts.
"""

import argparse
import json
import math
import os
import socket
from typing import TYPE_CHECKING, Any

from mpips.cli import train
from mpips.config import AUTO, Config
from mpips.errors import ConfigError, OutputError, UsageError
from mpips.node.surroundings import free_memory

if TYPE_CHECKING:
    from mpips.node.sizes import Sizes

DISK_MB_S = 200.0
MB, GB = 1e6, 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    train.add_job_arguments(parser)
    add = parser.add_argument
    add("--hosts", metavar="N", type=int, help=
        "hosts of the ranks (default: those of the allocation, or 1)")  # fmt: skip
    add("--memory", metavar="GB", type=float, help=
        "memory of each host (default: what is free on this one)")  # fmt: skip
    add("--disk", metavar="MB/S", type=float, default=DISK_MB_S, help=
        f"rate at which checkpoints reach the disk (default: {DISK_MB_S:g})")  # fmt: skip
    add("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Check everything, and print what the job will take."""
    facts = gather(arguments)
    if arguments.json:
        print(json.dumps(facts, allow_nan=False))
    else:
        print("\n".join(lines(facts)))
    refuse_too_little(facts["memory"])
    return 0


def gather(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the job will take, as values that JSON can hold.

    Raises:
        UsageError, ConfigError: an option or a key is wrong.
        MissingInputError, DataError, FileError: the data or the checkpoint is.
        OutputError: there can be no such run folder.
    """
    from mpips.node.app import Job
    from mpips.node.shard import data_facts
    from mpips.node.sizes import job_sizes

    for name in ("hosts", "memory", "disk"):
        value = getattr(arguments, name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise UsageError(f"--{name} is {value}", "", "It is more than 0.")
    kind, config = train.make_job(arguments)
    config = config.sized(max(1, config.run.workers))
    data = data_facts(config)
    check_out(config)
    hosts = host_names(arguments.hosts)
    sizes = job_sizes(kind(Job(config, data)), config, hosts)
    return {
        "data": {"path": config.data.train, **data},
        "ranks": ranks_on_hosts(sizes),
        "tables": [table_facts(one) for one in sizes.tables],
        "memory": memory_facts(sizes, arguments.memory),
        "checkpoint": checkpoint_facts(config, sizes, arguments.disk * MB, len(hosts)),
        **resume_facts(config),
        "warnings": warnings(config, data),
    }


def warnings(config: Config, data: dict[str, Any]) -> list[str]:
    """Return what train takes, and nobody can want."""
    rows, logical = data.get("rows", 0), config.logical_workers
    found = []
    if rows < logical:
        found.append(f"{logical} logical workers share {rows:,} rows: some have nothing to do")
    if logical < config.run.workers:
        found.append(f"{logical} logical workers cannot occupy {config.run.workers} workers")
    return found


def check_out(config: Config) -> None:
    """Refuse a run folder that train would refuse.

    Raises:
        OutputError: so.
    """
    from mpips.node.folder import check_folder, choose_folder

    folder = choose_folder(config)
    check_folder(folder, config.run.resume == AUTO)
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = f"{folder} cannot be made: {there} is no folder that can be written to"
        raise OutputError(what, "", "Give another folder with --out.")


def host_names(wanted: int | None) -> list[str]:
    """Return names of the hosts: so many, or those of the allocation, or this one."""
    from mpips.node import surroundings

    nodes = os.environ.get("SLURM_JOB_NUM_NODES", "")
    if wanted is None and nodes.isdigit() and not surroundings.slurm_problem():
        wanted = int(nodes)
    if wanted in (None, 1):
        return [socket.gethostname()]
    return [f"host {number + 1}" for number in range(wanted or 1)]


def ranks_on_hosts(sizes: "Sizes") -> dict[str, dict[str, int]]:
    """Return how many ranks of each role each host has."""
    found: dict[str, dict[str, int]] = {}
    for host, role in zip(sizes.hosts, sizes.roles, strict=True):
        mine = found.setdefault(host, {})
        mine[role] = mine.get(role, 0) + 1
    return found


def table_facts(size: Any) -> dict[str, Any]:
    """Return the facts about a table."""
    table = size.table
    is_sparse = table.kind == "sparse"
    return {
        "name": table.name,
        "kind": table.kind,
        "keys": None if is_sparse else table.size,
        "segments": table.segments,
        "bytes_per_key": size.row_bytes,
        "bytes": None if is_sparse else size.total_bytes,
        "largest_push_bytes": size.push_bytes or None,
        "pull_of_all_bytes": None if is_sparse else size.pull_bytes,
    }


def memory_facts(sizes: "Sizes", given_gb: float | None) -> dict[str, Any]:
    """Return what ranks and hosts need, and what a host has."""
    worst = max(sizes.by_host, key=sizes.by_host.__getitem__)
    return {
        "server_bytes": sizes.largest("server"),
        "worker_bytes": sizes.largest("worker"),
        "host": worst,
        "host_bytes": sizes.by_host[worst],
        "host_has_bytes": int(given_gb * GB) if given_gb is not None else free_memory(),
    }


def refuse_too_little(memory: dict[str, Any]) -> None:
    """Refuse a job that does not fit into the memory of a host.

    Raises:
        ConfigError: so.
    """
    needed, there = memory["host_bytes"], memory["host_has_bytes"]
    if needed <= there:
        return
    what = f"{memory['host']} needs {needed / GB:.1f} GB, and has {there / GB:.1f} GB free"
    where = f"A server needs {memory['server_bytes'] / GB:.1f} GB, a worker"
    where += f" {memory['worker_bytes'] / GB:.1f} GB."
    remedy = "Use more hosts, fewer ranks on each, or replicas = 0."
    raise ConfigError(what, where, remedy)


def checkpoint_facts(config: Config, sizes: "Sizes", rate: float, hosts: int) -> dict[str, Any]:
    """Return how large a checkpoint is, how long it takes, and how often it is taken."""
    from mpips.core.saving import LEAST_S, mean_time_between_failures

    seconds = sizes.checkpoint_bytes / rate
    every = config.checkpoint.every_s
    is_auto = isinstance(every, str)
    mtbf = config.checkpoint.mtbf_s or mean_time_between_failures(hosts)
    return {
        "bytes": sizes.checkpoint_bytes,
        "disk_bytes_per_second": rate,
        "seconds": seconds,
        "every_s": max(LEAST_S, math.sqrt(2 * seconds * mtbf)) if is_auto else every,
        "is_auto": is_auto,
        "every_iterations": config.checkpoint.every_iterations,
        "copy_bytes": max(sizes.copies),
        "kept_bytes": sizes.checkpoint_bytes * (config.checkpoint.keep + 1),
    }


def resume_facts(config: Config) -> dict[str, Any]:
    """Return where the job will go on; nothing if it is new.

    Raises:
        ConfigError, DataError, MissingInputError: there is no checkpoint that fits.
    """
    from mpips.node.folder import choose_folder
    from mpips.node.resume import find_resume

    resume = find_resume(config, choose_folder(config))
    if resume is None:
        return {}
    return {"resume": {"from": resume.path, "tasks": resume.tasks, "passed_over": resume.skipped}}


def lines(facts: dict[str, Any]) -> list[str]:
    """Return the facts as people read them."""
    data, memory, saved = facts["data"], facts["memory"], facts["checkpoint"]
    told = [
        f"data        {data['path']}: {data['rows']:,} rows, {data['features']:,} features,"
        f" {data['nonzeros']:,} nonzeros"
    ]
    # Hosts with the same roles share a line.
    alike: dict[str, list[str]] = {}
    for host, roles in facts["ranks"].items():
        alike.setdefault(", ".join(f"{n} {role}" for role, n in roles.items()), []).append(host)
    for shares, names in alike.items():
        told.append(f"ranks       {shares} on {names[0]}")
        told[-1] += f" and {len(names) - 1} more like it" if names[1:] else ""
    told += [table_line(table) for table in facts["tables"]]
    told.append(
        f"memory      about {show(memory['server_bytes'])} a server, "
        f"{show(memory['worker_bytes'])} a worker; {memory['host']} needs"
        f" {show(memory['host_bytes'])} and has {show(memory['host_has_bytes'])}"
    )
    told.append(
        f"checkpoint  {show(saved['bytes'])}, {saved['seconds']:.1f} s at"
        f" {show(saved['disk_bytes_per_second'])}/s; {when(saved)};"
        f" {show(saved['kept_bytes'])} of disk at most;"
        f" up to {show(saved['copy_bytes'])} more in a rank meanwhile"
    )
    if resume := facts.get("resume"):
        told.append(f"goes on     from {resume['from']}, after {resume['tasks']} tasks")
        told += [f"            passed over: {one}" for one in resume["passed_over"]]
    told += [f"warning     {one}" for one in facts["warnings"]]
    return told


def table_line(table: dict[str, Any]) -> str:
    """Return a line about a table."""
    keys = "keys as they come" if table["keys"] is None else f"{table['keys']:,} keys"
    size = "" if table["bytes"] is None else f", {show(table['bytes'])}"
    text = (
        f"{'table ' + table['name']:<11} {table['kind']}, {keys} in {table['segments']} segments,"
        f" {table['bytes_per_key']} B each{size}"
    )
    for name, what in (("largest_push_bytes", "a push"), ("pull_of_all_bytes", "a pull of all")):
        text += "" if table[name] is None else f"; {what} {show(table[name])}"
    return text


def when(saved: dict[str, Any]) -> str:
    """Return when checkpoints are taken, for people."""
    told = []
    if saved["every_s"]:
        told.append(f"every {saved['every_s']:.0f} s" + (" (auto)" if saved["is_auto"] else ""))
    if saved["every_iterations"]:
        told.append(f"every {saved['every_iterations']} iterations")
    return " and ".join(told) or "only when the job is told to stop"


def show(count: float) -> str:
    """Return a number of bytes as people read it.

    >>> show(512), show(2_500_000), show(3.2e9)
    ('512 B', '2.5 MB', '3.2 GB')
    """
    for unit, size in (("GB", GB), ("MB", MB), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f} B"
