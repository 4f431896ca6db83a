"""Molecular Devices ImageXpress: MetaXpress' export and its database layout.

Names (`imagexpress_names`) decide where a plane belongs. The HTD (`htd`), in the plate's root and often again
in every folder, adds facts, and where it contradicts the names it is not believed. A name that says neither
site nor wavelength counts only where an HTD of that plate exists: `foo_B02.tif` alone may be anything.
Several plate names below one root are several plates. Pixel sizes, stage positions and exposures stand only in
the images (`metaseries`), which are looked into when they are stored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import final

from vfsd.plates.htd import Htd, HtdError, parse_htd
from vfsd.plates.imagexpress_names import (
    NameReader,
    first_step_folders,
    htd_stem,
    is_step_folder,
    reason_for_stray,
)
from vfsd.plates.instrument import Listing
from vfsd.plates.metadata import MetadataReader
from vfsd.plates.model import ChannelFacts, PlateFacts, PlatePosition
from vfsd.plates.naming import join_path, split_path, text_of
from vfsd.plates.scheme import Document, ImageName, PlateGroup

# An HTD is repeated in every folder; when the first copies are damaged, one of these will do.
HTD_ATTEMPTS = 4


@final
class ImageXpress:
    """The scheme of ImageXpress plates."""

    name = "imagexpress"
    hint = b".tif"

    def reader(self, listing: Listing, metadata: MetadataReader) -> NameReader:
        steps = {directory.rpartition(b"/")[::2] for directory in {path.rpartition(b"/")[0] for path in listing.paths}}
        stacks = {parent for parent, last in steps if is_step_folder(last)}

        def is_stack(directory: bytes) -> bool:
            return directory in stacks or any(map(metadata.is_folder, first_step_folders(directory)))

        return NameReader(is_stack)

    def document(self, directory: bytes, file_name: bytes) -> Document | None:
        stem = htd_stem(file_name)
        if stem is None:
            return None
        return Document(NameReader().place(directory).root, stem, "it is an HTD of no plate found here")

    def find(self, group: PlateGroup, metadata: MetadataReader) -> None:
        group.found = bool(group.documents)
        found = _Found()
        group.metadata = found
        for path in group.documents[:HTD_ATTEMPTS]:
            if found.parse(metadata.read(path)):
                return
        if not group.documents:
            for path in _likely_places(group):
                data = metadata.probe(path)
                if data is not None:
                    group.found = True
                    found.parse(data)
                    return

    def describe(self, group: PlateGroup, metadata: MetadataReader) -> None:
        found = group.metadata
        assert isinstance(found, _Found)
        htd = found.htd
        wrong = {} if htd is None else _contradictions(htd, group.images.values())
        reason = _htd_reason(found, wrong)
        group.others.update(dict.fromkeys(group.documents, reason))
        if group.documents and (wrong or htd is None):
            group.notes.append(f"{text_of(group.documents[0])}: {reason}")
        name = text_of(group.spelled)
        if htd is None:
            group.facts = PlateFacts(channels=group.channels(ChannelFacts), name=name)
            return
        names = htd.channel_names
        group.facts = PlateFacts(
            rows=None if "rows" in wrong else htd.rows,
            columns=None if "columns" in wrong else htd.columns,
            channels=group.channels(lambda number: ChannelFacts(number, name=names.get(number))),
            time_points=None if "time_points" in wrong else htd.time_points,
            z_steps=None if "z_steps" in wrong else htd.z_steps,
            name=name,
        )

    def reason(self, path: bytes) -> str:
        return reason_for_stray(path)


@final
class _Found:
    """A plate's HTD as far as it is understood."""

    __slots__ = ("htd", "problem")

    def __init__(self) -> None:
        self.htd: Htd | None = None
        self.problem = ""

    def parse(self, data: bytes | None) -> bool:
        if data is None:
            self.problem = "it cannot be read"
            return False
        try:
            self.htd = parse_htd(data)
        except HtdError as error:
            self.problem = str(error)
        return self.htd is not None


def _likely_places(group: PlateGroup) -> list[bytes]:
    """Where the HTD is when it is not listed: in the root, or beside the first image."""
    first: ImageName = group.names[0]
    folders = dict.fromkeys((group.root, split_path(first.path)[0]))
    return [join_path(folder, first.plate + suffix) for folder in folders for suffix in (b".HTD", b".htd")]


def _contradictions(htd: Htd, positions: Iterable[PlatePosition]) -> dict[str, str]:
    """What the HTD declares and the names exceed: fact → in words."""
    rows = columns = times = steps = 0
    for position in positions:
        rows = max(rows, position.row + 1)
        columns = max(columns, position.column + 1)
        times = max(times, position.time)
        steps = max(steps, position.z)
    facts = (
        ("rows", htd.rows, rows),
        ("columns", htd.columns, columns),
        ("time_points", htd.time_points, times),
        ("z_steps", htd.z_steps, steps),
    )
    return {
        fact: f"{declared} {fact.replace('_', ' ')} declared, number {seen} seen"
        for fact, declared, seen in facts
        if declared is not None and seen > declared
    }


def _htd_reason(found: _Found, contradictions: dict[str, str]) -> str:
    if found.htd is None:
        return f"it is the plate's HTD, and not understood: {found.problem}"
    if contradictions:
        said = ", ".join(contradictions.values())
        return f"it is the plate's HTD; file names contradict it and are believed: {said}"
    return "it is the plate's HTD"
