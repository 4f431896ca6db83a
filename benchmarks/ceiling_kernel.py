"""The least that a file system on our kernel transport's lower half can do with names: dictionaries, as `ceiling_names`.

The device, the workers and the parser are vfsd's; the tree behind them does nothing. What it does more often a second than
`ceiling_names` is what the transport itself gains over pyfuse3.

    python -m benchmarks.ceiling_kernel FOLDER MOUNTPOINT       serves until it is unmounted
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import trio

from benchmarks.ceiling_server import served
from vfsd.fuse.kernel import protocol as fuse
from vfsd.fuse.kernel.device import Device
from vfsd.fuse.kernel.mounting import mount
from vfsd.fuse.kernel.negotiation import agree
from vfsd.fuse.kernel.parsing import Request, parse_body, parse_header
from vfsd.fuse.kernel.protocol import Opcode
from vfsd.fuse.kernel.workers import Workers

FOREVER = 3600


class Item:
    """A file or folder: its attributes as the kernel gets them, and its bytes or names."""

    __slots__ = ("data", "ino", "mode", "names", "path", "size")

    def __init__(self, ino: int, mode: int, path: bytes | None, size: int = 0) -> None:
        self.ino, self.mode, self.path, self.size = ino, mode, path, size
        self.data = b""
        self.names: dict[bytes, Item] | None = {} if stat.S_ISDIR(mode) else None

    def attributes(self) -> tuple[int, ...]:
        who = (os.getuid(), os.getgid())
        return (self.ino, self.size, self.size // 512, 0, 0, 0, 0, 0, 0, self.mode, 1, *who, 0, 4096, 0)

    def entry(self) -> bytes:
        return fuse.fuse_entry_out.pack(self.ino, 0, FOREVER, FOREVER, 0, 0, *self.attributes())


class Names:
    """Answers requests; a handle is a descriptor, or an inode number shifted where the file is in memory."""

    def __init__(self, root: Path) -> None:
        self._items: dict[int, Item] = {}
        self._listings: dict[int, list[tuple[bytes, Item]]] = {}
        self._next = fuse.FUSE_ROOT_ID
        self.device: Device | None = None
        top = self._item(stat.S_IFDIR | 0o755, os.fsencode(root))
        pending = [top]
        while pending:
            above = pending.pop()
            assert above.path is not None
            assert above.names is not None
            with os.scandir(above.path) as scan:
                for found in scan:
                    seen = found.stat(follow_symlinks=False)
                    item = self._item(seen.st_mode, os.fsencode(found.path), seen.st_size)
                    above.names[os.fsencode(found.name)] = item
                    if item.names is not None:
                        pending.append(item)
        self._handlers: dict[int, Callable[[Request], bytes]] = {
            Opcode.INIT: lambda request: agree(request.data, stack_depth=0).answer,
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: lambda request: self._attributes(self._items[request.nodeid]),
            Opcode.SETATTR: lambda request: self._attributes(self._items[request.nodeid]),
            Opcode.OPENDIR: self._opendir,
            Opcode.READDIR: lambda request: self._listed(request, with_entries=False),
            Opcode.READDIRPLUS: lambda request: self._listed(request, with_entries=True),
            Opcode.RELEASEDIR: lambda request: b"",
            Opcode.CREATE: self._create,
            Opcode.OPEN: self._open,
            Opcode.READ: self._read,
            Opcode.WRITE: self._write,
            Opcode.RELEASE: self._release,
            Opcode.RENAME2: self._rename,
            Opcode.RENAME: self._rename,
            Opcode.UNLINK: self._unlink,
            Opcode.STATFS: lambda request: fuse.fuse_kstatfs.pack(*(0,) * 9),
        }

    async def answer(self, message: memoryview, room: memoryview) -> None:
        assert self.device is not None
        request = parse_header(message)
        if request.opcode in (Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT):
            return
        handler = self._handlers.get(request.opcode)
        if handler is None:
            # FLUSH is answered, as ceiling_names answers it; a file system that has extended attributes is asked for some
            known = {Opcode.FLUSH: 0, Opcode.GETXATTR: errno.ENODATA}
            self.device.fail(request.unique, known.get(Opcode(request.opcode), errno.ENOSYS))
            return
        parse_body(request, message)
        self.device.answer(request.unique, handler(request))

    def waits(self, request: memoryview, cancel: Callable[[], None]) -> None:
        """Nothing waits here."""

    def waits_no_more(self, request: memoryview) -> None:
        """Nothing waits here."""

    def _item(self, mode: int, path: bytes | None, size: int = 0) -> Item:
        item = self._items[self._next] = Item(self._next, mode, path, size)
        self._next += 1
        return item

    def _names(self, inode: int) -> dict[bytes, Item]:
        names = self._items[inode].names
        assert names is not None
        return names

    def _lookup(self, request: Request) -> bytes:
        found = self._names(request.nodeid).get(request.names[0])
        return fuse.fuse_entry_out.pack(0, 0, FOREVER, *(0,) * 19) if found is None else found.entry()

    @staticmethod
    def _attributes(item: Item) -> bytes:
        return fuse.fuse_attr_out.pack(FOREVER, 0, 0, *item.attributes())

    def _opendir(self, request: Request) -> bytes:
        self._next += 1
        self._listings[self._next] = list(self._names(request.nodeid).items())
        return fuse.fuse_open_out.pack(self._next, 0, 0)

    def _listed(self, request: Request, *, with_entries: bool) -> bytes:
        fh, place, room = request.fields[:3]
        parts: list[bytes] = []
        for position, (name, item) in enumerate(self._listings[fh][place:], place + 1):
            padded = name.ljust(len(name) + 7 & ~7, b"\0")
            part = fuse.fuse_dirent.pack(item.ino, position, len(name), item.mode >> 12) + padded
            part = item.entry() + part if with_entries else part
            room -= len(part)
            if room < 0:
                break
            parts.append(part)
        return b"".join(parts)

    def _create(self, request: Request) -> bytes:
        item = self._names(request.nodeid)[request.names[0]] = self._item(request.fields[1], None)
        return item.entry() + fuse.fuse_open_out.pack(item.ino << 32, 0, 0)

    def _open(self, request: Request) -> bytes:
        path = self._items[request.nodeid].path
        fh = request.nodeid << 32 if path is None else os.open(path, os.O_RDONLY)
        return fuse.fuse_open_out.pack(fh, fuse.FOpen.KEEP_CACHE, 0)

    def _read(self, request: Request) -> bytes:
        fh, offset, size = request.fields[:3]
        return self._items[fh >> 32].data[offset : offset + size] if fh >> 32 else os.pread(fh, size, offset)

    def _write(self, request: Request) -> bytes:
        item, offset = self._items[request.fields[0] >> 32], request.fields[1]
        item.data = item.data[:offset] + bytes(request.data)
        item.size = len(item.data)
        return fuse.fuse_write_out.pack(len(request.data), 0)

    def _release(self, request: Request) -> bytes:
        if not request.fields[0] >> 32:
            os.close(request.fields[0])
        return b""

    def _rename(self, request: Request) -> bytes:
        old, new = request.names
        self._names(request.fields[0])[new] = self._names(request.nodeid).pop(old)
        return b""

    def _unlink(self, request: Request) -> bytes:
        del self._items[self._names(request.nodeid).pop(request.names[0]).ino]
        return b""


@contextlib.contextmanager
def kernel_ceiling_mounted(folder: Path, mountpoint: Path) -> Iterator[int]:
    """A mount of `folder` for the block; gives the server's process id."""
    with served("benchmarks.ceiling_kernel", mountpoint, folder, mountpoint) as pid:
        yield pid


if __name__ == "__main__":
    names = Names(Path(sys.argv[1]))
    names.device = Device(mount(Path(sys.argv[2]), "ceiling", ["default_permissions"]))
    trio.run(Workers(names.device, names).run)
