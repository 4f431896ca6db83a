"""One change of a store, from the first new object to the committed catalogue: all of it or nothing.

New objects are written under `work/<generation>/`, synced, and can be read back through the transaction before anything
is published. `publish` then

1. writes and syncs the list of intents,
2. hard-links each object that will be replaced aside (copies it, where the file system has no links),
3. renames the new objects in, and syncs the folders,
4. seals the new catalogue (`seal`), renames it in and syncs it: from here on the change has happened.

`close` removes the objects that the new catalogue no longer names, and throws `work/<generation>/` away. Until then a
reader of the old catalogue still finds what was only removed, or moved to another key.

`recover_work` finds what a crash left: a change whose catalogue was committed is finished, any other is undone from the
intents, so that the catalogue and the objects always agree. Only the holder of the store's lock may call either.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import final

import xxhash

from vfsd.store.intents import (
    NO_LINKS,
    WORK,
    Intent,
    Operation,
    carry_out,
    finish,
    new_object,
    undo,
    write_intents,
)
from vfsd.store.objects import PIECE, ObjectDigest
from vfsd.store.seal import CATALOGUE_KEY, put_beside, seal_next
from vfsd.store.storage import (
    SYNC_EACH_UP_TO,
    LocalStorage,
    forget_pages,
    sync_directory,
    sync_file,
    sync_file_system,
    write_all,
)


@final
class Transaction:
    """See the module. Used by one flush; its methods may be called from threads, one at a time for each key.

    Reading (`size`, `read_into`, `read_range`) sees the new objects above the store's own.

    Attributes
    ----------
    committed : bool
        The new catalogue has its name, whatever happened after that.
    digests : dict
        Key → size and digest of the new object under it, as far as whoever wrote it has said (`describe`).
    copies : dict
        Key → size and digest of what was copied under it for want of links, damaged or not.
    """

    def __init__(self, storage: LocalStorage, generation: int) -> None:
        self._storage = storage
        self.generation = generation
        self._work_key = WORK + b"/%d" % generation
        self._work = storage.path(self._work_key)
        for part in (b"new", b"old"):
            os.makedirs(self._work + b"/" + part)
        self._serials = itertools.count(1)  # its `next` is one step: threads never get the same number
        self._pending: dict[bytes, int] = {}
        self._removed: set[bytes] = set()
        self._linked: set[int] = set()
        self._synced: set[int] = set()
        self._ended = False
        self.committed = False
        self.digests: dict[bytes, ObjectDigest] = {}
        self.copies: dict[bytes, ObjectDigest] = {}

    # --- new objects

    def create(self, key: bytes) -> int:
        """A new, empty object to be put under `key`: its descriptor, open for reading and writing; the caller closes it."""
        serial = next(self._serials)
        fd = os.open(self._new(serial), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._put(key, serial)
        return fd

    def put_bytes(self, key: bytes, data: bytes) -> None:
        """A small object."""
        fd = self.create(key)
        try:
            write_all(fd, data)
        finally:
            os.close(fd)
        self.describe(key, ObjectDigest.of(data))

    def describe(self, key: bytes, digest: ObjectDigest) -> None:
        """Say what was written under a key, so that it can be looked for on the disk."""
        self.digests[key] = digest

    def link(self, old_key: bytes, key: bytes) -> None:
        """Put the object that the store has under `old_key` under `key` as well (a hard link, else a copy).

        What this transaction puts under `old_key` does not matter: files may change places.
        """
        serial = next(self._serials)
        source = self._storage.path(old_key)
        try:
            os.link(source, self._new(serial), follow_symlinks=False)
            self._linked.add(serial)
            self._synced.add(serial)
            forget_pages(source)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            copied = _copy(source, self._new(serial))
            self._put(key, serial)
            self.copies[key] = copied
            return
        self._put(key, serial)

    def is_link(self, key: bytes) -> bool:
        """Whether the object under `key` is one that the store had already, and has not been written."""
        return self._pending.get(key) in self._linked

    def _put(self, key: bytes, serial: int) -> None:
        self.drop(key)
        self._pending[key] = serial
        self._removed.discard(key)

    def drop(self, key: bytes) -> None:
        """Take back a new object; what the store had under the key stays."""
        serial = self._pending.pop(key, None)
        self.digests.pop(key, None)
        self.copies.pop(key, None)
        if serial is not None:
            self._storage.forget([self._new_key(serial)])
            os.unlink(self._new(serial))

    def remove(self, key: bytes) -> None:
        """The store's object under `key` goes when this is published."""
        self.drop(key)
        self._removed.add(key)

    def keep_all(self) -> None:
        """Take back every `remove`."""
        self._removed.clear()

    def exists(self, key: bytes) -> bool:
        """Whether there is an object under `key` as this transaction would leave it."""
        return key in self._pending or (key not in self._removed and self._there_now(key))

    def keys_below(self, key: bytes) -> set[bytes]:
        """Keys of all objects below a folder key, as this transaction would leave them."""
        keys = {found for found in self._pending if found.startswith(key + b"/")}
        return keys | {found for found, _ in self._storage.list_keys(key) if found not in self._removed}

    @property
    def written_keys(self) -> list[bytes]:
        """Keys of the objects that were written: not of those that are links to what was there."""
        return [key for key, serial in self._pending.items() if serial not in self._linked]

    @property
    def removed_keys(self) -> set[bytes]:
        """Keys of the store's objects that go."""
        return set(self._removed)

    @property
    def bytes_written(self) -> int:
        """Bytes of the new objects; what is only linked to another key is none."""
        written = [serial for serial in self._pending.values() if serial not in self._linked]
        return sum(os.stat(self._new(serial)).st_size for serial in written)

    # --- reading through it

    def _new_key(self, serial: int) -> bytes:
        return new_object(self._work_key, serial)

    def _new(self, serial: int) -> bytes:
        return new_object(self._work, serial)

    def _there_now(self, key: bytes) -> bool:
        return os.path.lexists(self._storage.path(key))

    def _key_now(self, key: bytes) -> bytes:
        serial = self._pending.get(key)
        return key if serial is None else self._new_key(serial)

    def size(self, key: bytes) -> int:
        """See `ObjectReader`."""
        return self._storage.size(self._key_now(key))

    def read_into(self, key: bytes, offset: int, out: memoryview) -> None:
        """See `ObjectReader`."""
        self._storage.read_into(self._key_now(key), offset, out)

    def read_range(self, key: bytes, offset: int, length: int) -> bytes:
        """See `ObjectReader`."""
        return self._storage.read_range(self._key_now(key), offset, length)

    def read_at_once(self, key: bytes, offset: int, length: int) -> bytes | None:
        """See `ObjectReader`."""
        return self._storage.read_at_once(self._key_now(key), offset, length)

    # --- durability

    def sync(self, keys: Collection[bytes] | None = None) -> None:
        """The objects under these keys (all of them by default) are on the disk, and reading them back no longer comes from
        memory where that can be had. Nobody may be writing to them any more.
        """
        serials = [self._pending.get(key) for key in keys] if keys is not None else list(self._pending.values())
        fresh = [serial for serial in serials if serial is not None and serial not in self._synced]
        if len(fresh) > SYNC_EACH_UP_TO:
            sync_file_system(self._work)
        else:
            for serial in fresh:
                sync_file(self._new(serial))
        for serial in fresh:
            forget_pages(self._new(serial))
        self._synced.update(fresh)

    def publish(self, catalogue: Path) -> None:
        """Make the change happen. `catalogue`: the finished new catalogue, a file anywhere on this machine.

        Raises
        ------
        OSError
            Unless `committed` the store is as it was: whatever had been done is undone, or will be before the next
            change. If `committed`, the change has happened but may not survive power loss.
        """
        self._ended = True  # from here on nothing but what follows may throw the work folder away
        try:
            self.sync()
            digest = put_beside(catalogue, self._work)
            intents = self._intents()
            write_intents(self._work, intents)
            self._storage.forget()
            carry_out(self._storage, self._work, intents)
            seal_next(self._storage, self._work, self.generation, digest)
            os.rename(self._work + b"/catalogue", self._storage.path(CATALOGUE_KEY))
        except BaseException:
            undo(self._storage, self._work)
            self._leave()
            raise
        self.committed = True
        self._storage.forget()
        sync_directory(self._storage.root)
        self._ended = False

    def close(self) -> None:
        """Remove what was published to go, or, without `publish`, throw the new objects away. Harmless when done twice.

        What went wrong in `publish` and what stays in the way here is for the next change to put right.
        """
        if self._ended:
            return
        self._ended = True
        with contextlib.suppress(OSError):
            if self.committed:
                finish(self._storage, self._work)
            else:
                shutil.rmtree(self._work)
        self._leave()

    def _leave(self) -> None:
        self._storage.forget()
        with contextlib.suppress(OSError):
            os.rmdir(self._storage.path(WORK))

    def _intents(self) -> list[Intent]:
        intents = [
            Intent(Operation.REPLACE if self._there_now(key) else Operation.NEW, serial, key)
            for key, serial in self._pending.items()
        ]
        return intents + [Intent(Operation.REMOVE, 0, key) for key in self._removed if self._there_now(key)]


def _copy(source: bytes, target: bytes) -> ObjectDigest:
    """Copy an object; size and digest of what was read."""
    hasher, size = xxhash.xxh3_128(), 0
    with open(source, "rb", buffering=0) as reading, open(target, "xb", buffering=0) as writing:
        while piece := reading.read(PIECE):
            hasher.update(piece)
            write_all(writing.fileno(), piece)
            size += len(piece)
    return ObjectDigest(size, hasher.digest())
