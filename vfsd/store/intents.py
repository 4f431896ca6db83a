"""What a transaction does to the store's objects, written down before it is done, so that it can be undone or finished.

`work/<generation>/` holds the new objects (`new/<serial>`), what they replace (`old/<number>`, a hard link, or a copy where
there are none), the new catalogue (`catalogue`, and once more as `copy`), and `intents`: one record for each object that
comes, is replaced, or goes. The file ends with a mark; without it nothing outside `work/` was touched yet.

Before the catalogue is renamed in, objects come and are replaced (`carry_out`), which `undo` takes back; after it, objects
go (`finish`). Undoing and finishing are right at whatever point the change stopped, and may themselves be stopped and
begun again. Only the holder of the store's lock may call anything here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import final

from vfsd.store.storage import LocalStorage, sync_directories, sync_directory, sync_file, write_all

WORK = b"work"
# The new catalogue once more, for the place of the old one's copy once the change has happened.
COPY = b"copy"
COPY_KEY = b"catalog.copy.sqlite"
_END = b"END"


class Operation(Enum):
    """What happens to an object."""

    NEW = b"N"
    REPLACE = b"P"
    REMOVE = b"R"


@final
@dataclass(frozen=True, slots=True)
class Intent:
    """One object: its key, what happens to it, and under which serial its new bytes lie (0: none)."""

    operation: Operation
    serial: int
    key: bytes


def new_object(work: bytes, serial: int) -> bytes:
    """Where the bytes of a new object lie until they are published."""
    return work + b"/new/%d" % serial


def _set_aside_at(work: bytes, number: int) -> bytes:
    return work + b"/old/%d" % number


def write_intents(work: bytes, intents: Iterable[Intent]) -> None:
    """Put the intents down, durably, with everything that lies beside them."""
    lines = b"".join(b"%s%d:%s\0" % (intent.operation.value, intent.serial, intent.key) for intent in intents)
    fd = os.open(work + b"/intents", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(fd, lines + _END)
        os.fsync(fd)
    finally:
        os.close(fd)
    for folder in (work + b"/new", work, os.path.dirname(work), os.path.dirname(os.path.dirname(work))):
        sync_directory(folder)


def read_intents(work: bytes) -> list[Intent]:
    """What was put down; nothing where that was not completed."""
    try:
        content = Path(os.fsdecode(work + b"/intents")).read_bytes()
    except FileNotFoundError:
        return []
    *lines, end = content.split(b"\0")
    if end != _END:
        return []
    intents = []
    for line in lines:
        serial, key = line[1:].split(b":", 1)
        intents.append(Intent(Operation(line[:1]), int(serial), key))
    return intents


def carry_out(storage: LocalStorage, work: bytes, intents: Sequence[Intent]) -> None:
    """Put the new objects in and those they replace aside, durably; after an error `undo` puts things back."""
    for number, intent in enumerate(intents):
        if intent.operation is Operation.REPLACE:
            _set_aside(storage.path(intent.key), _set_aside_at(work, number))
    sync_directory(work + b"/old")
    folders: set[bytes] = set()
    for intent in intents:
        if intent.operation is not Operation.REMOVE:
            path = storage.path(intent.key)
            folders |= _make_folders(os.path.dirname(path)) | {os.path.dirname(path)}
            os.rename(new_object(work, intent.serial), path)
    sync_directories(folders)


def undo(storage: LocalStorage, work: bytes) -> None:
    """Put everything back as it was before the transaction, and throw the transaction away."""
    intents = read_intents(work)
    folders: set[bytes] = set()
    for number, intent in reversed(list(enumerate(intents))):
        if intent.operation is Operation.REMOVE:
            continue
        path, aside = storage.path(intent.key), _set_aside_at(work, number)
        if os.path.lexists(aside):
            os.rename(aside, path)
            # rename between two links of one inode does nothing and leaves both names
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
        elif intent.operation is Operation.NEW and not os.path.lexists(new_object(work, intent.serial)):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(path)
        folders.add(os.path.dirname(path))
    sync_directories([folder for folder in folders if os.path.isdir(folder)])
    _prune_empty(storage, [intent.key for intent in intents if intent.operation is Operation.NEW])
    _throw_away(work)


def finish(storage: LocalStorage, work: bytes) -> None:
    """The catalogue is in place: put its copy in place as well; remove what it no longer names, what was set aside, and
    folders that are empty now.
    """
    with contextlib.suppress(FileNotFoundError):
        os.rename(work + b"/" + COPY, storage.path(COPY_KEY))
        sync_directory(storage.root)
    gone = [intent.key for intent in read_intents(work) if intent.operation is Operation.REMOVE]
    for key in gone:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(storage.path(key))
    folders = {os.path.dirname(storage.path(key)) for key in gone}
    sync_directories([folder for folder in folders if os.path.isdir(folder)])
    _prune_empty(storage, gone)
    _throw_away(work)


def is_publishing(storage: LocalStorage) -> bool:
    """Whether a change has begun to put its objects in place, and has not come to its end."""
    work = storage.path(WORK)
    try:
        return any(os.path.lexists(work + b"/" + name + b"/intents") for name in os.listdir(work))
    except FileNotFoundError:
        return False


def recover_work(storage: LocalStorage, generation: int) -> list[str]:
    """Finish or undo what interrupted transactions left; `generation` is the committed catalogue's.

    Returns
    -------
    list of str
        One sentence for each transaction found, for the log.
    """
    done: list[str] = []
    try:
        names = os.listdir(storage.path(WORK))
    except FileNotFoundError:
        return done
    for name in sorted(names):
        work = storage.path(WORK) + b"/" + name
        if name.isdigit() and int(name) <= generation:
            sync_directory(storage.root)  # the catalogue's rename, before what it replaced goes
            finish(storage, work)
            done.append(f"finished the interrupted flush {int(name)}")
        else:
            undo(storage, work)
            done.append(f"undid the interrupted flush {os.fsdecode(name)}")
    storage.forget()
    with contextlib.suppress(OSError):
        os.rmdir(storage.path(WORK))
    return done


def _set_aside(path: bytes, aside: bytes) -> None:
    """Without hard links by a copy: renamed aside, the object would be missing for those who read meanwhile."""
    try:
        os.link(path, aside, follow_symlinks=False)
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        shutil.copyfile(path, aside + PART)
        sync_file(aside + PART)
        os.rename(aside + PART, aside)  # an aside that is there is whole: undoing puts it back


# Ends the name of a copy that is not complete.
PART = b".part"
# What link(2) answers where it cannot make a hard link, or not one more.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def _make_folders(folder: bytes) -> set[bytes]:
    """Create a folder and those above it; return those whose listing changed."""
    changed: set[bytes] = set()
    missing: list[bytes] = []
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    for folder in reversed(missing):
        os.mkdir(folder, 0o755)
        changed.add(os.path.dirname(folder))
    return changed


def _throw_away(work: bytes) -> None:
    """Remove a transaction's folder, its intents first: they no longer hold."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(work + b"/intents")
    shutil.rmtree(work, ignore_errors=True)


def _prune_empty(storage: LocalStorage, keys: Iterable[bytes]) -> None:
    """Remove folders that are empty now that these keys are gone, up to the store's first level."""
    for key in keys:
        folder = os.path.dirname(key)
        while folder.count(b"/") >= 1:
            try:
                os.rmdir(storage.path(folder))
            except FileNotFoundError:
                pass  # it went with another key
            except OSError as error:
                if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
                    raise  # the disk's fault, not that of something in it: to be tried again with the next change
                break
            folder = os.path.dirname(folder)
