"""Write a batch script for Slurm that trains, stops at a checkpoint in time, and goes on.

    mpips slurm config.toml --nodes 4 --tasks-per-node 32 --time 4:00:00 > job.sbatch
    sbatch job.sbatch

Nothing is started, and Slurm need not be there.
"""

import argparse
import os
import re
import shlex
import sys
from pathlib import Path

from mpips.cli import train
from mpips.config import Config
from mpips.errors import OutputError, UsageError
from mpips.node.roles import rank_count

TIME = re.compile(r"\d+|\d+:\d\d|\d+:\d\d:\d\d|\d+-\d+(:\d\d){0,2}")
WARNING_S = 300
SCRIPT = """\
#!/bin/bash
# Trains with mpips on Slurm. The job may be longer than its time limit: before the limit it stops
# at a checkpoint and puts itself back into the queue, where it goes on.

#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
#SBATCH --cpus-per-task=1
#SBATCH --time={time}
{account}
# A while before the end, the shell of this script gets USR1. Without "B:" Slurm would send it to
# the daemons of mpirun, which it ends.
#SBATCH --signal=B:USR1@{warning}
# Where a node fails, the job goes on from its last checkpoint on the nodes that are left. If it was
# the node of this script, it is started again, on as many nodes as it had. Where fewer shall do,
# ask above for whole nodes and a range, --exclusive and --nodes=2-4, and for no number of tasks,
# which Slurm would keep: mpips starts as many ranks as there is room for.
#SBATCH --no-kill
#SBATCH --requeue
# Keep what was said before.
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

# What your cluster needs, such as a module with Open MPI 5: older ones do not survive deaths.
{setup}

# A job that is started again has the same number, and so the same folder.
RUN={run}

# With --no-kill, Slurm takes the job for running also when the node of this script has failed. So
# another node looks after it, and has the job started again.
if [ "${{SLURM_JOB_NUM_NODES:-1}}" -gt 1 ]; then
    srun --overlap --nodes=1 --ntasks=1 --relative=1 --output=none bash -c '
        while sleep 30; do
            NODES=$(squeue -h -j "$SLURM_JOB_ID" -o %N) && [ -n "$NODES" ] &&
                HOSTS=$(scontrol show hostnames "$NODES") &&
                ! grep -qx "$0" <<< "$HOSTS" && scontrol requeue "$SLURM_JOB_ID"
        done' "$SLURMD_NODENAME" 2> /dev/null &
fi

# mpips starts mpirun by itself, and passes signals on. A shell runs a trap only between two
# commands, or while it waits: so the work is done in the background.
trap 'kill -USR1 "$!" 2>/dev/null; SIGNALLED=yes' USR1
{command} \\
    --resume auto --out "$RUN" &
PID=$!
# A signal ends the wait and not the work.
SIGNALLED=yes
while [ -n "$SIGNALLED" ]; do
    SIGNALLED=
    wait "$PID"
    CODE=$?
done

# 75: stopped at a checkpoint, and there is more to do. 76: too many ranks were lost, so that other
# nodes are wanted; not for ever, since it may be the job's own fault.
if [ "$CODE" -eq 75 ] || {{ [ "$CODE" -eq 76 ] && [ "${{SLURM_RESTART_COUNT:-0}}" -lt 5 ]; }}; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$CODE"
"""
SETUP = "# module load openmpi/5"
VENV = """\
if [ -f "$SLURM_SUBMIT_DIR/.venv/bin/activate" ]; then
    source "$SLURM_SUBMIT_DIR/.venv/bin/activate"
fi"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    train.add_job_arguments(parser)
    add = parser.add_argument
    add("--nodes", metavar="N", type=int, default=1, help="nodes of the job (default: 1)")
    add("--tasks-per-node", metavar="N", type=int, help=
        "ranks of each node (default: what the config needs)")  # fmt: skip
    add("--time", metavar="LIMIT", default="1:00:00", help=
        "time limit, as sbatch takes it: minutes, or [days-]hours:minutes:seconds")  # fmt: skip
    add("--warning", metavar="SECONDS", type=int, default=WARNING_S, help=
        f"it stops at a checkpoint so long before the limit (default: {WARNING_S})")  # fmt: skip
    add("--account", metavar="NAME", help="whose budget it is")
    add("--partition", metavar="NAME", help="where it shall run")
    add("--setup", metavar="LINE", action="append", default=[], help=
        "a line of shell to run first: 'module load openmpi/5'; may be repeated")  # fmt: skip
    add("-o", "--output", metavar="FILE", type=Path, help="write to a file, not to the screen")


def run(arguments: argparse.Namespace) -> int:
    """Write the script."""
    text = script(arguments)
    if arguments.output is None:
        print(text, end="")
        return 0
    try:
        arguments.output.write_text(text, encoding="utf-8")
    except OSError as error:
        what = f"{arguments.output} cannot be written: {error.strerror}"
        raise OutputError(what, "", "Give another file with -o.") from None
    print(f"{arguments.output}: sbatch {shlex.quote(str(arguments.output))} starts it")
    return 0


def script(arguments: argparse.Namespace) -> str:
    """Return the script that a command line asks for.

    Raises:
        UsageError: the numbers do not fit, or a time makes no sense.
        MpipsError: the config is wrong.
    """
    _, config = train.make_job(arguments)
    if arguments.resume is not None:
        what = "the script resumes by itself, from the last checkpoint of its run folder"
        raise UsageError(what, f"--resume {arguments.resume}", "Leave it out; see --out.")
    if not TIME.fullmatch(arguments.time):
        remedy = "Minutes, hours:minutes:seconds, or days-hours:minutes:seconds."
        raise UsageError(f"--time is {arguments.time}", "", remedy)
    for name in ("nodes", "tasks_per_node", "warning"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} is {value}", "", "It is 1 or more.")
    tasks, workers = share_out(config, arguments.nodes, arguments.tasks_per_node)
    lines = [f"#SBATCH --account={arguments.account}"] if arguments.account else []
    lines += [f"#SBATCH --partition={arguments.partition}"] if arguments.partition else []
    return SCRIPT.format(
        name=config.run.name,
        nodes=arguments.nodes,
        tasks=tasks,
        time=arguments.time,
        warning=arguments.warning,
        account="\n".join(lines) or "##SBATCH --account=[whose budget]",
        setup="\n".join([*(arguments.setup or [SETUP]), environment()]),
        run=shlex.quote(config.run.out) if config.run.out else
        f'"$SLURM_SUBMIT_DIR/runs/{config.run.name}-$SLURM_JOB_ID"',
        command=command(arguments, config, workers),
    )  # fmt: skip


def share_out(config: Config, nodes: int, tasks: int | None) -> tuple[int, int]:
    """Return the ranks of each node, and the number of workers.

    Workers are those of the config, or all ranks that are left.

    Raises:
        UsageError: there are too few ranks.
    """
    needed = rank_count(config)
    if tasks is None:
        return -(-needed // nodes), max(1, config.run.workers)
    if nodes * tasks < needed:
        what = f"{nodes} nodes with {tasks} ranks each are too few for {needed} ranks"
        raise UsageError(what, "", f"--tasks-per-node {-(-needed // nodes)}")
    left = nodes * tasks - needed + max(1, config.run.workers)
    return tasks, config.run.workers or left


def environment() -> str:
    """Return the lines that make the script find this Python's packages."""
    # An environment that is not beside the job has to be named.
    if sys.prefix == sys.base_prefix or Path(sys.prefix) == Path.cwd() / ".venv":
        return VENV
    return f"source {shlex.quote(os.path.join(sys.prefix, 'bin', 'activate'))}"


def command(arguments: argparse.Namespace, config: Config, workers: int) -> str:
    """Return the command that trains, without its run folder."""
    words = ["python3", "-m", "mpips", "train", str(arguments.input)]
    words += ["--servers", str(config.run.servers), "--workers", str(workers)]
    for name in ("test", "model", "max_time"):
        value = getattr(arguments, name)
        words += [f"--{name.replace('_', '-')}", str(value)] if value is not None else []
    # Without checkpoints on the way, what a lost node has done would have to be done again.
    saved = config.checkpoint
    settings = list(arguments.set)
    if not saved.every_s and not saved.every_iterations:
        settings.append("checkpoint.every_s=auto")
    for setting in settings:
        words += ["--set", setting]
    return shlex.join(words)
