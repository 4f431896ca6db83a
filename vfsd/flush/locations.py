"""Where things lie in a store: keys of image groups and of plain files, mirroring the tree.

Names are the tree's own wherever a file system can take them with our suffix; anything that cannot be (too long, in the
way of something that is there) gets a short key of its own. The catalogue says what lies where; keys are for people.
"""

from __future__ import annotations

from collections.abc import Collection

import xxhash

# NAME_MAX of Linux file systems, and how deep a key may grow before the store's own path could push it over PATH_MAX.
NAME_MAX = 255
KEY_MAX = 3000

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


def plate_key(directory: bytes, *, name: str | None, projection: bool, variant: str | None) -> bytes:
    """Key of a plate's group: `images/<directory>[_<name>][_projection][_<variant>].ome.zarr`."""
    suffix = b"" if name is None else b"_" + name.replace("/", "_").encode("utf-8", "surrogateescape")
    suffix += b"_projection" if projection else b""
    suffix += b"" if variant is None else b"_" + variant.encode()
    return IMAGES + fitted(directory, suffix + b".ome.zarr")


def stack_key(directory: bytes, shape: str, dtype: str) -> bytes:
    """Key of a stack's group: `images/<directory>.stacks/<shape>_<dtype>.ome.zarr`."""
    return IMAGES + fitted(directory, b".stacks") + b"/" + f"{shape}_{dtype}.ome.zarr".encode()


def pages_key(directory: bytes, name: bytes) -> bytes:
    """Key of a multi-page file's group: `images/<directory>.stacks/<name>.ome.zarr`."""
    return IMAGES + fitted(directory, b".stacks") + b"/" + fitted(name, b".ome.zarr")


def free_group_key(wanted: bytes, taken: Collection[bytes]) -> bytes:
    """`wanted`, or a variant of it when a group of another directory has the key, or lies above or below it.

    Nothing foreign may lie inside a Zarr hierarchy, so no group's key is a folder of another's.
    """
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


def spare_key(ino: int) -> bytes:
    """Key of a plain file whose own path cannot be used."""
    return FILES + b"~%x" % ino
