"""What must be there after a crash: the files as the writers were told they are, and what an unanswered act may have done.

A writer's names are its own, so what it was told is one sequence of acts. All acts that were answered count in full. Of the
one that was not, a name or an attribute may have changed or not; of a write any number of whole pages from its beginning
may be there; of a shared mapping any byte that was stored.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from blackbox.pictures import noisy_picture, simple_tiff

PAGE = 4096
# Attributes that the program makes itself, or that a machine's policy adds.
NOT_OURS = (b"user.vfsd.", b"security.", b"system.")

CHANGES_NOTHING = ("fsync", "fsync_folder", "tier", "read")

Act = tuple[object, ...]
"""What was asked for: its kind, the path, and what that kind needs. See `perform`."""


@dataclass(slots=True, eq=False)
class File:
    """A regular file; several names may lead to one.

    `mtime` is None where it is not known.
    """

    data: bytearray
    mode: int = 0o644
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    mtime: int | None = None


@dataclass(slots=True, eq=False)
class Folder:
    """A directory."""

    mode: int = 0o755


@dataclass(slots=True, eq=False)
class Symlink:
    """A symbolic link."""

    target: bytes


Node = File | Folder | Symlink
Files = dict[bytes, Node]
"""Nodes by their paths from the root."""


@lru_cache(64)
def data_of(kind: str, seed: int, size: int) -> bytes:
    """Bytes that a writer writes, made anew from a few numbers wherever they are needed."""
    if kind == "picture":
        return simple_tiff(noisy_picture((size, size), seed=seed))
    return random.Random(seed).randbytes(size)


def below(files: Files, path: bytes) -> list[bytes]:
    """The paths in a directory, however deep."""
    return [name for name in files if name.startswith(path + b"/")]


def perform(files: Files, act: Act) -> None:
    """Do to the expected files what an act does to those of the mount."""
    kind, path, *rest = act
    assert isinstance(path, bytes)
    if kind in CHANGES_NOTHING:
        return
    if kind == "create":
        files[path] = File(bytearray(), mode=rest[0])
    elif kind == "mkdir":
        files[path] = Folder()
    elif kind == "symlink":
        files[path] = Symlink(rest[0])
    elif kind == "link":
        files[rest[0]] = files[path]
    elif kind in ("unlink", "rmdir"):
        del files[path]
    elif kind == "rename":
        if files.get(rest[0]) is files[path]:
            return  # two names of one file: nothing happens
        for old in [path, *below(files, path)]:
            files[rest[0] + old[len(path) :]] = files.pop(old)
    else:
        _change(files[path], kind, rest)


def _change(node: Node, kind: object, rest: list) -> None:
    if kind == "chmod":
        assert not isinstance(node, Symlink)
        node.mode = rest[0]
        return
    assert isinstance(node, File)
    if kind in ("write", "mapped"):
        put(node.data, rest[0], data_of(*rest[1]))
    elif kind == "append":
        node.data += data_of(*rest[0])
    elif kind == "resize":
        resize(node.data, rest[0])
    elif kind == "utime":
        node.mtime = rest[0]
    elif kind == "setxattr":
        node.xattrs[rest[0]] = rest[1]
    elif kind == "removexattr":
        del node.xattrs[rest[0]]
    else:
        raise AssertionError(kind)


def put(content: bytearray, offset: int, data: bytes | memoryview) -> None:
    """Write at an offset, with zeros up to there."""
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


def resize(content: bytearray, size: int) -> None:
    """Cut, or extend with zeros."""
    del content[size:]
    content.extend(bytes(size - len(content)))


def copy_of(files: Files) -> Files:
    """The same, changed by itself; names of one file stay names of one file."""
    copies: dict[int, Node] = {}
    for node in files.values():
        if isinstance(node, File):
            copies[id(node)] = File(bytearray(node.data), node.mode, dict(node.xattrs), node.mtime)
        elif isinstance(node, Folder):
            copies[id(node)] = Folder(node.mode)
        else:
            copies[id(node)] = node
    return {path: copies[id(node)] for path, node in files.items()}


# --- what is there


def look(root: Path, wanted: Mapping[bytes, object] | None = None) -> Files:
    """All that lies below a folder, read from beginning to end; only what `wanted` names, if given, is read."""
    found: Files = {}
    links: dict[int, File] = {}
    for path, status in _walk(os.fsencode(root), b""):
        full = os.fsencode(root) + b"/" + path
        if stat.S_ISDIR(status.st_mode):
            found[path] = Folder(stat.S_IMODE(status.st_mode))
        elif stat.S_ISLNK(status.st_mode):
            found[path] = Symlink(os.readlink(full))
        elif status.st_nlink > 1 and status.st_ino in links:
            found[path] = links[status.st_ino]
        else:
            read = wanted is None or path in wanted
            file = links[status.st_ino] = found[path] = _file_at(full, status) if read else File(bytearray())
            file.mtime = status.st_mtime_ns
    return found


def _walk(root: bytes, folder: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    for name in os.listdir(os.path.join(root, folder)):
        path = folder + b"/" + name if folder else name
        status = os.lstat(os.path.join(root, path))
        yield path, status
        if stat.S_ISDIR(status.st_mode):
            yield from _walk(root, path)


def _file_at(path: bytes, status: os.stat_result) -> File:
    with open(path, "rb", buffering=0) as file:
        data = bytearray(file.readall())
        assert len(data) == status.st_size, f"{path!r}: {len(data)} bytes are read, {status.st_size} are in stat"
        names = [os.fsencode(name) for name in os.listxattr(file.fileno())]
        own = [name for name in names if not name.startswith(NOT_OURS)]
        xattrs = {name: os.getxattr(file.fileno(), name) for name in own}
    return File(data, stat.S_IMODE(status.st_mode), xattrs)


# --- comparing


def differences(found: Files, expected: Files) -> list[str]:
    """One line for each path that is not as expected."""
    lines = [f"{path!r}: missing" for path in expected.keys() - found.keys()]
    lines += [f"{path!r}: not expected" for path in found.keys() - expected.keys()]
    for path in sorted(found.keys() & expected.keys()):
        lines += [f"{path!r}: {what}" for what in _differences_of(found[path], expected[path])]
    lines += _links_apart(found, expected)
    return lines


def _differences_of(found: Node, expected: Node) -> list[str]:
    if type(found) is not type(expected):
        return [f"a {type(found).__name__} instead of a {type(expected).__name__}"]
    if isinstance(found, Symlink) or isinstance(expected, Symlink):
        assert isinstance(found, Symlink)
        assert isinstance(expected, Symlink)
        return [] if found.target == expected.target else [f"points to {found.target!r}, not {expected.target!r}"]
    lines = [] if found.mode == expected.mode else [f"mode {found.mode:o} instead of {expected.mode:o}"]
    if isinstance(found, File):
        assert isinstance(expected, File)
        if found.data != expected.data:
            lines.append(first_difference(found.data, expected.data))
        if found.xattrs != expected.xattrs:
            lines.append(f"attributes {found.xattrs!r} instead of {expected.xattrs!r}")
        if expected.mtime is not None and found.mtime != expected.mtime:
            lines.append(f"mtime {found.mtime} instead of {expected.mtime}")
    return lines


def first_difference(found: bytearray, expected: bytearray) -> str:
    """Where two contents part, in a line."""
    same = next(
        (place for place, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other),
        min(len(found), len(expected)),
    )
    zeros = " (zeros)" if not any(found[same:]) and len(found) > same else ""
    return f"{len(found)} bytes{zeros} instead of {len(expected)}, the same up to {same}"


def _links_apart(found: Files, expected: Files) -> list[str]:
    """Names that should lead to one file and do not, or the other way round."""
    lines = []
    by_node: dict[int, list[bytes]] = {}
    for path, node in expected.items():
        if isinstance(node, File):
            by_node.setdefault(id(node), []).append(path)
    for paths in by_node.values():
        there = [found[path] for path in paths if path in found]
        if len({id(node) for node in there}) > 1:
            lines.append(f"{paths!r}: no longer one file")
    return lines


# --- the act that was under way


def settle(found: Files, expected: Files, act: Act, written: int = 0) -> list[str]:
    """Bring `expected` in line with what came of the act that was not answered; what it cannot have come to.

    Of a write `written` bytes were answered.
    """
    without = copy_of(expected)
    _forget_times(without, act)
    wrong = differences(found, without)
    if not wrong and not written:
        _forget_times(expected, act)
        return []
    after = copy_of(expected)
    perform(after, act)
    _forget_times(after, act)
    if not differences(found, after):
        expected.clear()
        expected.update(after)
        return []
    kind, path = act[0], act[1]
    assert isinstance(path, bytes)
    there, before = found.get(path), expected.get(path)
    if kind in ("write", "append", "mapped") and isinstance(there, File) and isinstance(before, File):
        if not _is_part_of(act, bytes(before.data), bytes(there.data), written):
            return [f"{path!r}: neither {act!r} nor a part of it: {line}" for line in wrong]
        _forget_times(expected, act)
        before.data[:] = there.data
        return differences(found, expected)
    return [f"after {act!r}: {line}" for line in wrong]


def _forget_times(files: Files, act: Act) -> None:
    """Of an act that was under way the times may be new or not."""
    for path in act[1:3]:
        node = files.get(path) if isinstance(path, bytes) else None
        if isinstance(node, File):
            node.mtime = None


def _is_part_of(act: Act, before: bytes, found: bytes, written: int) -> bool:
    kind, _, *rest = act
    offset, spec = (len(before), rest[0]) if kind == "append" else (rest[0], rest[1])
    data = data_of(*spec)
    if kind == "mapped":
        after = bytearray(before)
        put(after, offset, data)
        return len(found) == len(before) and all(
            byte in (old, new) for byte, old, new in zip(found, before, after, strict=True)
        )
    ends = [offset, *range((offset // PAGE + 1) * PAGE, offset + len(data), PAGE)]
    for end in [end for end in ends if end >= offset + written]:
        content = bytearray(before)
        if end > offset:
            put(content, offset, memoryview(data)[: end - offset])
        if content == found:
            return True
    return False
