"""Key lists as signatures in whole clusters: every order of small ones, drawn jobs of others."""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest

from mpips.core import client, replication, server
from mpips.core.client import ClientMachine
from mpips.core.known import KnownLists
from mpips.filters.caching import SentLists
from mpips.testing.cases import Case
from mpips.testing.explorer import Explorer
from mpips.testing.sites import WorkerSite
from mpips.testing.trial import run_trial


class Eager:
    """Has a list remembered the first time that it is sent, and names it from then on."""

    def __init__(self) -> None:
        self.lists = SentLists(1)

    def __getattr__(self, name: str) -> Any:
        # Nothing of the lists may be kept here, since sites are copied.
        return getattr(vars(self)["lists"], name)

    def shorten(self, dest: int, message: Any) -> Any:
        """Let the second time follow the first one at once."""
        sent = self.lists.shorten(dest, message)
        return self.lists.shorten(dest, message) if sent is message else sent


class KeyedClient(ClientMachine):
    """Names keys where it is given a range."""

    def start(self, table: int, stream: int, where: Any, *rest: Any, **more: Any) -> Any:
        """Start a push or pull of a key list."""
        keys = np.arange(*where, dtype=np.uint64)
        return super().start(table, stream, keys, *rest, **more)


class KeyedWorker(WorkerSite):
    """A worker that pushes and pulls key lists."""

    kind: ClassVar[type[ClientMachine]] = KeyedClient  # type: ignore[misc]


CASES = {
    "2 servers, 1 copy, 2 pushes, 1 death": (Case(2, 1, ("push", "wait") * 2, 1), 2**20),
    "the same, and lists are forgotten at once": (Case(2, 1, ("push", "wait") * 2, 1), 0),
    "2 workers, 1 server, pushes and pulls at once": (
        Case(1, 0, ("push", "pull", "wait"), 0, workers=2),
        2**20,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_promises_hold_in_all_interleavings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, room = CASES[name]
    for module in (client, replication):
        monkeypatch.setattr(module, "SentLists", Eager)
    monkeypatch.setattr(server, "KnownLists", partial(KnownLists, bytes_max=room))
    found = Explorer(dataclasses.replace(case, worker=KeyedWorker)).run()
    print(f"{name}: {found}")
    assert found.is_complete
    assert found.interleavings > found.states > 20
    assert found.ends > found.losses == 0


@pytest.mark.parametrize("seed", [6, 7, 9, 10])
def test_drawn_jobs_keep_their_promises_with_few_lists_known(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[SentLists] = []

    def make() -> SentLists:
        made.append(SentLists(1, 10**4))
        return made[-1]

    for module in (client, replication):
        monkeypatch.setattr(module, "SentLists", make)
    monkeypatch.setattr(server, "KnownLists", partial(KnownLists, bytes_max=150))
    trial = run_trial(seed)
    assert not trial.has_failed, f"{trial.error} {trial.violations} {trial.replay()}"
    assert min(sum(one.shortened for one in made), sum(one.misses for one in made)) > 5
