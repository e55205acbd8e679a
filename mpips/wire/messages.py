"""The messages, grouped by the conversation that they belong to.

Every message carries the sender's epoch and incarnation. The protocol relies on no order between
messages. A duplicate of any message is harmless: numbers tell pushes apart (`core/server.py`),
request ids tell answers apart (`core/client.py`, `core/scheduler.py`).

A *slice* names a part of one segment that a push or pull touches: (segment, mark, begin, count).
In a push, `mark` is the number of the stream's push before on this segment (0: none); in a pull,
it is the clock that every logical worker must have reached there (0: none), or, if a predicate
decides on that, the reader's own last clock there. For a range, `begin`
is its first key and `count` its number of keys; for a key list, `begin` is 0 and the slices cut
the list in order, `count` keys each. A slice without keys is a note of the clock.
`mpips.wire.slices` keeps neighbours of equal marks as one run; of a key list to a table without
clocks those that all have keys, whose counts are left out.
"""

from typing import Any

import msgspec
import numpy as np

from mpips.wire.slices import Slice as Slice
from mpips.wire.slices import Slices as Slices
from mpips.wire.types import View


class Coding(msgspec.Struct, frozen=True, array_like=True):
    """How a filter has coded one array of a message; the last one is undone first.

    `signature` is that of a key list which the receiver knows; see `mpips.filters.caching`.
    """

    filter: str
    field: str
    dtype: str
    shape: tuple[int, ...]
    signature: str = ""


class Message(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What all messages carry: the sender's epoch, and the epoch that appointed the sender."""

    epoch: int = 0
    incarnation: int = 0


class Takeover(msgspec.Struct, frozen=True, array_like=True):
    """What a node needs to act for a logical worker after another one.

    Attributes:
        streams: for each table number and clock of the last push that belongs to finished calls,
            all of which are applied.
        calls: the arguments of the last finished call of each function.
        checkpoint: where the logical worker's state is, if it has not worked since the resume.
        task: the task of its last finished call.
        is_known: whether the node may have all that already, and then goes on with it: a new
            scheduler cannot know.
    """

    streams: list[tuple[int, int]]
    calls: dict[str, dict[str, Any]]
    checkpoint: str = ""
    task: int = 0
    is_known: bool = False


# -- Values: client <-> server -----------------------------------------------------------------


class Push(Message, frozen=True, tag=1):
    """Client to owner: apply these values; answered by `PushAck`, or `Values` if `pull`.

    `needs` are the clocks that a pull waits for, by run of slices; none if it waits for nothing.
    All of the stream's pushes up to `base` are known to be applied everywhere: what came before a
    node took over the logical worker. `wants_clocks` is as in `Pull`.
    A key of the slices' range that is not in `keys` takes the clock and keeps its value
    (OSDI 2014, section 4.2). A duplicate is answered again and applied no second time.
    """

    request: int
    table: int
    stream: int
    number: int
    clock: int
    pull: bool
    slices: Slices
    keys: np.ndarray | None
    values: np.ndarray
    needs: tuple[int, ...] = ()
    base: int = 0
    wants_clocks: bool = False
    coding: tuple[Coding, ...] = ()


class PushAck(Message, frozen=True, tag=2):
    """Owner to client: the whole request is applied and safe."""

    request: int


class Pull(Message, frozen=True, tag=3):
    """Client to owner: send the values when the clocks of the slices have reached their marks.

    `clock` is that of the stream's last push to the table before. If `wants_clocks`, the answer
    says which pushes are in it. On a sequential table the answer is what was there after the
    reader's own last push, as a call that is done again needs it.
    """

    request: int
    table: int
    slices: Slices
    keys: np.ndarray | None
    stream: int = 0
    clock: int = 0
    wants_clocks: bool = False
    coding: tuple[Coding, ...] = ()


class Values(Message, frozen=True, tag=4):
    """Owner to client: the values of a pull, slice after slice.

    `keys` is there only for the range of a sparse table: the keys that exist in it, and `counts`
    says how many of them belong to each slice. `clocks` are there if they were asked for: by
    logical worker, ranges of segments and up to which clock its pushes to them are in the values,
    and none after it.
    """

    request: int
    table: int
    keys: np.ndarray | None
    values: np.ndarray
    counts: list[int]
    clocks: list[list[tuple[int, int, int]]] = []
    coding: tuple[Coding, ...] = ()


class Forgotten(Message, frozen=True, tag=60):
    """Receiver to sender: I do not have the key list of this request; send it with the keys.

    Nothing was done with the request, which is a `Push`, `Pull` or `Replicate`.
    """

    request: int
    table: int
    signature: str


# -- Copies: owner <-> copy ----------------------------------------------------------------------


class Replicate(Message, frozen=True, tag=14):
    """Owner to copy: apply these updates, each the next of its segment; answered by `Replicated`.

    The mark of a slice is the update's log number on that segment. `parts` are the pushes that are
    in it: stream and number; all slices have the same.
    """

    request: int
    table: int
    clock: int
    parts: list[tuple[int, int]]
    slices: Slices
    keys: np.ndarray | None
    values: np.ndarray
    coding: tuple[Coding, ...] = ()

    def content(self) -> tuple[Slices, np.ndarray | None, np.ndarray]:
        """Return slices, keys and values."""
        return self.slices, self.keys, self.values


class Before(msgspec.Struct, frozen=True, array_like=True):
    """The values of some keys of a segment before its last update, of a sequential table.

    Attributes:
        clock: of that update.
        previous: of the one before it.
        begin: first of the keys, if they are a range.
        end: one after the last of them.
        keys: the keys, uint64 `(n,)`, if they are a list.
        values: `(n, pull width)`.
    """

    clock: int
    previous: int
    begin: int
    end: int
    keys: np.ndarray | None
    values: np.ndarray


class Snapshot(Message, frozen=True, tag=15):
    """Owner to copy: the whole state of segments, as it was after their last update.

    The mark of a slice is the log number of that update, its `count` the number of rows. `numbers`
    and `clocks` are int64 `(slices, streams)`: of the last push applied of each logical worker.
    `before` says of a sequential table what its segments were before. Answered by `Replicated`.
    """

    request: int
    table: int
    slices: Slices
    numbers: np.ndarray
    clocks: np.ndarray
    keys: np.ndarray | None
    rows: np.ndarray
    before: list[Before | None] = []


class Replicated(Message, frozen=True, tag=16):
    """Copy to owner: everything in the request is applied here."""

    request: int


class Joined(Message, frozen=True, tag=17):
    """Owner to scheduler: a joining copy has these segments; acks wait for it from now on."""

    table: int
    copy: int
    segments: list[int]


class Handed(Message, frozen=True, tag=40):
    """Owner to scheduler: I serve these segments no more, and all who have them are level."""

    table: int
    segments: list[int]


# -- Tasks: scheduler <-> any node -------------------------------------------------------------


class Call(Message, frozen=True, tag=5):
    """Scheduler to a node: run a function of the app, for logical worker `worker` if >= 0.

    `task` counts the plan's tasks. `takeover` is there if the node has not acted for the logical
    worker before. `delays` has the tau of the tables for which the plan has changed it.
    """

    request: int
    worker: int
    function: str
    arguments: dict[str, Any]
    task: int = 0
    takeover: Takeover | None = None
    delays: dict[str, int] = {}


class Drop(Message, frozen=True, tag=21):
    """Scheduler to a node: another one was faster with this call of a logical worker."""

    request: int
    worker: int


class Return(Message, frozen=True, tag=6):
    """Node to scheduler: the result of a call, and how far its logical worker's streams are."""

    request: int
    result: Any
    streams: list[tuple[int, int]] = []


class Ask(Message, frozen=True, tag=22):
    """Worker to any node: run a function of the app that changes nothing; answered by `Told`."""

    request: int
    function: str
    arguments: dict[str, Any]


class Told(Message, frozen=True, tag=23):
    """A node to a worker: what the function has returned; on workers by logical worker."""

    request: int
    result: Any


class Progress(Message, frozen=True, tag=7):
    """Worker to scheduler: facts while a call is running; the highest `number` counts."""

    worker: int
    facts: dict[str, float]
    number: int = 0


# -- Membership: scheduler <-> all --------------------------------------------------------------


class Hello(Message, frozen=True, tag=8):
    """Node to scheduler: I am here, in this role, on this host; what I know of the data."""

    role: str
    host: str
    process: int
    facts: dict[str, Any]
    has_pulse: bool = False


class Start(Message, frozen=True, tag=9):
    """Scheduler to all: the first view, and the facts of the data that all agree on.

    `checkpoint` is the folder of the checkpoint to begin with, if there is one.
    """

    view: View
    facts: dict[str, Any]
    checkpoint: str = ""


class NewView(Message, frozen=True, tag=18):
    """Scheduler to all: this is how it is from now on; a view is complete, and newer ones win."""

    view: View


class Beat(Message, frozen=True, tag=19):
    """Member to scheduler, about every second: these processes on my host are alive.

    A server tells what it was asked for since then: table, segment and number of keys of the
    hottest segments, and the keys of all others together.
    """

    moved: list[int]
    busy: list[tuple[int, int, int]] = []
    rest: int = 0


class Kill(Message, frozen=True, tag=20):
    """Scheduler to a node's mates on its host: it is silent, kill its process."""

    node: int


class Save(Message, frozen=True, tag=24):
    """Scheduler to servers and workers, between two tasks: write your part of a checkpoint.

    Who copies it, to write the copy while it works on, says `Copied` first.
    """

    number: int
    folder: str


class Copied(Message, frozen=True, tag=41):
    """Member to scheduler: nothing that comes can change my part, which I am writing."""

    number: int


class Saved(Message, frozen=True, tag=25):
    """Member to scheduler: my part is on disk, in these files; `Copied` is in this."""

    number: int
    parts: list[dict[str, Any]]


class Ready(Message, frozen=True, tag=10):
    """Node to scheduler: tables, shards and kernels are in place; calls may come."""


class Failed(Message, frozen=True, tag=11):
    """Node to scheduler: an error that ends the job, as `MpipsError` tells it."""

    exit_code: int
    what: str
    where: str
    remedy: str


class Stop(Message, frozen=True, tag=12):
    """Scheduler to all: the job is over; end with this exit code. Answered by `Stopped`.

    Who `stays` is an acceptor, and leaves when it is told so, or else writes the result.
    """

    exit_code: int
    stays: bool = False


class Stopped(Message, frozen=True, tag=13):
    """Node to scheduler: I have nothing left to send."""

    statistics: dict[str, int]


MESSAGES = (
    Push, PushAck, Pull, Values, Call, Return, Progress, Hello, Start, Ready, Failed, Stop, Stopped,
    Replicate, Snapshot, Replicated, Joined, Handed, NewView, Beat, Kill, Drop, Save, Copied, Saved,
    Ask, Told, Forgotten,
)  # fmt: skip
