"""The seal of the catalogue: its digest in a small file beside it, and a second copy, so that a flipped bit is found and undone.

SQLite does not notice most damage to its pages, and without the catalogue nothing of a store can be rebuilt. `catalog.xxh3`
has a line for the committed generation, and, while a change is being published, one for the next: whichever of the two
catalogues a crash leaves in place has its line; the last line is a digest of those above it. `catalog.copy.sqlite` is the
committed catalogue once more, on blocks of its own.

The store of an older vfsd has neither; it gets them with its next flush. Only the holder of the store's lock may change
anything here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import xxhash

from vfsd.errors import StoredDataDamaged
from vfsd.store.intents import COPY, COPY_KEY, WORK
from vfsd.store.storage import LocalStorage, forget_pages, sync_directory, write_all

CATALOGUE_KEY = b"catalog.sqlite"
SEAL_KEY = b"catalog.xxh3"
# The catalogue is read in pieces of this size.
PIECE = 4 << 20
# A reader may find seal and catalogue of two generations while a writer publishes: it looks again, so many times at most.
LOOKS = 10


@final
@dataclass(frozen=True, slots=True)
class CheckedCatalogue:
    """Which file to open as the catalogue, and (key, trouble) of what is damaged."""

    key: bytes
    damaged: tuple[tuple[bytes, str], ...] = ()


def check_catalogue(storage: LocalStorage) -> CheckedCatalogue:
    """Compare the catalogue with its seal; where it is damaged, find out whether its copy is whole.

    Raises
    ------
    StoredDataDamaged
        Neither is.
    """
    for _ in range(LOOKS):
        seal = _read_seal(storage)
        found = _digest(storage.path(CATALOGUE_KEY))
        if found is not None and found in seal.values():
            return CheckedCatalogue(CATALOGUE_KEY)
        if seal == _read_seal(storage):
            break
    if not seal and not os.path.lexists(storage.path(SEAL_KEY)) and not os.path.lexists(storage.path(COPY_KEY)):
        return CheckedCatalogue(CATALOGUE_KEY)  # a store of an older vfsd, if it is one at all
    copy = _digest(storage.path(COPY_KEY))
    if found is not None and found == copy:
        return CheckedCatalogue(
            CATALOGUE_KEY, ((SEAL_KEY, "does not have the digest of the catalogue, which is whole"),)
        )
    # while a change is half done only the newest generation tells what is to be done with it
    whole = set(seal.values()) if not os.path.lexists(storage.path(WORK)) else {seal[max(seal)]} if seal else set()
    trouble = "is missing" if found is None else "does not match its digest"
    if copy is not None and copy in whole:
        return CheckedCatalogue(COPY_KEY, ((CATALOGUE_KEY, f"{trouble}; its copy is whole"),))
    raise StoredDataDamaged(
        f"the catalogue {trouble}, and no copy of it is whole",
        path=storage.path(CATALOGUE_KEY),
        remedy="The images can still be read: they are OME-Zarr",
    )


def check_copies(storage: LocalStorage) -> list[tuple[bytes, str]]:
    """(key, trouble) of seal and copy, where the catalogue itself is whole."""
    seal = _read_seal(storage)
    if not seal and not os.path.lexists(storage.path(COPY_KEY)):
        return []
    damaged = []
    content = _content(storage.path(SEAL_KEY))
    if content != _encode(seal):
        damaged.append((SEAL_KEY, "is missing" if content is None else "is not as it was written"))
    catalogue, copy = _digest(storage.path(CATALOGUE_KEY)), _digest(storage.path(COPY_KEY))
    if os.path.lexists(storage.path(WORK)) and copy in seal.values():
        return damaged  # of the generation before: the change that was committed is not finished yet
    if catalogue is not None and copy != catalogue:
        damaged.append((COPY_KEY, "is missing" if copy is None else "is not what the catalogue is"))
    return damaged


def mend_catalogue(storage: LocalStorage) -> None:
    """Make catalogue, copy and seal agree again, from what `check_catalogue` finds whole."""
    whole = check_catalogue(storage)
    content = Path(os.fsdecode(storage.path(whole.key))).read_bytes()
    for key in (CATALOGUE_KEY, COPY_KEY):
        if _digest(storage.path(key)) != xxhash.xxh3_128_digest(content):
            storage.put_file(key, content)
    seal = _read_seal(storage)
    digest = xxhash.xxh3_128_digest(content)
    generations = [generation for generation, known in seal.items() if known == digest]
    write_seal(storage, {max(generations, default=max(seal, default=0)): digest})


def seal_next(storage: LocalStorage, work: bytes, generation: int, digest: bytes) -> None:
    """Before a catalogue is renamed in: from now on it is as good as the one that is there."""
    present = _digest(storage.path(CATALOGUE_KEY))
    assert present is not None
    beside = work + b"/seal"  # what a kill leaves of it goes with the rest of the change
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, _encode({generation - 1: present, generation: digest}))
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(beside, storage.path(SEAL_KEY))
    sync_directory(storage.root)


def write_seal(storage: LocalStorage, seal: Mapping[int, bytes]) -> None:
    """Put the lines down, durably."""
    storage.put_file(SEAL_KEY, _encode(seal))


def put_beside(catalogue: Path, work: bytes) -> bytes:
    """Copy a finished catalogue, twice, to where it can be renamed in from; its digest, once the disk has it.

    Raises
    ------
    OSError
        The disk is full, or does not keep what is written to it.
    """
    digest = copy_synced(os.fsencode(catalogue), work + b"/catalogue")
    if copy_synced(work + b"/catalogue", work + b"/" + COPY) != digest:  # read from the disk, not from memory
        raise OSError(errno.EIO, "the catalogue does not read back as it was written", work + b"/catalogue")
    return digest


def copy_synced(source: bytes, target: bytes) -> bytes:
    """Copy a file durably; the digest of what was read."""
    hasher = xxhash.xxh3_128()
    with open(source, "rb", buffering=0) as reading:
        fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            while piece := reading.read(PIECE):
                hasher.update(piece)
                write_all(fd, piece)
            os.fsync(fd)
        finally:
            os.close(fd)
    forget_pages(target)
    return hasher.digest()


def _digest(path: bytes) -> bytes | None:
    """xxh3-128 of a file as the disk has it, where that can be had; None where there is none, or the disk does not give it."""
    forget_pages(path)
    hasher = xxhash.xxh3_128()
    try:
        with open(path, "rb", buffering=0) as file:
            while piece := file.read(PIECE):
                hasher.update(piece)
    except OSError:
        return None
    return hasher.digest()


def _content(path: bytes) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read(PIECE)
    except OSError:
        return None


def _encode(seal: Mapping[int, bytes]) -> bytes:
    lines = b"".join(b"%d %s\n" % (generation, digest.hex().encode()) for generation, digest in sorted(seal.items()))
    return lines + b"- %s\n" % xxhash.xxh3_64_hexdigest(lines).encode()


def _read_seal(storage: LocalStorage) -> dict[int, bytes]:
    """Generation → digest of the lines that can be read."""
    seal: dict[int, bytes] = {}
    for line in (_content(storage.path(SEAL_KEY)) or b"").split(b"\n"):
        generation, _, digest = line.partition(b" ")
        try:
            seal[int(generation)] = bytes.fromhex(digest.decode("ascii"))
        except ValueError:
            continue
    return seal
