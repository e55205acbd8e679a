"""Every rank gets a role, servers on as many hosts as there are."""

from collections import Counter

import pytest

from mpips.config import parse
from mpips.errors import UsageError
from mpips.node.roles import assign_roles, rank_count


@pytest.mark.parametrize("servers", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("hosts", ["aaaaaaaa", "aaaabbbb", "abcdabcd", "aaaaaabc", "aabbccdd"])
def test_servers_are_spread_over_the_hosts(hosts: str, servers: int) -> None:
    roles = assign_roles(list(hosts), servers, 1)
    assert roles[0] == "scheduler"
    assert Counter(roles) == {"scheduler": 1, "server": servers, "worker": 7 - servers}
    held = Counter(host for host, role in zip(hosts, roles, strict=True) if role == "server")
    # No host holds two more than one that still has a worker.
    free = {host for host, role in zip(hosts, roles, strict=True) if role == "worker"}
    assert all(held[host] >= max(held.values()) - 1 for host in free)


def test_all_ranks_beyond_the_servers_work() -> None:
    assert assign_roles(["a"] * 3, 1, 1) == ["scheduler", "worker", "server"]
    assert assign_roles(["a", "b", "c"], 2, 0) == ["scheduler", "server", "server"]


def test_host_of_the_scheduler_alone_is_no_trouble() -> None:
    assert assign_roles(["a", "b", "b"], 1, 1) == ["scheduler", "worker", "server"]


def test_too_few_ranks_say_how_many_are_needed() -> None:
    with pytest.raises(UsageError) as error:
        assign_roles(["a"] * 4, 2, 2)
    assert error.value.what == "4 ranks cannot hold 1 scheduler, 2 servers and 2 workers"
    assert error.value.remedy == "Use mpirun -n 5 or more, or --servers 1."
    with pytest.raises(UsageError, match=r"Use mpirun -n 3 or more\.$"):
        assign_roles(["a"] * 2, 1, 1)


@pytest.mark.parametrize(("settings", "count"), [
    ([], 3), (["run.workers=4"], 6), (["run.servers=3", "run.workers=2"], 6),
])  # fmt: skip
def test_ranks_needed_are_scheduler_servers_and_workers(settings: list[str], count: int) -> None:
    config = parse("", "", settings)
    assert rank_count(config) == count
    assert len(assign_roles(["a"] * count, config.run.servers, max(1, config.run.workers))) == count
