"""What is open and has no name any more outlives a flush with its bytes and its extended attributes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from plate_bench import Bench


@pytest.mark.parametrize("written", [False, True])
@pytest.mark.parametrize("attribute", ["stored", "set after", "set after the removal"])
def test_an_open_file_without_a_name_keeps_its_attributes(tmp_path: Path, written: bool, attribute: str) -> None:
    async def act() -> None:
        async with Bench(tmp_path).mounted() as session:
            await session.write(b"folder/file", b"some bytes")
            await session.write(b"other", b"other")
            if attribute == "stored":
                await session.setxattr(b"folder/file", b"user.b", b"value")
            await session.flush_all()
            node = await session.node(b"folder/file")
            handle = await session.tree.contents.open(node.ino, os.O_RDWR)
            session.tree.contents.release(await session.tree.contents.open(node.ino, os.O_RDONLY))
            if written:
                await session.tree.contents.write(handle, 0, b"SOME")
            if attribute == "set after":
                await session.setxattr(b"folder/file", b"user.b", b"value")
            await session.unlink(b"folder/file")
            if attribute == "set after the removal":
                await session.tree.attributes.setxattr(node.ino, b"user.b", b"value")
            for _ in range(2):
                await session.write(b"other", b"more")
                await session.flush()
                assert await session.tree.attributes.xattrs(node.ino) == {b"user.b": b"value"}
                expected = b"SOME bytes" if written else b"some bytes"
                assert bytes(await session.tree.contents.read(handle, 0, 100)) == expected
            session.tree.contents.release(handle)
            await session.flush()
            assert session.tree.journal.is_empty()
            assert session.tree.journal.xattrs(node.ino) == {}

    trio.run(act)
