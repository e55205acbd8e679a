"""A transport over MPI: point-to-point messages that never block, on one communicator.

A small frame is one message. A large one is a message with its head and the sizes of its arrays,
and then the arrays, cut into chunks under a second tag, which are received where they shall stay.
MPI keeps the order of messages between two ranks under one tag, and the receiver opens the heads
of a sender in that order; so the n-th chunk received is the n-th chunk sent, without any number.

Only a few chunks are under way at a time. The rest waits here, which keeps the memory of MPI
bounded and lets the small frames pass.

Where MPI knows of deaths (ULFM), nothing but point-to-point messages is used and the communicator
stays as it is until `shrink`; MPI is told that a death is known, and goes on for the others.
Requests with a dead peer are never touched again: MPI frees one that it is asked about, and may
meet it later. MPI learns of deaths while it works on what is not done; so we look for deaths before
we ask about a request that may not be done. Where all is done at once, as small messages are,
nothing is paid.
"""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy.typing as npt
from mpi4py import MPI

from mpips.errors import ProtocolError
from mpips.transport.backoff import Backoff
from mpips.transport.base import FRAMES_PER_POLL, Bytes, Frame, Transport, as_bytes, is_large
from mpips.transport.lanes import Lane, Transfers
from mpips.transport.packing import pack, unpack
from mpips.transport.watchdog import die, watchdog

CHUNK_BYTES = 4 << 20
"""Bytes of a chunk: long enough for full bandwidth, short enough to stay in the cache."""

CHUNKS_UNDER_WAY = 4
MESSAGES_UNDER_WAY = 64
"""How many sends to one node are given to MPI before the first of them is done."""

EAGER_BYTES = 4096
"""Size up to which a message is here, whole, when it is found: the least of MPI's own limits."""

SHRINK_S_MAX = 10.0
"""How long a shrink may take, until the watchdog ends this process."""

_MESSAGE, _CHUNK = 1, 2
"""Tags."""

_DEATHS = (MPI.ERR_PROC_FAILED, MPI.ERR_PROC_FAILED_PENDING)

_graveyard: list[object] = []
"""Requests given up, and their memory, which MPI may still read or write (ULFM: never touch)."""


class MPITransport(Transport):
    """One rank's end; its node number is its rank in the first communicator."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        """Duplicate the communicator, which all its ranks have to do together."""
        super().__init__(comm.Get_rank(), comm.Get_size())
        self._comm: MPI.Comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._sees_losses = _reports_failures(self._comm)
        self._status = MPI.Status()
        self._ready: list[Frame] = []
        self._unsent = 0
        self._error: ProtocolError | None = None
        # By node: its rank in the communicator of now; and the other way round.
        self._first = self._comm.Get_group()
        self._ranks = self._nodes = list(range(self.size))
        self._failed = 0
        # Lanes are made when a node is first met, and looked at while something moves in them.
        self._messages_out: dict[int, Lane[None]] = {}
        self._chunks_out: dict[int, Lane[None]] = {}
        self._messages_in: dict[int, Transfers[bytearray]] = {}
        self._chunks_in: dict[int, Lane[Frame | None]] = {}
        self._moving: dict[Transfers[Any], int] = {}

    def send(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Queue a frame for a node; a large payload is sent from where it is."""
        size = self._admit(dest, head, payload)
        # After an error nothing is sent any more; poll tells why.
        if size is None or self._error:
            return
        follows = is_large(len(head), size)
        message = pack(head, payload, follows)
        chunks = _chunks([as_bytes(array) for array in payload]) if follows else []
        try:
            self._start(self._messages_out, _MESSAGE, dest, message)
            for chunk in chunks:
                self._start(self._chunks_out, _CHUNK, dest, chunk)
        except MPI.Exception as error:
            self._suffer(error, dest)

    def poll(self) -> list[Frame]:
        """Return the frames that are here, at most `FRAMES_PER_POLL`; never blocks."""
        if len(self._ready) < FRAMES_PER_POLL and not self._error:
            self._progress()
        # What came before an error is handed over before the error is raised.
        ready = self._ready
        if self._error and not ready:
            raise self._error
        if len(ready) <= FRAMES_PER_POLL:
            self._ready = []
            return ready
        self._ready = ready[FRAMES_PER_POLL:]
        return ready[:FRAMES_PER_POLL]

    def unsent(self) -> int:
        """Return how many messages and chunks to nodes that are not lost have not left."""
        return self._unsent

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything has left, at most so many seconds, and tell whether it has."""
        deadline = time.monotonic() + timeout_s
        backoff = Backoff()
        while not self._error:
            before = self._unsent
            self._progress()
            if not self._unsent:
                return True
            if time.monotonic() >= deadline:
                return False
            if self._unsent < before:
                backoff.busy()
            else:
                backoff.wait()
        raise self._error

    def forget(self, node: int) -> None:
        """Treat a node as lost from now on, though MPI may believe it alive."""
        super().forget(node)
        self._notice()
        self._ready = [frame for frame in self._ready if frame[0] != node]
        # If it goes on one day, it must not write where others' values are by then.
        lane = self._chunks_in.get(node)
        given_up = lane.give_up() if lane is not None else []
        _graveyard.append(given_up)
        if node not in self.dead:
            for request, _, _ in given_up:
                request.Cancel()
        self._bury(node)

    def shrink(self, dead: Collection[int], give_up: Callable[[], None]) -> None:
        """Go on without the dead, together with all other nodes, or die."""
        # Whoever dies in here leaves the others hanging, or in states that nobody knows.
        with watchdog(SHRINK_S_MAX, give_up):
            try:
                comm = self._comm.Shrink()
                comm.Set_errhandler(MPI.ERRORS_RETURN)
                comm.Agree(1)
            except MPI.Exception:
                die()
        # All that is left of the old one may still be touched by MPI.
        _graveyard.extend((self._comm, self._moving))
        self._comm, self._failed, self._unsent = comm, 0, 0
        self._moving = {}
        for lanes in (self._messages_out, self._chunks_out, self._messages_in, self._chunks_in):
            _graveyard.append(dict(lanes))
            lanes.clear()
        group = comm.Get_group()
        self._nodes = list(group.Translate_ranks(None, self._first))
        group.Free()
        self._ranks = [MPI.PROC_NULL] * self.size
        for rank, node in enumerate(self._nodes):
            self._ranks[node] = rank
        # The new one does not tell of those who have died before it.
        self._lose(frozenset(range(self.size)).difference(self._nodes))
        self.shrinks += 1

    def close(self) -> None:
        """Let go of everything without waiting; what has not left may be lost.

        The communicator is not freed, because that may wait for the other ranks.
        """
        _graveyard.extend(self._moving)
        self._moving = {}
        self._ready.clear()
        self._unsent = 0
        self._error = self._error or ProtocolError("The transport is closed.")

    def _progress(self) -> None:
        try:
            self._fetch()
            # A lane may start another one, which is looked at next time.
            if self._moving:
                self._notice()
                for lane, peer in list(self._moving.items()):
                    self._advance(lane, peer)
        except MPI.Exception as error:
            self._suffer(error)
        except ProtocolError as error:
            self._error = error

    def _advance(self, lane: Transfers[Any], peer: int) -> None:
        """Advance a lane, unless its peer was lost in this round."""
        if lane not in self._moving:
            return
        try:
            lane.advance()
        except MPI.Exception as error:
            self._suffer(error, peer)
            return
        if lane.is_idle():
            del self._moving[lane]
        else:
            self._notice()

    def _fetch(self) -> None:
        """Begin to receive the messages that are here, a bounded number."""
        probe, status = self._comm.Improbe, self._status
        for _ in range(FRAMES_PER_POLL):
            found = probe(MPI.ANY_SOURCE, _MESSAGE, status)
            if found is None:
                return
            source, size = self._nodes[status.source], status.count
            if size > EAGER_BYTES:
                self._notice()
            message = bytearray(size)
            request = found.Irecv(message)
            if source in self.lost:
                self._take_last(source, request, message)
                continue
            # Messages of one sender are opened in order, so that its chunks find their frames.
            lane = self._messages_in.get(source)
            if lane is None:
                lane = self._messages_in[source] = Transfers(partial(self._open, source))
            try:
                is_here = lane.is_idle() and request.Test()
            except MPI.Exception as error:
                _graveyard.append((request, message))
                self._suffer(error, source)
                continue
            if is_here:
                self._open(source, message)
            else:
                lane.follow(request, message, message)
                self._moving[lane] = source
        # Improbe raises after a death, but only when no message waits, which may never happen.
        self._notice()

    def _take_last(self, source: int, request: MPI.Request, message: bytearray) -> None:
        """Take a message of a lost node, if MPI has all of it; the rest will never come."""
        grave = len(_graveyard)
        _graveyard.append((request, message))
        # This leaves a request that is not done as it is, which Test does not.
        if not request.Get_status():
            return
        request.Test()
        del _graveyard[grave]
        head, sizes, arrays, follows = unpack(message)
        if source not in self._forgotten and not follows:
            self._count_received(len(head) + sum(sizes))
            self._ready.append((source, head, arrays))

    def _open(self, source: int, message: bytearray) -> None:
        """Hand over a small frame; begin to receive the payload of a large one."""
        head, sizes, arrays, follows = unpack(message)
        self._count_received(len(head) + sum(sizes))
        if follows:
            self._receive(source, head, sizes)
        else:
            self._ready.append((source, head, arrays))

    def _receive(self, source: int, head: memoryview, sizes: list[int]) -> None:
        """Receive the payload of a large frame where it shall stay."""
        arrays = self._buffers(source, head, sizes)
        lane = self._chunks_in.get(source)
        if lane is None:
            begin = partial(self._comm.Irecv, source=self._ranks[source], tag=_CHUNK)
            lane = self._chunks_in[source] = Lane(begin, self._complete, CHUNKS_UNDER_WAY)
        # The last chunk to be received completes the frame.
        *chunks, last = _chunks(arrays)
        for chunk in chunks:
            lane.add(chunk, None)
        lane.add(last, (source, head, arrays))
        self._moving[lane] = source

    def _complete(self, frame: Frame | None) -> None:
        if frame:
            self._ready.append(frame)

    def _start(
        self, lanes: dict[int, Lane[None]], tag: int, dest: int, data: bytes | Bytes
    ) -> None:
        """Send a message or a chunk, or let it wait for those before it."""
        lane = lanes.get(dest)
        if lane is None:
            window = CHUNKS_UNDER_WAY if tag == _CHUNK else MESSAGES_UNDER_WAY
            begin = partial(self._comm.Isend, dest=self._ranks[dest], tag=tag)
            lane = lanes[dest] = Lane(begin, self._leave, window)
        # Most small messages have left at once, and need not be remembered.
        if lane.is_idle():
            # Where something moves, MPI may have learned of a death since the last poll.
            if self._moving:
                self._notice()
            if dest in self.lost:
                return
            request = self._comm.Isend(data, self._ranks[dest], tag)
            try:
                # A longer one is not done before it is received, so that a look at it is wasted.
                if len(data) <= EAGER_BYTES and request.Test():
                    return
            except MPI.Exception:
                _graveyard.append((request, data))
                raise
            lane.follow(request, data, None)
        else:
            lane.add(data, None)
        self._unsent += 1
        self._moving[lane] = dest

    def _leave(self, _: None) -> None:
        self._unsent -= 1

    def _notice(self) -> None:
        """See who is dead as far as MPI knows; costs 0.2 us."""
        if not self._sees_losses:
            return
        group = self._comm.Get_failed()
        if group.size > self._failed:
            # Until MPI is told that a death is known it raises instead of finding messages.
            self._comm.Ack_failed(group.size)
            self._failed = group.size
            self._lose(frozenset(group.Translate_ranks(None, self._first)))
        group.Free()

    def _lose(self, dead: frozenset[int]) -> None:
        """Give up nodes that are dead for MPI."""
        for node in dead - self.dead:
            self._bury(node)
        self.dead |= dead
        self.lost |= dead

    def _bury(self, node: int) -> None:
        """Give up all that is under way with a node; what MPI has of it is never touched again."""
        for lanes in (self._messages_out, self._chunks_out):
            if node in lanes:
                self._unsent -= len(lanes[node])
        for lane in [lane for lane, peer in self._moving.items() if peer == node]:
            _graveyard.append(lane.give_up())
            del self._moving[lane]

    def _suffer(self, error: MPI.Exception, peer: int | None = None) -> None:
        """Take an error of MPI: it tells of a death, or is the end of this transport.

        Args:
            error: what MPI raised.
            peer: whose request it was.
        """
        kind = error.Get_error_class()
        if not self._sees_losses or kind not in _DEATHS:
            what = f"MPI failed: {error.Get_error_string()}."
            self._error = ProtocolError(what, f"node {self.node}")
            return
        self._notice()
        # MPI has freed the request, and would call it done if it were asked again.
        if kind == MPI.ERR_PROC_FAILED and peer is not None:
            self._bury(peer)
            self.lost |= {peer}


def _chunks(arrays: list[Bytes]) -> list[Bytes]:
    """Cut arrays into views of at most `CHUNK_BYTES`; an empty array gives none."""
    step = CHUNK_BYTES
    return [array[at : at + step] for array in arrays for at in range(0, array.nbytes, step)]


def _reports_failures(comm: MPI.Intracomm) -> bool:
    """Tell whether this MPI knows which ranks have failed.

    MPICH has the call, but it never names anybody; and the classes of errors that tell of deaths
    are there that of an unknown error.
    """
    if MPI.ERR_PROC_FAILED == MPI.ERR_UNKNOWN:
        return False
    try:
        comm.Get_failed().Free()
    except (NotImplementedError, MPI.Exception):
        return False
    return True
