"""What must be there after power loss: whatever was synced or stored, under its names, and nothing that was gone for good.

A *sync* of a writer (fsync, fdatasync, msync, fsync of a directory) makes all that it was told of names and attributes durable,
and the bytes of the file concerned; so does moving a file to the store for its bytes. What it did after that may have
happened, as far as some act:

- a file whose bytes are durable is there, whole; if it was written since, each byte is the durable or a newer one; if it was
  cut to nothing since, it is the old version or the new one; if it was renamed or removed since, any of its later names counts;
- a name at which a file took the place of a durable one leads to one of the two;
- a name that was gone at the last sync does not come back;
- a file whose name is durable and whose bytes are not is there, or named as lost.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from crash.expected import Act, File, Files, Folder, Node, Symlink, copy_of, perform

SYNCS = ("fsync", "fsync_folder", "mapped")


@dataclass(slots=True)
class _Life:
    """One file: its contents and attributes by the act that made them, and what of them is durable.

    `epochs` has, for each content, how often the file was cut to nothing before it; `synced` the act of the last sync and the
    number of the content that it made durable.
    """

    contents: list[tuple[int, bytes]] = field(default_factory=list)
    epochs: list[int] = field(default_factory=list)
    attributes: list[tuple[int, int, dict[bytes, bytes]]] = field(default_factory=list)
    synced: tuple[int, int] | None = None

    def add(self, number: int, node: File, *, anew: bool) -> None:
        """The file after an act."""
        if not self.contents or self.contents[-1][1] != node.data or anew:
            epoch = self.epochs[-1] if self.epochs else 0
            self.contents.append((number, bytes(node.data)))
            self.epochs.append(epoch + anew)
        if not self.attributes or self.attributes[-1][1:] != (node.mode, node.xattrs):
            self.attributes.append((number, node.mode, dict(node.xattrs)))

    def sync(self, number: int) -> None:
        """The bytes are durable as they are now."""
        self.synced = number, len(self.contents) - 1

    def may_hold(self, data: bytes, since: int) -> bool:
        """Whether these may be its bytes when content number `since` was the last durable one."""
        for epoch in range(self.epochs[since], self.epochs[-1] + 1):
            versions = [
                content
                for (_, content), of in zip(self.contents[since:], self.epochs[since:], strict=True)
                if of == epoch
            ]
            if _is_mixture(data, versions):
                return True
        return False

    def may_have(self, node: File, since: int) -> bool:
        """Whether these may be its mode and attributes when act `since` was the last sync."""
        before = [number for number, (act, _, _) in enumerate(self.attributes) if act <= since]
        return any(
            (node.mode, node.xattrs) == (mode, xattrs) for _, mode, xattrs in self.attributes[max(before, default=0) :]
        )


def _is_mixture(data: bytes, versions: list[bytes]) -> bool:
    """Whether each byte is that of one of the versions, and the size lies between theirs."""
    sizes = [len(version) for version in versions]
    if not min(sizes) <= len(data) <= max(sizes):
        return False
    if data in versions:
        return True
    return all(
        byte == 0 or any(place < len(version) and version[place] == byte for version in versions)
        if place >= min(sizes)
        else any(version[place] == byte for version in versions)
        for place, byte in enumerate(data)
    )


class Past:
    """What a writer was told until the power failed.

    Parameters
    ----------
    files : Files
        What it had at first, all of it durable.
    acts : list of Act
        What was answered, in order.
    under_way : Act, optional
        What was not.
    """

    def __init__(self, files: Files, acts: list[Act], under_way: Act | None) -> None:
        files = copy_of(files)
        self._lives: dict[int, _Life] = {}
        self._alive: list[Node] = []  # so that no two have one id
        self.names: list[Files] = [dict(files)]
        self.acts = [*acts, *([] if under_way is None else [under_way])]
        self.anchor = 0
        for node in files.values():
            self._note(0, node, anew=False)
            if isinstance(node, File):
                self._lives[id(node)].sync(0)
        for number, act in enumerate(self.acts, 1):
            perform(files, act)
            self._after(number, act, files, answered=number <= len(acts))
            self.names.append(dict(files))

    def _note(self, number: int, node: Node, *, anew: bool) -> None:
        self._alive.append(node)
        if isinstance(node, File):
            self._lives.setdefault(id(node), _Life()).add(number, node, anew=anew)

    def _after(self, number: int, act: Act, files: Files, *, answered: bool) -> None:
        kind, path, *rest = act
        assert isinstance(path, bytes)
        node = files.get(path)
        if node is not None:
            self._note(number, node, anew=kind == "resize" and rest[0] == 0)
        if answered and kind in SYNCS:
            self.anchor = number
        # Moving a file to the store makes its bytes durable, and does nothing if they are there: names wait for the next sync.
        stored = kind == "tier" and rest[0] == b"store"
        if answered and (kind in SYNCS or stored) and isinstance(node, File):
            self._lives[id(node)].sync(self.anchor)

    # --- judging

    def wrong(self, found: Files, said: str) -> list[str]:
        """What is not as it must be, a line each. `said`: what the mount said when it came back."""
        return [
            *self._missing(found),
            *self._replaced(found),
            *self._come_back(found),
            *self._not_named(found, said),
        ]

    def _missing(self, found: Files) -> Iterator[str]:
        for life, node in self._durable():
            assert life.synced is not None
            synced, content = life.synced
            ways = [self._names_of(node, number) for number in range(synced, len(self.names))]
            if not any(all(self._is_there(found, path, life, content) for path in names) for names in ways):
                places = ", ".join(f"{path!r}: {self._what(found, path, life)}" for path in ways[0])
                later = [self.acts[self.anchor - 1][:3], "|"] + [
                    act[:3] for act in self.acts[synced:] if act[1] in ways[0]
                ]
                yield f"durable since act {synced} of {len(self.acts)}, and not there: {places}; since then {later[:6]}"

    def _durable(self) -> Iterator[tuple[_Life, File]]:
        seen: set[int] = set()
        for node in self._alive:
            if isinstance(node, File) and id(node) not in seen and self._lives[id(node)].synced is not None:
                seen.add(id(node))
                yield self._lives[id(node)], node

    def _names_of(self, node: Node, number: int) -> list[bytes]:
        return [path for path, other in self.names[number].items() if other is node]

    def _is_there(self, found: Files, path: bytes, life: _Life, since: int) -> bool:
        there = found.get(path)
        return isinstance(there, File) and life.may_hold(bytes(there.data), since) and life.may_have(there, self.anchor)

    def _what(self, found: Files, path: bytes, life: _Life) -> str:
        there = found.get(path)
        if not isinstance(there, File):
            return "missing" if there is None else f"a {type(there).__name__}"
        assert life.synced is not None
        if life.may_hold(bytes(there.data), life.synced[1]):
            return f"mode {there.mode:o}, attributes {there.xattrs!r}; there were {life.attributes[-3:]!r}"
        sizes = [len(content) for _, content in life.contents[life.synced[1] :]]
        zeros = ", only zeros" if not any(there.data) else ""
        return f"{len(there.data)} other bytes{zeros}, sizes since the sync: {sizes[:8]}"

    def _replaced(self, found: Files) -> Iterator[str]:
        """Names that led to a durable file at the last sync, at which others took its place, and that were never free."""
        for path, first in self.names[self.anchor].items():
            occupants = [names.get(path) for names in self.names[self.anchor :]]
            if not isinstance(first, File) or self._lives[id(first)].synced is None:
                continue
            candidates = [node for node in occupants if isinstance(node, File)]
            if len(candidates) == len(occupants) and not any(self._may_be(found, path, one) for one in candidates):
                yield f"{path!r}: neither the durable file nor what took its place, but {found.get(path)!r:.80}"

    def _may_be(self, found: Files, path: bytes, node: File) -> bool:
        there, life = found.get(path), self._lives[id(node)]
        since = 0 if life.synced is None else life.synced[1]
        return isinstance(there, File) and life.may_hold(bytes(there.data), since)

    def _come_back(self, found: Files) -> Iterator[str]:
        may_be: set[bytes] = set()
        for names in self.names[self.anchor :]:
            may_be |= names.keys()
        yield from (f"{path!r}: was gone at the last sync" for path in found.keys() - may_be)

    def _is_named(self, node: Node, said: str) -> bool:
        """Whether it is spoken of, by any of its names; what is no text is shown otherwise, but its beginning is not."""
        names = {path for names in self.names[self.anchor :] for path, other in names.items() if other is node}
        return any(path.split(b" \xff")[0].decode() in said for path in names)

    def _not_named(self, found: Files, said: str) -> Iterator[str]:
        """What stayed where it was since the last sync: there, or, a file whose bytes were never durable, named."""
        for path, node in self.names[self.anchor].items():
            if path in found or not all(names.get(path) is node for names in self.names[self.anchor :]):
                continue
            if isinstance(node, Folder | Symlink):
                yield f"{path!r}: a durable {type(node).__name__} is missing"
            elif self._lives[id(node)].synced is None and not self._is_named(node, said):
                acts = [act[:3] for act in self.acts if path in act[1:3]]
                yield f"{path!r}: its name was durable, and it is gone without a word, after {acts[-6:]}"


def all_wrong(pasts: Collection[Past], found: Collection[Files], said: str) -> list[str]:
    """What is wrong with any writer's files."""
    return [
        f"writer {number}: {line}"
        for number, (past, own) in enumerate(zip(pasts, found, strict=True))
        for line in past.wrong(own, said)
    ]
