"""Where things lie in a store: keys of image groups and of plain files, mirroring the tree.

Names are the tree's own wherever a file system can take them with our suffix; anything that cannot be (too long, in the
way of something that is there) gets a short key of its own. The catalogue says what lies where; keys are for people.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Collection, Iterator
from typing import final

import xxhash

# NAME_MAX of Linux file systems, and how deep a key may grow before the store's own path could push it over PATH_MAX.
NAME_MAX = 255
KEY_MAX = 3000
# Below a group's key lie a row, a column, a field and a shard's name.
GROUP_KEY_MAX = KEY_MAX - 200

IMAGES = b"images/"
FILES = b"files/"


def fitted(path: bytes, suffix: bytes = b"") -> bytes:
    """A path whose last component has room for `suffix`, with it; over-long components are cut and told apart by a hash."""
    parts = path.split(b"/")
    parts[-1] += suffix
    short = []
    for number, part in enumerate(parts):
        if len(part) > NAME_MAX:
            end = suffix if number == len(parts) - 1 else b""
            mark = b"~" + xxhash.xxh3_64_hexdigest(part).encode()
            part = part[: NAME_MAX - len(end) - len(mark)] + mark + end
        short.append(part)
    return b"/".join(short)


def directory_name(directory: bytes, plate_name: str) -> bytes:
    """What a directory's groups are named after: its path; the plate's name where it is the tree's root."""
    return directory or plate_name.encode("utf-8", "surrogateescape").replace(b"/", b"_")


def plate_key(directory: bytes, *, name: str | None, projection: bool, variant: str | None) -> bytes:
    """Key of a plate's group: `images/<directory>[_<name>][_projection][_<variant>].ome.zarr`."""
    suffix = b"" if name is None else b"_" + name.replace("/", "_").encode("utf-8", "surrogateescape")
    suffix += b"_projection" if projection else b""
    suffix += b"" if variant is None else b"_" + variant.encode()
    return IMAGES + fitted(directory, suffix + b".ome.zarr")


def labels_key(directory: bytes, *, name: str | None, variant: str | None) -> bytes:
    """Key of label images whose images are not in the store: `images/<directory>[_<name>][_<variant>].labels.ome.zarr`."""
    suffix = b"".join(b"_" + part.encode("utf-8", "surrogateescape") for part in (name, variant) if part is not None)
    return IMAGES + fitted(directory, suffix.replace(b"/", b"_") + b".labels.ome.zarr")


def stack_key(directory: bytes, shape: str, dtype: str) -> bytes:
    """Key of a stack's group: `images/<directory>.stacks/<shape>_<dtype>.ome.zarr`."""
    return IMAGES + fitted(directory, b".stacks") + b"/" + f"{shape}_{dtype}.ome.zarr".encode()


def pages_key(directory: bytes, name: bytes) -> bytes:
    """Key of a multi-page file's group: `images/<directory>.stacks/<name>.ome.zarr`."""
    return IMAGES + fitted(directory, b".stacks") + b"/" + fitted(name, b".ome.zarr")


def moved_key(location: bytes, old: bytes, new: bytes) -> bytes:
    """A group's key after its directory `old` was renamed `new`; the same where the key does not show the directory."""
    prefix = IMAGES + old
    if not old or location[len(prefix) : len(prefix) + 1] not in (b".", b"_") or not location.startswith(prefix):
        return location
    suffix, slash, below = location[len(prefix) :].partition(b"/")
    return IMAGES + fitted(new, suffix) + slash + below


def free_group_key(wanted: bytes, taken: Collection[bytes]) -> bytes:
    """`wanted`, or a variant of it when a group of another directory has the key, or lies above or below it.

    Nothing foreign may lie inside a Zarr hierarchy, so no group's key is a folder of another's.
    """
    if len(wanted) > GROUP_KEY_MAX:
        wanted = IMAGES + b"~" + xxhash.xxh3_64_hexdigest(wanted).encode() + b".ome.zarr"
    candidate, number = wanted, 1
    while any(_entangled(candidate, key) for key in taken):
        number += 1
        candidate = IMAGES + b"~%d/" % number + wanted[len(IMAGES) :]
    return candidate


def _entangled(one: bytes, other: bytes) -> bool:
    return one == other or one.startswith(other + b"/") or other.startswith(one + b"/")


def plain_key(path: bytes) -> bytes:
    """Key of a file that is stored as it is: `files/<path>`."""
    return FILES + path


# Spare keys have the inode's own number: even the second is taken only by what somebody else put there.
MOST_SPARE_KEYS = 1000


def spare_keys(ino: int) -> Iterator[bytes]:
    """Keys for a plain file whose own path cannot be used, in the order of trying."""
    yield FILES + b"~%x" % ino
    for number in itertools.count(2):
        yield FILES + b"~%x~%d" % (ino, number)


@final
class PlainKeys:
    """Gives each plain file of a flush a key of its own: its path, or a spare key when something is in the way.

    Parameters
    ----------
    is_free : callable
        Whether the store can take an object under a key: no file that stays has it, and no folder is in the way.
    """

    def __init__(self, is_free: Callable[[bytes], bool]) -> None:
        self._is_free = is_free
        self._taken: set[bytes] = set()
        self._folders: set[bytes] = set()

    def choose(self, ino: int, path: bytes, present: bytes | None) -> bytes:
        """The key of a file that the store has under `present` (None: not yet); OSError where none can be had."""
        own = [plain_key(path)] if len(path) <= KEY_MAX else []
        tried = itertools.chain(own, itertools.islice(spare_keys(ino), MOST_SPARE_KEYS))
        key = next((key for key in tried if self._fits(key, present)), None)
        if key is None:
            folder = os.fsdecode(FILES.rstrip(b"/"))
            raise OSError(
                errno.ENOTDIR, f"no name in the store is free for it; is its '{folder}' still a folder?", path
            )
        self._taken.add(key)
        self._folders |= _folders_above(key)
        return key

    def _fits(self, key: bytes, present: bytes | None) -> bool:
        if key in self._taken or key in self._folders or not self._taken.isdisjoint(_folders_above(key)):
            return False
        return key == present or self._is_free(key)


def _folders_above(key: bytes) -> set[bytes]:
    parts = key.split(b"/")
    return {b"/".join(parts[:depth]) for depth in range(1, len(parts))}
