"""A transport over MPI: point-to-point messages that never block, on one communicator.

A small frame is one message. A large one is a message with its head and the sizes of its arrays,
and then the arrays, cut into chunks under a second tag, which are received where they shall stay.
MPI keeps the order of messages between two ranks under one tag, and the receiver opens the heads
of a sender in that order; so the n-th chunk received is the n-th chunk sent, without any number.

Messages are so short that MPI has them whole before it shows them, and for each sender a receive
is posted, once its greeting has come, which has a tag of its own: a message that finds its receive
costs half of one that is looked for. Longer ones are announced by one, and have a third tag.

Only a few chunks are under way at a time, to bound MPI's memory and let the small frames pass.
Between nodes of one host payloads take another way (`mpips.transport.hostmates`), and only their
heads are messages.

Where MPI knows of deaths (ULFM), nothing but point-to-point messages is used and the communicator
stays as it is until `shrink`; MPI is told that a death is known, and goes on for the others.
Requests with a dead peer are never touched again: MPI frees one that it is asked about, and may
meet it later. MPI learns of deaths while it works on what is not done; so we look for deaths before
we ask about a request that may not be done: small messages are done at once, and cost nothing.
"""

import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import numpy.typing as npt
from mpi4py import MPI

from mpips.errors import ProtocolError
from mpips.transport import packing
from mpips.transport.backoff import Backoff
from mpips.transport.base import FRAMES_PER_POLL, Bytes, Frame, Transport, as_bytes, is_large
from mpips.transport.hostmates import READABLE, HostMates
from mpips.transport.inbox import Inbox
from mpips.transport.intake import CHUNK_BYTES, Intake
from mpips.transport.lanes import Memory, Transfers
from mpips.transport.mpi_deaths import DEATHS, reports_deaths, shrink_together
from mpips.transport.outbox import Outbox

LOOKS = 16
"""Polls that find messages for each that looks for new senders, too."""

CHUNKS_OUT = 16
"""How many chunks to one node are given to MPI before the first of them is done."""

_MESSAGE, _CHUNK, _LONG, _GREETING = 1, 2, 3, 4
_SHORT = frozenset((_MESSAGE, _GREETING))
"""Tags, and which of them are of messages that may be done at once."""

_graveyard: list[object] = []
"""Requests given up, and their memory, which MPI may still read or write (ULFM: never touch)."""


class MPITransport(Transport):
    """One rank's end; its node number is its rank in the first communicator."""

    def __init__(self, comm: MPI.Intracomm) -> None:
        """Duplicate the communicator, which all its ranks have to do together."""
        super().__init__(comm.Get_rank(), comm.Get_size())
        self._comm: MPI.Comm = comm.Dup()
        self._comm.Set_errhandler(MPI.ERRORS_RETURN)
        self._sees_losses = reports_deaths(self._comm)
        self._ready: list[Frame] = []
        self._looks = 0
        self._error: ProtocolError | None = None
        # By node: its rank in the communicator of now; and the other way round.
        self._first = self._comm.Get_group()
        self._ranks = self._nodes = list(range(self.size))
        self._failed = 0
        self._status = MPI.Status()
        self._mates = HostMates(self._start_message, self._send_chunks, self._wanted, CHUNK_BYTES)
        self._begin()

    def _begin(self) -> None:
        """Begin with nothing on its way in the communicator of now."""
        # Lanes are made when a node is first met, and looked at while something moves in them.
        self._moving: dict[Transfers[Any], int] = {}
        self._outbox = Outbox(self._isend, self._has_lost, self._moving, {_CHUNK: CHUNKS_OUT})
        receivers = self._receive_long, self._receive_chunk
        self._intake = Intake(
            *receivers, self._buffers, self._mates, self._moving, self._ready, self._traffic
        )
        self._inboxes: dict[int, Inbox] = {}
        # Whom this node has sent a greeting.
        self._greeted: set[int] = set()

    def send(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]] = ()) -> None:
        """Queue a frame for a node; a large payload is sent from where it is."""
        size = self._admit(dest, head, payload)
        # After an error nothing is sent any more; poll tells why.
        if size is None or self._error:
            return
        follows = bool(payload) and is_large(len(head), size)
        if dest not in self._greeted:
            self._greeted.add(dest)
            self._start(dest, _GREETING, self._mates.name)
        if not follows:
            self._start_message(dest, packing.pack(head, payload, False))
        elif not self._mates.offer(dest, head, payload):
            self._send_chunks(dest, head, payload)

    def poll(self) -> list[Frame]:
        """Return the frames that are here, at most `FRAMES_PER_POLL`; never blocks."""
        if len(self._ready) < FRAMES_PER_POLL and not self._error:
            self._progress()
        # What came before an error is handed over before the error is raised.
        ready = self._ready[:FRAMES_PER_POLL]
        if self._error and not ready:
            raise self._error
        del self._ready[:FRAMES_PER_POLL]
        return ready

    def draft(self, dest: int, size: int) -> Bytes | None:
        """Return memory which a node of this host can read."""
        return self._mates.draft(dest, size)

    def unsent(self) -> int:
        """Return how many messages and chunks to nodes that are not lost have not left."""
        return self._outbox.unsent + self._mates.unsent()

    def backlog(self, dest: int) -> int:
        """Return how many chunks to a node have not left."""
        return self._outbox.count(dest, _CHUNK) + self._mates.count(dest)

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything has left, at most so many seconds, and tell whether it has."""
        deadline = time.monotonic() + timeout_s
        backoff = Backoff()
        while not self._error:
            before = self.unsent()
            self._progress()
            if not self.unsent():
                return True
            if time.monotonic() >= deadline:
                return False
            if self.unsent() < before:
                backoff.busy()
            else:
                backoff.wait()
        raise self._error

    def forget(self, node: int) -> None:
        """Treat a node as lost from now on, though MPI may believe it alive."""
        super().forget(node)
        self._notice()
        self._ready[:] = [frame for frame in self._ready if frame[0] != node]
        # If it goes on one day, it must not write where others' values are by then.
        given_up = self._intake.give_up(node)
        _graveyard.append(given_up)
        if node not in self.dead:
            for request, _, _ in given_up:
                request.Cancel()
        if (inbox := self._inboxes.pop(node, None)) is not None:
            _graveyard.append(inbox)
            inbox.close()
        self._bury(node)

    def shrink(self, dead: Collection[int], give_up: Callable[[], None]) -> None:
        """Go on without the dead, together with all other nodes, or die."""
        comm = shrink_together(self._comm, give_up)
        # All that is left of the old one may still be touched by MPI.
        parts = self._moving, self._outbox, self._intake, self._inboxes
        _graveyard.append((self._comm, *parts))
        self._comm, self._failed = comm, 0
        self._begin()
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
        _graveyard.extend((*self._moving, *self._inboxes.values(), self._outbox))
        for inbox in self._inboxes.values() if not self._error else ():
            inbox.close()
        self._inboxes = {}
        self._moving.clear()
        self._ready.clear()
        self._mates.close()
        self._outbox.unsent = 0
        self._error = self._error or ProtocolError("The transport is closed.")

    def _progress(self) -> None:
        self.has_moved = False
        try:
            # What the last poll returned has been dealt with.
            if self._mates.loans:
                self._mates.look_through()
            self._fetch()
            if self._mates.told:
                self._mates.give_back()
            if self._mates.waiting:
                self.has_moved |= self._mates.advance()
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
        before = len(lane)
        try:
            lane.advance()
        except MPI.Exception as error:
            self._suffer(error, peer)
            return
        self.has_moved |= len(lane) != before
        if lane.is_idle():
            del self._moving[lane]
        else:
            self._notice()

    def _fetch(self) -> None:
        """Take the messages that are here, a bounded number of each sender."""
        found = False
        for source, inbox in list(self._inboxes.items()):
            found |= self._empty(source, inbox)
        # Where messages come, one look of many is enough for new senders, and for deaths.
        self._looks += 1
        if not found or self._looks % LOOKS == 0:
            self._meet()
            self._notice()

    def _empty(self, source: int, inbox: Inbox) -> bool:
        """Take messages of one sender, and return whether there was any."""
        # Who waits for the answer to one that comes alone shall not wait for a look at the next.
        for count in range(FRAMES_PER_POLL if inbox.is_busy else 1):
            # What came of others, or just now of this one, may have told of its death.
            if source not in self._inboxes:
                return count > 0
            try:
                message = inbox.take()
            except MPI.Exception as error:
                _graveyard.append(self._inboxes.pop(source))
                self._suffer(error, source)
                return bool(count)
            if message is None:
                inbox.is_busy = count > 0
                return inbox.is_busy
            if source in self.lost:
                self._take_late(source, message)
            else:
                self._intake.take(source, message)
        inbox.is_busy = True
        return True

    def _meet(self) -> None:
        """Let messages come of those who have sent a greeting.

        After a death this raises, until MPI is told that it is known.
        """
        while (found := self._comm.Improbe(MPI.ANY_SOURCE, _GREETING, self._status)) is not None:
            rank = self._status.source
            source = self._nodes[rank]
            found.Recv(greeting := bytearray(self._status.count))
            if source in self.lost:
                continue
            if self._mates.meet(source, bytes(greeting)):
                self._start(source, _GREETING, READABLE)
            is_met = source in self._inboxes or source in self.lost
            if not is_met and greeting != READABLE:
                receive = partial(self._comm.Recv_init, source=rank, tag=_MESSAGE)
                self._inboxes[source] = Inbox(receive, MPI.Status())
                self._empty(source, self._inboxes[source])

    def _take_late(self, source: int, message: bytearray) -> None:
        """Take a message of a node that is lost, if it died, and did not only stop."""
        if source not in self._forgotten:
            self._intake.take_last(source, message)

    def _start_message(self, dest: int, message: bytes) -> None:
        """Send a message, or announce it and send it then."""
        if len(message) <= packing.MESSAGE_BYTES:
            self._start(dest, _MESSAGE, message)
        else:
            self._start(dest, _MESSAGE, packing.announce(len(message)))
            self._start(dest, _LONG, message)

    def _send_chunks(self, dest: int, head: bytes, payload: Sequence[npt.NDArray[Any]]) -> None:
        """Send a frame whose payload follows it."""
        self._start_message(dest, packing.pack(head, payload, True))
        for chunk in packing.cut([as_bytes(array) for array in payload], CHUNK_BYTES):
            self._start(dest, _CHUNK, chunk)

    def _start(self, dest: int, tag: int, data: Memory) -> None:
        """Begin to send data under a tag, unless the node is lost meanwhile."""
        if self._error or dest in self.lost:
            return
        try:
            self._outbox.start(dest, tag, data, tag in _SHORT)
        except MPI.Exception as error:
            self._suffer(error, dest)

    def _receive_long(self, message: Memory, source: int) -> MPI.Request:
        return self._comm.Irecv(message, self._ranks[source], _LONG)

    def _receive_chunk(self, data: Bytes, source: int) -> MPI.Request:
        return self._comm.Irecv(data, self._ranks[source], _CHUNK)

    def _isend(self, data: Memory, node: int, tag: int) -> MPI.Request:
        return self._comm.Isend(data, self._ranks[node], tag)

    def _has_lost(self, node: int) -> bool:
        self._notice()
        return node in self.lost

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
        new = dead - self.dead
        for node in new:
            self._bury(node)
        self.dead |= dead
        self.lost |= dead
        for node in new:
            self._take_rest(node)
            self._mates.reclaim(node)

    def _bury(self, node: int) -> None:
        """Give up all that is under way with a node; what MPI has of it is never touched again."""
        self._outbox.bury(node)
        self._mates.bury(node)
        for lane in [lane for lane, peer in self._moving.items() if peer == node]:
            _graveyard.append(lane.give_up())
            del self._moving[lane]

    def _take_rest(self, node: int) -> None:
        """Take the messages of a lost node that MPI has; the rest will never come."""
        inbox, rank = self._inboxes.pop(node, None), self._ranks[node]
        if inbox is None:
            return
        _graveyard.append(inbox)
        if (message := inbox.take_last()) is not None:
            self._take_late(node, message)
        try:
            while (found := self._comm.Improbe(rank, _MESSAGE, self._status)) is not None:
                message = bytearray(self._status.count)
                request = found.Irecv(message)
                _graveyard.append((request, message))
                # This leaves a request that is not done as it is, which Test does not.
                if request.Get_status():
                    self._take_late(node, message)
        except MPI.Exception:
            return

    def _suffer(self, error: MPI.Exception, peer: int | None = None) -> None:
        """Take an error of MPI about a peer: it tells of a death, or ends this transport."""
        kind = error.Get_error_class()
        if not self._sees_losses or kind not in DEATHS:
            what = f"MPI failed: {error.Get_error_string()}."
            self._error = ProtocolError(what, f"node {self.node}")
            return
        self._notice()
        # MPI has freed the request, and would call it done if it were asked again.
        if kind == MPI.ERR_PROC_FAILED and peer is not None:
            self._bury(peer)
            self.lost |= {peer}
            self._take_rest(peer)
