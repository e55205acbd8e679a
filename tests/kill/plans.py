"""What is done to a job, drawn from a seed: whom a signal hits, and when."""

import hashlib
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

SILENCE_S: Final = 4.0
"""How long ranks may be silent in jobs where some stop; in others a slow machine is no reason."""

KILL, STOP, GO_ON = signal.SIGKILL, signal.SIGSTOP, signal.SIGCONT

Who = tuple[str, int]
"""A role, and which of its ranks, ascending."""


@dataclass(frozen=True)
class Strike:
    """A signal to some ranks.

    Attributes:
        number: the signal.
        targets: who gets it, all at the same time.
        share: of all pushes, how many are acknowledged when it comes; counts where `after_s` is 0.
        after_s: how long after the strike before it comes.
        healed: it also waits until the scheduler has said that all copies are there again.
        shrunk: it also waits until the scheduler has said that the communicator is smaller.
    """

    number: signal.Signals
    targets: tuple[Who, ...]
    share: float = 0.0
    after_s: float = 0.0
    healed: bool = False
    shrunk: bool = False

    def __str__(self) -> str:
        who = " and ".join(f"{role} #{place}" for role, place in self.targets)
        when = f"after {self.after_s:.3f} s" if self.after_s else f"at {self.share:.0%}"
        when += " and all copies are there again" if self.healed else ""
        when += " and the communicator is smaller" if self.shrunk else ""
        return f"{self.number.name} {who} {when}"


@dataclass(frozen=True)
class Plan:
    """A job and what is done to it.

    Attributes:
        kind: the kind that it was drawn as.
        seed: decides everything.
        servers: ranks that are servers at the start.
        workers: ranks that are workers at the start.
        spares: ranks that wait.
        logical_workers: their number.
        replicas: copies beside that at the owner.
        expected: how the job must end, a word of `OUTCOMES`.
        strikes: what is done, in order.
        every_s: seconds between checkpoints; 0: there are none.
    """

    kind: str
    seed: int
    servers: int
    workers: int
    spares: int
    logical_workers: int
    replicas: int
    expected: str
    strikes: tuple[Strike, ...]
    every_s: float = 0.0

    @property
    def ranks(self) -> int:
        """Return how many ranks the job has."""
        return 1 + self.servers + self.workers + self.spares

    def config(self) -> str:
        """Return the job's config."""
        names = ("servers", "workers", "spares", "logical_workers", "seed")
        sizes = [f"{name} = {getattr(self, name)}" for name in names]
        stops = any(strike.number == STOP for strike in self.strikes) and self.kind != "pause"
        silence_s = SILENCE_S if stops else 60.0
        mode = ['mode = "restart"'] if self.kind == "restart" else []
        return "\n".join([f"replicas = {self.replicas}", "[run]", *sizes, "[data]",
                          'train = "rows.h5"', "[recovery]", f"silence_s = {silence_s}", *mode,
                          "[checkpoint]", f"every_s = {self.every_s}", ""])

    def __str__(self) -> str:
        done = "; ".join(map(str, self.strikes)) or "nothing"
        return (f"{self.kind}, seed {self.seed}: {self.servers} servers, {self.workers} workers,"
                f" {self.spares} spares, {self.logical_workers} logical, {self.replicas} replicas:"
                f" {done}")


RIGHT, LOST, WRONG, HANGS = OUTCOMES = ("right", "lost", "wrong", "hangs")
"""How a job ends: all is well; with exit code 76 and the dead named; otherwise; not at all."""


def _calm(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    return []


def _server(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    return [_strike(random, job, "server")]


def _worker(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    return [_strike(random, job, "worker")]


def _spare(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    return [_strike(random, job, "spare")]


def _scheduler(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    return [_strike(random, job, "scheduler")]


def _two(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """A server and a worker at once."""
    targets = (_draw(random, job, "server"), _draw(random, job, "worker"))
    return [Strike(KILL, targets, _share(random))]


def _servers(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """Two servers at once."""
    return [Strike(KILL, tuple(_draw_two(random, job, "server")), _share(random))]


def _during(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """A server, and another one while the first is being replaced."""
    first, second = _draw_two(random, job, "server")
    return [Strike(KILL, (first,), _share(random)),
            Strike(KILL, (second,), after_s=float(random.uniform(0.001, 0.08)))]


def _after(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """A server, and another one just after the first has been replaced."""
    first, second = _draw_two(random, job, "server")
    return [Strike(KILL, (first,), 0.6 * _share(random)),
            Strike(KILL, (second,), after_s=float(random.uniform(0.001, 0.1)), healed=True)]


def _shrunk(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """A server, and a worker just after all go on on a smaller communicator."""
    return [Strike(KILL, (_draw(random, job, "server"),), 0.6 * _share(random)),
            Strike(KILL, (_draw(random, job, "worker"),), after_s=float(random.uniform(0.001, 0.1)),
                   shrunk=True)]


def _pause(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """Stop somebody for a while that is too short to be given up."""
    who = _draw(random, job, str(random.choice(["scheduler", "server", "worker"])))
    return [Strike(STOP, (who,), _share(random)),
            Strike(GO_ON, (who,), after_s=float(random.uniform(0.05, 1.5)))]


def _stop(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """Stop somebody for good."""
    who = _draw(random, job, str(random.choice(["scheduler", "server", "worker"])))
    return [Strike(STOP, (who,), 0.6 * _share(random))]


def _starve(random: np.random.Generator, job: dict[str, int]) -> list[Strike]:
    """Stop the scheduler until another one has its place: it must do nothing any more."""
    return [Strike(STOP, (("scheduler", 0),), _share(random)),
            Strike(GO_ON, (("scheduler", 0),), after_s=SILENCE_S + 4)]


@dataclass(frozen=True)
class Kind:
    """A kind of plans.

    Attributes:
        draw: draws the strikes.
        expected: how its jobs must end.
        servers: least and largest number of servers.
        spares: least and largest number of spares.
        replicas: copies beside that at the owner.
        every_s: seconds between checkpoints; 0: there are none.
    """

    draw: Callable[[np.random.Generator, dict[str, int]], list[Strike]]
    expected: str = RIGHT
    servers: tuple[int, int] = (2, 3)
    spares: tuple[int, int] = (0, 1)
    replicas: int = 1
    every_s: float = 0.0


# All copies of a segment die where two servers with one replica do.
KINDS: Final[dict[str, Kind]] = {
    "calm": Kind(_calm),
    "pause": Kind(_pause),
    "stop": Kind(_stop),
    "starve": Kind(_starve),
    "server": Kind(_server),
    "worker": Kind(_worker),
    "spare": Kind(_spare, spares=(1, 2)),
    "scheduler": Kind(_scheduler),
    "two": Kind(_two),
    "servers": Kind(_servers, servers=(3, 4), replicas=2),
    "during": Kind(_during, servers=(3, 4), replicas=2),
    "after": Kind(_after, servers=(3, 3)),
    "shrunk": Kind(_shrunk, servers=(3, 3)),
    "both": Kind(_servers, LOST, servers=(2, 2)),
    "restart": Kind(_scheduler, every_s=0.3),
}


def draw_plan(kind: str, seed: int) -> Plan:
    """Return the plan of a kind that a seed gives; each kind has a stream of its own."""
    name, chosen = int.from_bytes(hashlib.sha256(kind.encode()).digest()[:8], "little"), KINDS[kind]
    random = np.random.default_rng([seed, name])
    job = {"servers": int(random.integers(*chosen.servers, endpoint=True)),
           "workers": int(random.integers(2, 4)),
           "spares": int(random.integers(*chosen.spares, endpoint=True))}
    logical_workers = job["workers"] + int(random.integers(0, 2))
    strikes = chosen.draw(random, job)
    return Plan(kind, seed, **job, logical_workers=logical_workers, replicas=chosen.replicas,
                expected=chosen.expected, strikes=tuple(strikes), every_s=chosen.every_s)


def _share(random: np.random.Generator) -> float:
    return float(random.uniform(0.02, 0.7))


def _strike(random: np.random.Generator, job: dict[str, int], role: str) -> Strike:
    return Strike(KILL, (_draw(random, job, role),), _share(random))


def _draw(random: np.random.Generator, job: dict[str, int], role: str) -> Who:
    return role, int(random.integers(job.get(f"{role}s", 1)))


def _draw_two(random: np.random.Generator, job: dict[str, int], role: str) -> list[Who]:
    chosen = random.choice(job[f"{role}s"], 2, replace=False)
    return [(role, int(place)) for place in chosen]
