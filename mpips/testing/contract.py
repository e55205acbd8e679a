"""The promises of a transport as tests, to be inherited by the tests of each one.

A subclass gives the fixture `ends`: the nodes 0 and 1 of a world of two that live in this process,
both or one or none. Each test is written for any of these: every end does its part, and what it
expects is derived from the number of the node that sends, so nothing else needs to be exchanged.
"""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from mpips.errors import ProtocolError
from mpips.testing.frames import assert_same, mixed_arrays, random_bytes
from mpips.transport.base import FRAMES_PER_POLL, SMALL_FRAME, Bytes, Frame, Transport

PATIENCE_S = 100.0
"""How long frames may take on a machine that is busy with something else."""

CHUNK = 4 << 20

SIZES = [0, 1, 7, 8, SMALL_FRAME - 3, SMALL_FRAME - 2, 4095, 65536, CHUNK - 1, CHUNK, CHUNK + 1]
"""Bytes around which an implementation is likely to change its ways."""

Received = dict[int, list[Frame]]
"""What each end has received, by its node."""


class TransportContract:
    """What every transport must do; see `mpips.transport.base`."""

    @pytest.fixture
    def ends(self) -> Iterator[list[Transport]]:
        """Give the ends that live in this process; a subclass has to say which."""
        raise NotImplementedError

    def test_poll_of_nothing_returns_at_once(self, ends: list[Transport]) -> None:
        """An event loop must not be held up by silence."""
        for end in ends:
            began = time.process_time()
            assert all(end.poll() == [] for _ in range(100))
            assert time.process_time() - began < 1.0

    def test_every_end_knows_who_it_is(self, ends: list[Transport]) -> None:
        """Node numbers are what heads are addressed with."""
        assert all(end.size == 2 and end.node in (0, 1) for end in ends)
        assert len({end.node for end in ends}) == len(ends)

    @pytest.mark.parametrize("size", SIZES)
    def test_one_array_arrives_unchanged(self, ends: list[Transport], size: int) -> None:
        """Sizes around every threshold, byte for byte."""
        for end in ends:
            end.send(1 - end.node, b"one", [random_bytes(end.node, size)])
        for node, frames in receive(ends, 1).items():
            source, head, payload = frames[0]
            assert (source, bytes(head)) == (1 - node, b"one")
            assert_same(payload, [random_bytes(1 - node, size)])

    @pytest.mark.parametrize("size", [0, 1, 100, SMALL_FRAME, SMALL_FRAME + 1, 1 << 20])
    def test_head_alone_arrives_unchanged(self, ends: list[Transport], size: int) -> None:
        """A head may be empty, and may be large."""
        for end in ends:
            end.send(1 - end.node, random_bytes(end.node, size).tobytes())
        for node, frames in receive(ends, 1).items():
            _, head, payload = frames[0]
            assert bytes(head) == random_bytes(1 - node, size).tobytes()
            assert payload == []

    def test_large_head_with_an_empty_array_arrives(self, ends: list[Transport]) -> None:
        """Nothing follows such a head, so nothing may be waited for."""
        for end in ends:
            end.send(1 - end.node, bytes(SMALL_FRAME + 1), [np.zeros(0)])
        for frames in receive(ends, 1).values():
            _, head, payload = frames[0]
            assert bytes(head) == bytes(SMALL_FRAME + 1)
            assert_same(payload, [np.zeros(0)])

    @pytest.mark.parametrize("scale", [1, 1000, 100_000])
    def test_arrays_of_all_dtypes_arrive_aligned(self, ends: list[Transport], scale: int) -> None:
        """Small together, large together, and with odd sizes and empty arrays between them."""
        for end in ends:
            end.send(1 - end.node, b"odd", mixed_arrays(end.node, scale))
        for node, frames in receive(ends, 1).items():
            sent, payload = mixed_arrays(1 - node, scale), frames[0][2]
            assert_same(payload, sent)
            for part, array in zip(payload, sent, strict=True):
                assert part.ctypes.data % 8 == 0
                assert np.array_equal(part.view(array.dtype), array.reshape(-1))

    def test_what_arrives_may_be_written_to(self, ends: list[Transport]) -> None:
        """Filters decode in place, and must not write into a neighbour."""
        for end in ends:
            end.send(1 - end.node, b"", [random_bytes(end.node, 100), random_bytes(end.node, 50)])
        for node, frames in receive(ends, 1).items():
            first, second = frames[0][2]
            first[:] = 0
            assert_same([second], [random_bytes(1 - node, 50)])

    def test_small_payload_is_copied_at_once(self, ends: list[Transport]) -> None:
        """The sender may write to its arrays as soon as `send` returns."""
        for end in ends:
            array = random_bytes(end.node, SMALL_FRAME)
            end.send(1 - end.node, b"", [array])
            array[:] = 0
        for node, frames in receive(ends, 1).items():
            assert_same(frames[0][2], [random_bytes(1 - node, SMALL_FRAME)])

    def test_many_small_arrays_are_copied_at_once(self, ends: list[Transport]) -> None:
        """What says how long they are may take more than they do."""
        for end in ends:
            arrays = [random_bytes(n, n % 7) for n in range(1000)]
            end.send(1 - end.node, b"many", arrays)
            end.send(1 - end.node, b"next", [random_bytes(end.node, 70_000)])
            for array in arrays:
                array[:] = 0
        for frames in receive(ends, 2).values():
            parts = next(payload for _, head, payload in frames if bytes(head) == b"many")
            assert_same(parts, [random_bytes(n, n % 7) for n in range(1000)])

    def test_large_payload_is_received_in_its_place(self, ends: list[Transport]) -> None:
        """Values go straight to where the user wants them."""
        sizes, asked = [100_000, 0, CHUNK + 3], {}
        places = {end.node: [np.zeros(size, np.uint8) for size in sizes] for end in ends}
        for end in ends:

            def place(
                source: int, head: memoryview, sizes: list[int], node: int = end.node
            ) -> list[Bytes]:
                asked[node] = source, bytes(head), sizes
                return places[node]

            end.place = place
            end.send(1 - end.node, b"small", [random_bytes(end.node, 1000)])
            end.send(1 - end.node, b"large", [random_bytes(end.node, size) for size in sizes])
        for node, frames in receive(ends, 2).items():
            payload = next(payload for _, head, payload in frames if bytes(head) == b"large")
            assert asked[node] == (1 - node, b"large", sizes)
            assert all(part is there for part, there in zip(payload, places[node], strict=True))
            assert_same(payload, [random_bytes(1 - node, size) for size in sizes])

    def test_place_may_decline(self, ends: list[Transport]) -> None:
        """None means: allocate."""
        for end in ends:
            end.place = lambda source, head, sizes: None
            end.send(1 - end.node, b"", [random_bytes(end.node, 100_000)])
        for node, frames in receive(ends, 1).items():
            assert_same(frames[0][2], [random_bytes(1 - node, 100_000)])

    def test_place_that_does_not_fit_is_refused(self, ends: list[Transport]) -> None:
        """Receiving into it would destroy the memory behind it."""
        for end in ends:
            end.place = lambda source, head, sizes: [np.zeros(sizes[0] - 1, np.uint8)]
            end.send(end.node, b"", [random_bytes(end.node, 100_000)])
            with pytest.raises(ProtocolError, match="place"):
                receive([end], 1)

    def test_many_small_frames_arrive_once_each(self, ends: list[Transport]) -> None:
        """Both ways at the same time, each with its own number."""
        for end in ends:
            for number in range(500):
                end.send(1 - end.node, b"%d" % number, [np.array([number], np.uint32)])
        for frames in receive(ends, 500).values():
            numbers = sorted(int(bytes(head)) for _, head, _ in frames)
            assert numbers == list(range(500))
            assert all(
                int(payload[0].view("<u4")[0]) == int(bytes(head)) for _, head, payload in frames
            )

    def test_burst_is_handed_over_in_bounded_portions(self, ends: list[Transport]) -> None:
        """Ten thousand frames that nobody has fetched yet are held, not lost."""
        for end in ends:
            for number in range(10_000):
                end.send(1 - end.node, b"%d" % number)
        for frames in receive(ends, 10_000).values():
            assert sorted(int(bytes(head)) for _, head, _ in frames) == list(range(10_000))

    def test_large_frames_both_ways_do_not_block_each_other(self, ends: list[Transport]) -> None:
        """Three at once, mixed with small ones: chunks must find the right frame."""
        sizes = [100_000, 3 * CHUNK + 5, CHUNK]
        for end in ends:
            for number, size in enumerate(sizes):
                end.send(1 - end.node, b"%d" % number, [random_bytes(end.node + 2 * number, size)])
                end.send(1 - end.node, b"small")
        for node, frames in receive(ends, 6).items():
            large = {
                int(bytes(head)): payload for _, head, payload in frames if bytes(head) != b"small"
            }
            assert sorted(large) == [0, 1, 2]
            for number, size in enumerate(sizes):
                assert_same(large[number], [random_bytes(1 - node + 2 * number, size)])

    def test_backlog_is_what_of_large_frames_has_not_left(self, ends: list[Transport]) -> None:
        """A server makes answers no faster than they leave."""
        for end in ends:
            end.send(1 - end.node, b"", [random_bytes(end.node, 3 * CHUNK)])
            assert end.backlog(end.node) == 0
        receive(ends, 1)
        for end in ends:
            assert end.unsent() == end.backlog(1 - end.node) == 0

    def test_large_frame_is_whole_when_it_is_returned(self, ends: list[Transport]) -> None:
        """Its last chunk must be here, not only on its way."""
        size, missing = 6 * CHUNK, {end.node: end for end in ends}
        for end in ends:
            end.send(1 - end.node, b"", [random_bytes(end.node, size)])
        expected = {node: random_bytes(1 - node, size) for node in missing}
        deadline = time.monotonic() + PATIENCE_S
        while missing and time.monotonic() < deadline:
            for node, end in list(missing.items()):
                for _, _, payload in end.poll():
                    assert np.array_equal(payload[0], expected[node])
                    del missing[node]
        assert not missing
        assert all(end.flush(PATIENCE_S) for end in ends)

    def test_payloads_of_large_and_small_heads_are_not_mixed_up(
        self, ends: list[Transport]
    ) -> None:
        """A small head may be here before a large one that was sent first."""
        heads = [b"%d" % n + b" " * (60_000 if n % 3 == 0 else 0) for n in range(20)]
        for end in ends:
            for number, head in enumerate(heads):
                end.send(1 - end.node, head, [np.full(70_000 + number, number, np.uint8)])
        for frames in receive(ends, len(heads)).values():
            for _, received, (part,) in frames:
                number = int(bytes(received))
                assert part.nbytes == 70_000 + number
                assert (part == number).all()

    @pytest.mark.parametrize("size", [10, CHUNK + 1])
    def test_node_sends_to_itself(self, ends: list[Transport], size: int) -> None:
        """A rank may be worker and server at once."""
        for end in ends:
            end.send(end.node, b"me", [random_bytes(end.node, size)])
        for node, frames in receive(ends, 1).items():
            source, head, payload = frames[0]
            assert (source, bytes(head)) == (node, b"me")
            assert_same(payload, [random_bytes(node, size)])

    def test_flush_keeps_what_comes_meanwhile(self, ends: list[Transport]) -> None:
        """Two nodes that flush large frames to each other must not wait for ever."""
        for end in ends:
            end.send(1 - end.node, b"", [random_bytes(end.node, 3 * CHUNK)])
        for end in ends:
            assert end.flush(PATIENCE_S)
            assert end.unsent() == 0
        for node, frames in receive(ends, 1).items():
            assert_same(frames[0][2], [random_bytes(1 - node, 3 * CHUNK)])

    def test_flush_holds_more_frames_than_one_poll_returns(self, ends: list[Transport]) -> None:
        """What it received has to come out in portions, too, and all of it."""
        for end in ends:
            for number in range(1000):
                end.send(1 - end.node, b"%d" % number)
        for end in ends:
            assert end.flush(PATIENCE_S)
        for frames in receive(ends, 1000).values():
            assert sorted(int(bytes(head)) for _, head, _ in frames) == list(range(1000))

    def test_what_cannot_be_sent_is_refused(self, ends: list[Transport]) -> None:
        """A node that is not there, and an array that is not in one piece."""
        for end in ends:
            with pytest.raises(ProtocolError, match="node"):
                end.send(2, b"")
            for size in (10, 1000):
                with pytest.raises(ProtocolError, match="contiguous"):
                    end.send(1 - end.node, b"", [np.zeros((size, size)).T[1:]])
            assert end.unsent() == 0
            assert end.poll() == []

    def test_traffic_is_counted(self, ends: list[Transport]) -> None:
        """Bytes are those of heads and payloads."""
        for end in ends:
            end.send(1 - end.node, b"abc", [np.zeros(4), np.zeros(100_000, np.uint8)])
            end.send(1 - end.node, b"abc")
        receive(ends, 2)
        for end in ends:
            traffic = end.statistics()
            assert (traffic.frames_sent, traffic.bytes_sent) == (2, 100_038)
            assert (traffic.frames_received, traffic.bytes_received) == (2, 100_038)

    def test_nobody_is_lost_while_all_live(self, ends: list[Transport]) -> None:
        """Whoever is lost is lost for ever."""
        for end in ends:
            end.send(1 - end.node, b"alive")
        receive(ends, 1)
        assert all(end.lost == frozenset() for end in ends)

    @pytest.mark.parametrize("size", [0, 100, 3 * CHUNK])
    def test_frames_for_a_forgotten_node_are_dropped(
        self, ends: list[Transport], size: int
    ) -> None:
        """Nobody waits for them, and they are not counted."""
        for end in ends:
            end.forget(1 - end.node)
            end.send(1 - end.node, b"gone", [random_bytes(end.node, size)])
            assert end.lost == {1 - end.node}
            assert end.unsent() == 0
            assert end.flush(0.0)
            assert end.statistics().frames_sent == 0

    def test_what_is_under_way_to_a_forgotten_node_is_given_up(self, ends: list[Transport]) -> None:
        """Some of it is in the hands of the carrier, some waits for its turn."""
        for end in ends:
            for number in range(200):
                end.send(1 - end.node, b"%d" % number, [random_bytes(end.node, 60_000)])
            end.send(1 - end.node, b"large", [random_bytes(end.node, 9 * CHUNK)])
            end.forget(1 - end.node)
            assert end.unsent() == 0
            assert end.flush(0.0)

    @pytest.mark.parametrize("size", [100, CHUNK + 1])
    def test_node_that_forgot_another_goes_on_with_the_rest(
        self, ends: list[Transport], size: int
    ) -> None:
        """What came of the forgotten one, before or after, is not returned; all else is."""
        for end in ends:
            for length in (10, 60_000, 2 * CHUNK):
                end.send(1 - end.node, b"late", [random_bytes(end.node, length)])
            # Perhaps some of it is here, and some is half here.
            end.flush(0.0)
            end.forget(1 - end.node)
            for number in range(100):
                end.send(end.node, b"%d" % number, [random_bytes(number, size)])
        for node, frames in receive(ends, 100).items():
            assert sorted(int(bytes(head)) for _, head, _ in frames) == list(range(100))
            for source, head, payload in frames:
                assert source == node
                assert_same(payload, [random_bytes(int(bytes(head)), size)])

    def test_who_cannot_be_forgotten_is_refused(self, ends: list[Transport]) -> None:
        """A node itself, and one that is not there; twice the same is no mistake."""
        for end in ends:
            for node in (end.node, 2, -1):
                with pytest.raises(ProtocolError, match="forget"):
                    end.forget(node)
            assert end.lost == frozenset()
            end.forget(1 - end.node)
            end.forget(1 - end.node)
            assert end.lost == {1 - end.node}

    def test_frames_travel_after_each_shrink_as_before_it(self, ends: list[Transport]) -> None:
        """Where nobody has died the world stays as it is; nodes keep their numbers in any case."""
        for turn in range(3):
            for end in ends:
                end.send(1 - end.node, b"%d" % turn, [random_bytes(end.node, CHUNK + turn)])
            for node, ((source, head, payload),) in receive(ends, 1).items():
                assert (source, bytes(head)) == (1 - node, b"%d" % turn)
                assert_same(payload, [random_bytes(1 - node, CHUNK + turn)])
            for end in ends:
                end.shrink([], lambda: None)
                assert (end.shrinks, end.lost, end.dead) == (turn + 1, frozenset(), frozenset())

    @pytest.mark.slow
    def test_frame_of_more_than_two_gibibytes_arrives(self, ends: list[Transport]) -> None:
        """Counts of 32 bits end here; from node 0 to node 1 alone, to spare memory."""
        size = (2 << 30) + (1 << 20) + 1
        for end in ends:
            if end.node == 0:
                array = np.zeros(size, np.uint8)
                array[::4096] = np.arange(len(array[::4096])) % 251
                array[-1] = 77
                end.send(1, b"huge", [array])
        receivers = [end for end in ends if end.node == 1]
        senders = [end for end in ends if end.node == 0]
        for frames in receive(receivers, 1).values():
            (part,) = frames[0][2]
            assert part.nbytes == size
            assert part[-1] == 77
            assert np.array_equal(part[:-1:4096], np.arange(len(part[:-1:4096])) % 251)
        assert all(end.flush(PATIENCE_S) for end in senders)


def receive(ends: list[Transport], count: int) -> Received:
    """Poll ends until each has received so many frames and sent all it had to.

    Raises:
        AssertionError: they took longer than `PATIENCE_S`, or there were more.
    """
    received: Received = {end.node: [] for end in ends}
    deadline = time.monotonic() + PATIENCE_S
    while any(len(received[end.node]) < count or end.unsent() for end in ends):
        for end in ends:
            frames = end.poll()
            assert len(frames) <= FRAMES_PER_POLL
            received[end.node] += frames
        assert time.monotonic() < deadline, {node: len(got) for node, got in received.items()}
    assert all(len(frames) == count for frames in received.values())
    return received
