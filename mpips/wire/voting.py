"""What the scheduler decides, and the messages by which nodes called acceptors store it.

It is Paxos with a stable leader, as the field has it: a ballot is an epoch of its own (counter and
proposer), `Claim` is its "prepare", `Propose` its "accept". What a majority of the acceptors has
stored is decided, and acts after that. A frame may come twice, and late: ballots and indexes tell.
"""

from typing import Any

import msgspec

from mpips.wire.messages import Message, Takeover
from mpips.wire.types import View

# -- Decisions, in the order of the log ----------------------------------------------------------


class Begun(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """The job runs: its first view, and all that a later scheduler needs of how it began.

    Attributes:
        view: the first one.
        facts: of the data, that all agree on.
        pulses: the nodes that show that they live.
        results: what the plan was sent before, if the job was resumed.
        takeovers: by logical worker, where it was then.
        checkpoint: the folder of the checkpoint; empty: the job is new.
    """

    view: View
    facts: dict[str, Any]
    pulses: list[int]
    results: list[Any] = []
    takeovers: dict[int, Takeover] = {}
    checkpoint: str = ""


class Changed(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A view.

    Attributes:
        view: the new one.
        order: the name of the user's order that it follows; empty: none.
        answer: to that order.
    """

    view: View
    order: str = ""
    answer: str = ""


class Done(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A task of the plan is finished: its results, and by logical worker how far streams are."""

    results: list[Any]
    streams: dict[int, list[tuple[int, int]]]


class Kept(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """All parts of a checkpoint are written: it may be called whole."""

    number: int


class Over(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The job stops, with this exit code; the error has what, where and remedy."""

    exit_code: int
    error: tuple[str, str, str] | None
    summary: dict[str, Any]


Entry = Begun | Changed | Done | Kept | Over


class Stored(msgspec.Struct, frozen=True, array_like=True):
    """An entry of an acceptor's log, and the ballot in which it was proposed last."""

    ballot: int
    entry: Entry


# -- Messages: leader or candidate <-> acceptor --------------------------------------------------


class Claim(Message, frozen=True, tag=30):
    """Candidate to acceptor: take nothing of lower ballots any more, and say what you have."""

    ballot: int


class Promise(Message, frozen=True, tag=31):
    """Acceptor to candidate: I do; this is my log."""

    ballot: int
    log: list[Stored]


class Propose(Message, frozen=True, tag=32):
    """Leader to acceptor: store these entries from index `start` on; none: I am alive."""

    ballot: int
    start: int
    entries: list[Entry]


class Accepted(Message, frozen=True, tag=33):
    """Acceptor to leader: I have stored the first `stored` entries in this ballot."""

    ballot: int
    stored: int


class Refused(Message, frozen=True, tag=34):
    """Acceptor to leader or candidate: I have promised this higher ballot to another."""

    ballot: int
    promised: int


class Leave(Message, frozen=True, tag=35):
    """Scheduler to acceptor: the result is written, and you are needed no more."""


VOTES = (Claim, Promise, Propose, Accepted, Refused, Leave)
