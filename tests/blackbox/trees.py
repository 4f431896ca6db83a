"""Folders as values: every path below a root with its kind, attributes and digest, and what differs.

Paths are raw bytes, so a name that is no UTF-8 is compared like any other. Reading a tree never writes and
never follows a symbolic link. Differences are told by path and attribute, few enough to read at a terminal.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

Tree = Mapping[bytes, "Entry"]

# More than a dozen differing paths have one cause: the first ones show it.
SHOWN_DIFFERENCES = 12
READ_SIZE = 1 << 20

KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One path as the kernel shows it; `size` is 0 for directories: each file system means its own by it."""

    kind: str
    mode: int
    owner: tuple[int, int]
    size: int
    mtime_ns: int
    links: int
    digest: str | None
    target: bytes | None


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, read in order."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while piece := file.read(READ_SIZE):
            digest.update(piece)
    return digest.hexdigest()


def read_entry(path: Path) -> Entry:
    """One path as it stands now."""
    status = path.lstat()
    kind = KINDS[stat.S_IFMT(status.st_mode)]
    return Entry(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        owner=(status.st_uid, status.st_gid),
        size=0 if kind == "directory" else status.st_size,
        mtime_ns=status.st_mtime_ns,
        links=1 if kind == "directory" else status.st_nlink,
        digest=digest_file(path) if kind == "file" else None,
        target=os.fsencode(os.readlink(path)) if kind == "symlink" else None,
    )


def read_tree(root: Path) -> dict[bytes, Entry]:
    """Every path below `root` (which itself is left out), relative to it."""
    tree: dict[bytes, Entry] = {}
    waiting = [""]
    while waiting:
        below = waiting.pop()
        with os.scandir(root / below) as listing:
            names = [entry.name for entry in listing]
        for name in names:
            path = f"{below}/{name}" if below else name
            key = os.fsencode(path)
            assert key not in tree, f"{key!r} is listed twice"
            tree[key] = read_entry(root / path)
            if tree[key].kind == "directory":
                waiting.append(path)
    return tree


def files_of(tree: Tree) -> dict[bytes, Entry]:
    """The regular files alone."""
    return {path: entry for path, entry in tree.items() if entry.kind == "file"}


def part_of(tree: Tree, below: bytes) -> dict[bytes, Entry]:
    """What lies below one directory of the tree, relative to that directory."""
    head = below + b"/"
    return {path[len(head) :]: entry for path, entry in tree.items() if path.startswith(head)}


def differences(actual: Tree, expected: Tree, *, ignore: Collection[str] = ()) -> list[str]:
    """One line for each path that is missing, unexpected or other than it should be."""
    lines = []
    compared = [field.name for field in fields(Entry) if field.name not in ignore]
    for path in sorted(expected.keys() | actual.keys()):
        if path not in actual:
            lines.append(f"{path!r}: missing")
        elif path not in expected:
            lines.append(f"{path!r}: not expected")
        else:
            wrong = [
                f"{name} is {getattr(actual[path], name)!r}, should be {getattr(expected[path], name)!r}"
                for name in compared
                if getattr(actual[path], name) != getattr(expected[path], name)
            ]
            if wrong:
                lines.append(f"{path!r}: {'; '.join(wrong)}")
    return lines


def assert_same_tree(actual: Tree, expected: Tree, where: str, *, ignore: Collection[str] = ()) -> None:
    """Fail with the paths that differ.

    Parameters
    ----------
    where : str
        What `actual` is, for the message: "the mounted store".
    ignore : collection of str
        Names of `Entry` attributes that may differ.
    """
    lines = differences(actual, expected, ignore=ignore)
    if lines:
        more = len(lines) - SHOWN_DIFFERENCES
        shown = [*lines[:SHOWN_DIFFERENCES], *([f"... and {more} more"] if more > 0 else [])]
        raise AssertionError(f"{where}: {len(lines)} of {len(expected)} paths differ\n  " + "\n  ".join(shown))
