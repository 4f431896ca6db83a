"""The transport's own part, without a kernel: what it answers and what the kernel may keep."""

from __future__ import annotations

import errno
import logging
import os
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
from tree_bench import Bench, run

from vfsd.fuse.errno_of import errno_of
from vfsd.fuse.mount_point import ABSENT_TIMEOUT, STABLE_TIMEOUT, as_option
from vfsd.fuse.pyfuse3_transport import _Operations
from vfsd.store.catalogue import ROOT_INO

CONTEXT: Any = SimpleNamespace(uid=os.getuid(), gid=os.getgid())


def test_a_file_that_came_in_the_source_is_opened_by_who_wanted_to_create_it(bench: Bench) -> None:
    """Unless that program wanted it new."""

    async def act() -> None:
        bench.put_source("x", b"bytes")
        program = await bench.mount()
        operations = _Operations(program.tree)
        info, entry = await operations.create(ROOT_INO, b"x", 0o644, os.O_RDWR, CONTEXT)
        assert bytes(await operations.read(info.fh, 0, 10)) == b"bytes"
        assert program.tree.layers.node(entry.st_ino).lookups == 1
        info, entry = await operations.create(ROOT_INO, b"x", 0o644, os.O_RDWR | os.O_TRUNC, CONTEXT)
        assert entry.st_size == 0
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.create(ROOT_INO, b"x", 0o644, os.O_RDWR | os.O_EXCL, CONTEXT)
        assert caught.value.errno == errno.EEXIST
        await program.mkdir(b"d")
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.create(ROOT_INO, b"d", 0o644, os.O_RDWR, CONTEXT)
        assert caught.value.errno == errno.EISDIR
        assert (await program.node(b"d")).lookups == 2
        operations.release_all()
        assert program.tree.open_handles() == 0

    run(act)


def test_what_the_kernel_may_keep(bench: Bench) -> None:
    async def act() -> None:
        bench.put_source("old/x", b"x")
        program = await bench.mount()
        operations = _Operations(program.tree)
        made = (await operations.mkdir(ROOT_INO, b"new", 0o755, CONTEXT)).st_ino
        old = (await operations.lookup(ROOT_INO, b"old", CONTEXT)).st_ino
        assert (await operations.lookup(old, b"absent", CONTEXT)).entry_timeout == ABSENT_TIMEOUT
        assert (await operations.lookup(made, b"absent", CONTEXT)).entry_timeout == STABLE_TIMEOUT
        assert (await operations.lookup(made, b"absent", CONTEXT)).st_ino == 0
        assert (await operations.lookup(old, b"x", CONTEXT)).attr_timeout < STABLE_TIMEOUT
        await program.setattr(b"old/x", mode=0o600)
        assert (await operations.lookup(old, b"x", CONTEXT)).attr_timeout < STABLE_TIMEOUT
        await program.write(b"old/x", 0, b"X")
        assert (await operations.lookup(old, b"x", CONTEXT)).attr_timeout == STABLE_TIMEOUT

    run(act)


def test_every_exception_becomes_an_errno(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    async def act() -> None:
        program = await bench.mount()
        operations = _Operations(program.tree)
        for call in (operations.read(99, 0, 1), operations.getattr(99, CONTEXT), operations.readdir(99, 0, None)):
            with pytest.raises(pyfuse3.FUSEError):
                await call

    with caplog.at_level(logging.CRITICAL):
        run(act)
    assert errno_of(ZeroDivisionError(), "read", b"x") == errno.EIO
    assert errno_of(OSError(errno.ENODATA, "its bytes are in the source"), "setattr", b"x") == errno.EIO
    assert errno_of(OSError(errno.ENODATA, "no such attribute"), "getxattr", b"x") == errno.ENODATA
    assert errno_of(OSError("without a number"), "mkdir", b"x") == errno.EIO


def test_names_as_mount_options() -> None:
    assert as_option("/data/plate 1") == "/data/plate 1"
    assert as_option("/a,b\\c") == "/a\\,b\\\\c"
    assert as_option("/data/Pl\u00e4tte\udcff\n") == "/data/Pl%C3%A4tte%FF%0A"
