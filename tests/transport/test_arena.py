"""Blocks of shared memory are lent once each, and come back when they were read."""

import mmap
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

from mpips.transport import arena as module
from mpips.transport.arena import BLOCKS, Arena, Block, flags_of, open_arena

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory files are Linux's")

SMALL, LARGE = BLOCKS[0][1], BLOCKS[-1][1]
MANY = BLOCKS[-1][0]


def other_end(arena: Arena) -> tuple[mmap.mmap, memoryview]:
    memory = open_arena(arena.name)
    assert memory is not None
    return memory, flags_of(memory)


def lent(arena: Arena, dest: int, size: int) -> Block:
    block = arena.lend(dest, size)
    assert block is not None
    return block


def test_what_is_written_is_read_through_the_other_mapping() -> None:
    arena = Arena()
    memory, _ = other_end(arena)
    block = lent(arena, 1, 100)
    arena.write(block, [np.arange(10, dtype=np.uint8), np.full(3, 7, np.uint8)])
    assert memory[block.begin : block.begin + 10] == bytes(range(10))
    assert memory[block.begin + 64 : block.begin + 67] == b"\7\7\7"


def test_block_is_lent_again_only_when_it_was_read() -> None:
    arena = Arena()
    _, flags = other_end(arena)
    places = []
    for dest in (1, 2):
        places += [lent(arena, dest, LARGE) for _ in range(MANY // 2)]
        # A node has its share, and no more; the others have theirs.
        assert arena.lend(dest, LARGE) is None
    assert arena.lend(3, LARGE) is None
    assert len({block.begin for block in places}) == MANY
    # One that is kept is as good as lent.
    flags[places[0].flag] = -places[0].number
    assert arena.lend(3, LARGE) is None
    flags[places[1].flag] = places[1].number
    assert lent(arena, 3, LARGE).begin == places[1].begin
    assert arena.lend(3, LARGE) is None


def test_flag_of_an_earlier_payload_frees_nothing() -> None:
    arena = Arena()
    _, flags = other_end(arena)
    first = lent(arena, 1, LARGE)
    before = first.number
    flags[first.flag] = before
    blocks = [lent(arena, dest, LARGE) for dest in (1, 1, 2, 2)]
    assert first in blocks
    flags[first.flag] = before
    assert arena.lend(3, LARGE) is None


def test_node_waits_only_for_what_it_has_not_looked_at() -> None:
    arena = Arena()
    _, flags = other_end(arena)
    assert not arena.is_expected(1, LARGE)
    blocks = [lent(arena, 1, LARGE) for _ in range(MANY // 2)]
    assert arena.is_expected(1, LARGE)
    assert not arena.is_expected(2, LARGE)
    assert not arena.is_expected(1, SMALL)
    assert arena.unread(1, 2**20) == 2 * len(blocks)
    for block in blocks:
        flags[block.flag] = -block.number
    assert not arena.is_expected(1, LARGE)
    assert arena.unread(1, 2**20) == 0


def test_what_a_dead_node_has_not_read_is_free() -> None:
    arena = Arena()
    for dest in (1, 2):
        for _ in range(MANY // 2):
            lent(arena, dest, LARGE)
    arena.reclaim(1)
    assert arena.lend(3, LARGE) is not None
    assert arena.lend(2, LARGE) is None


def test_nothing_larger_than_a_block_is_lent() -> None:
    arena = Arena()
    assert arena.lend(1, LARGE + 1) is None
    assert arena.draft(1, LARGE + 1) is None
    assert not arena.is_expected(1, LARGE + 1)


def test_draft_is_sent_as_it_is_and_no_block_has_two_uses() -> None:
    arena = Arena()
    memory, flags = other_end(arena)
    array = arena.draft(1, 100_000)
    assert array is not None
    array[:] = 5
    # Another array of the same size, or a part of this one, is none.
    assert arena.lend_draft(1, np.zeros(100_000, np.uint8)) is None
    assert arena.lend_draft(1, array[:50_000]) is None
    block = arena.lend_draft(1, array.view(np.float32).reshape(-1, 1).reshape(-1).view(np.uint8))
    assert block is not None
    assert memory[block.begin : block.begin + 100_000] == b"\5" * 100_000
    assert arena.lend_draft(1, array) is None
    # It stays lent, whoever still has the array.
    del array
    begins = {block.begin}
    count = BLOCKS[1][0]
    for dest in range(2, 2 + count):
        if (other := arena.lend(dest, 100_000)) is not None:
            begins.add(other.begin)
    assert len(begins) == count
    flags[block.flag] = block.number
    assert lent(arena, 99, 100_000).begin == block.begin


def test_draft_that_nobody_wants_any_more_is_free() -> None:
    arena = Arena()
    drafts = [arena.draft(dest, LARGE) for dest in range(MANY)]
    assert all(draft is not None for draft in drafts)
    assert arena.draft(9, LARGE) is None
    view = drafts.pop()[10:20]  # type: ignore[index]
    assert arena.draft(9, LARGE) is None
    del view
    assert arena.draft(9, LARGE) is not None


def test_memory_is_opened_by_another_process_and_ends_with_its_own() -> None:
    arena = Arena()
    block = lent(arena, 1, 8)
    arena.write(block, [np.frombuffer(b"from one", np.uint8)])
    program = f"""
import sys
from mpips.transport.arena import flags_of, open_arena
memory = open_arena({arena.name!r})
print(memory[{block.begin} : {block.begin + 8}].decode())
flags_of(memory)[{block.flag}] = {block.number}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "from one\n", done.stderr
    assert arena.lend(1, 8) is block


@pytest.mark.parametrize("part", ["process", "file", "length", "token", "host"])
def test_memory_that_is_not_the_one_named_is_not_opened(part: str) -> None:
    arena = Arena()
    process, file, length, token, host = struct.unpack("<QQQ16s16s", arena.name)
    with open(os.devnull) as other:
        named = {"process": process, "file": file, "length": length, "token": token, "host": host}
        named |= {
            "process": {"process": 2**22 + 1}, "file": {"file": other.fileno()},
            "length": {"length": length + 1}, "token": {"token": bytes(16)},
            "host": {"host": bytes(16)},
        }[part]  # fmt: skip
        name = struct.pack("<QQQ16s16s", *named.values())
        assert open_arena(arena.name) is not None
        assert open_arena(name) is None


def test_system_without_such_memory_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    # Some Pythons for Linux have been built without it, too.
    monkeypatch.delattr(module.os, "memfd_create")
    with pytest.raises(OSError, match="memory"):
        Arena()
    monkeypatch.undo()
    monkeypatch.setattr(module.sys, "platform", "darwin")
    with pytest.raises(OSError, match="memory"):
        Arena()


def test_arena_that_is_not_used_any_more_leaves_no_file_open() -> None:
    before = os.listdir("/proc/self/fd")
    arena = Arena()
    memory, flags = other_end(arena)
    array = arena.draft(1, 100_000)
    assert array is not None
    assert len(os.listdir("/proc/self/fd")) > len(before)
    flags.release()
    memory.close()
    del arena
    array[:] = 1
    del array
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_draft_counts_as_its_node_s_share() -> None:
    arena = Arena()
    for _ in range(MANY // 2):
        draft = arena.draft(1, LARGE)
        assert draft is not None
        assert arena.lend_draft(1, draft) is not None
    assert arena.draft(1, LARGE) is None
    assert arena.draft(2, LARGE) is not None


def test_small_parts_are_counted_as_unread_too() -> None:
    arena = Arena()
    _, flags = other_end(arena)
    blocks = [lent(arena, 1, size) for size in (1000, 100_000, LARGE)]
    lent(arena, 2, 1000)
    assert arena.unread(1, 2**20) == 1 + 1 + 2
    for block in blocks:
        flags[block.flag] = block.number
    assert arena.unread(1, 2**20) == 0
