"""Image groups whose directory was renamed: they go along as a whole, by links, and nothing of them is read.

Works on the catalogue being built, in a thread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfsd.flush.groups import GroupDocument
from vfsd.flush.locations import directory_name, free_group_key, moved_key, pages_key
from vfsd.flush.renames import Renames
from vfsd.store.builder import CatalogueBuilder
from vfsd.store.catalogue import GroupRecord
from vfsd.store.stored import labelled_plate, labels_location


@dataclass(frozen=True, slots=True)
class MovedGroup:
    """A group that lies elsewhere with the next catalogue."""

    old: bytes
    new: bytes


def move_groups(builder: CatalogueBuilder, renames: Renames, plate_name: str) -> list[MovedGroup]:
    """Give every group the directory that it mirrors now, and the key that follows from it, where that is free."""
    catalogue = builder.read()
    moving: list[tuple[GroupRecord, bytes, bytes]] = []
    taken: list[bytes] = []
    inside: list[tuple[GroupRecord, tuple[bytes, str]]] = []
    for group in catalogue.groups():
        path = renames.pages.get(group.id)
        if path is not None:
            directory, _, name = path.rpartition(b"/")
            moving.append((group, directory, pages_key(directory_name(directory, plate_name), name)))
            document = GroupDocument.decode(group.document)
            builder.set_group_document(
                group.id, replace(document, name=name.decode("utf-8", "backslashreplace")).encode()
            )
            continue
        directory = renames.directory(group.directory)
        around = labelled_plate(group.location)
        if around is not None:
            inside.append((group, around))  # they go with the plate
        elif directory == group.directory:
            taken.append(group.location)
        else:
            moving.append((group, directory, moved_key(group.location, group.directory, directory)))
    placed: list[tuple[GroupRecord, bytes, bytes]] = []
    for group, directory, wanted in moving:
        location = free_group_key(wanted, taken)
        taken.append(location)
        placed.append((group, location, directory))
    moved = {group.location: location for group, location, _ in placed}
    rows = [(group.id, location, directory) for group, location, directory in placed]
    for group, (plate, label) in inside:
        location = labels_location(moved.get(plate, plate), label)
        rows.append((group.id, location, renames.directory(group.directory)))
    builder.move_groups(rows)
    return [MovedGroup(group.location, location) for group, location, _ in placed if location != group.location]
