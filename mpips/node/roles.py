"""Gives each rank its role."""

from collections import defaultdict
from collections.abc import Sequence

from mpips.config import Config
from mpips.errors import UsageError


def rank_count(config: Config) -> int:
    """Return how many ranks a job needs: one scheduler, and servers, workers and spares."""
    return 1 + config.run.servers + max(1, config.run.workers) + config.run.spares


def assign_roles(hosts: Sequence[str], servers: int, workers: int, spares: int = 0) -> list[str]:
    """Return the role of each rank.

    Rank 0 is the scheduler. Servers are dealt to the hosts in turn, so that no host holds two
    while another holds none; on each host they take the last ranks; then spares likewise. All
    others are workers.

    Args:
        hosts: the host of each rank.
        servers: how many ranks shall be servers.
        workers: how many ranks must be left to work.
        spares: how many ranks shall wait until others die.

    Raises:
        UsageError: there are too few ranks.

    >>> assign_roles(["a", "a", "a", "b", "b"], 2, 2)
    ['scheduler', 'worker', 'server', 'worker', 'server']
    """
    needed = 1 + servers + workers + spares
    if len(hosts) < needed:
        what = (
            f"{len(hosts)} ranks cannot hold 1 scheduler, {servers} servers and {workers} workers"
            + (f", and {spares} spares" if spares else "")
        )
        fitting = len(hosts) - 1 - workers - spares
        smaller = f", or --servers {fitting}" if fitting > 0 else ""
        raise UsageError(what, "", f"Use mpirun -n {needed} or more{smaller}.")
    # Deal servers and spares to the hosts in turn.
    ranks = defaultdict(list)
    for rank, host in enumerate(hosts[1:], 1):
        ranks[host].append(rank)
    roles = ["scheduler"] + ["worker"] * (len(hosts) - 1)
    for role, wanted in (("server", servers), ("spare", spares)):
        dealt = 0
        while dealt < wanted:
            for mine in ranks.values():
                if mine and dealt < wanted:
                    roles[mine.pop()] = role
                    dealt += 1
    return roles


def size_config(config: Config, ranks: int) -> Config:
    """Return the config with the number of workers that this many ranks give.

    The number of logical workers is the config's number of workers where that was given: surplus
    ranks change how fast a run is, and not its result.
    """
    left = ranks - 1 - config.run.servers - config.run.spares
    return config.sized(max(left, config.run.workers, 1), config.run.workers)
