"""Names as users give them, to paths from the tree's root: raw bytes, no leading slash, b"" for the root itself.

Nothing leads out of the tree: ".." is refused, and an absolute path is one below the root, with or without the mount point.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from vfsd.errors import UsageProblem

Name = str | bytes | os.PathLike[str]

# What a file is called while it is being written. Names that begin so are never listed.
TEMPORARY_PREFIX = b".vfsd-saving-"


def tree_path(name: Name, root: Path | None = None) -> bytes:
    """The path that a name means in a tree, which is mounted at `root` or not at all.

    Raises
    ------
    UsageProblem
        It leads upwards, or has a NUL.
    """
    text = os.fsencode(name)
    if b"\0" in text:
        raise UsageProblem("has a NUL byte", path=text)
    if root is not None and text.startswith(b"/"):
        above = os.fsencode(root)
        if text == above or text.startswith(above + b"/"):
            text = text[len(above) :]
    parts = [part for part in text.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise UsageProblem(
            "leads upwards, perhaps out of the tree", path=text, remedy="Name it from the root of the tree"
        )
    return b"/".join(parts)


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """The folder and the last name."""
    folder, _, name = path.rpartition(b"/")
    return folder, name


def join_path(folder: bytes, name: bytes) -> bytes:
    """A name in a folder."""
    return folder + b"/" + name if folder else name


def suffix_of(path: bytes) -> str:
    """The suffix of the last name in lower case, with its dot; "" without one (".hidden" has none)."""
    name = os.fsdecode(split_path(path)[1])
    return os.path.splitext(name)[1].lower()


def failure(number: int, path: bytes, why: str | None = None) -> OSError:
    """An OSError, of the class that its number has, with the path."""
    return OSError(number, why or os.strerror(number), os.fsdecode(path))


def not_found(path: bytes, why: str | None = None) -> OSError:
    """FileNotFoundError."""
    return failure(errno.ENOENT, path, why)
