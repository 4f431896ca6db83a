"""The image groups of a catalogue that is being built, each with its document, while a flush places its files.

Documents are changed in place, and written back once, by `save`. Belongs to the thread that builds the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import final

from vfsd.flush.groups import GroupDocument
from vfsd.flush.locations import free_group_key
from vfsd.plates import FieldKey, PlatePosition
from vfsd.store.builder import CatalogueBuilder
from vfsd.store.catalogue import GroupRecord
from vfsd.store.pyramid import level_count

Group = tuple[GroupRecord, GroupDocument]


@final
class GroupTable:
    """See the module.

    Parameters
    ----------
    levels : int, optional
        How many levels the images of new groups get below their full size (`pyramid.level_count`).
    """

    def __init__(self, builder: CatalogueBuilder, levels: int | None) -> None:
        self._builder = builder
        self._levels = levels
        self._groups: dict[int, Group] = {
            group.id: (group, GroupDocument.decode(group.document)) for group in builder.read().groups()
        }
        self._changed: set[int] = set()

    def of_form(self, form: str) -> Iterator[Group]:
        """All groups of a form."""
        return (group for group in self._groups.values() if group[0].form == form)

    def add(self, wanted: bytes, form: str, directory: bytes, document: GroupDocument) -> Group:
        """A new group at the key wanted, or at one like it where that is taken."""
        document.levels = level_count(document.geometry, self._levels)
        location = free_group_key(wanted, [group.location for group, _ in self._groups.values()])
        return self.add_at(location, form, directory, document)

    def add_at(self, location: bytes, form: str, directory: bytes, document: GroupDocument) -> Group:
        """A new group at a key that is free; its document says how many levels it has."""
        text = document.encode()
        number = self._builder.add_group(location, form, directory, text)
        added = self._groups[number] = (GroupRecord(number, location, form, directory, text), document)
        return added

    def changed(self, group: int) -> None:
        """The document of a group was changed."""
        self._changed.add(group)

    def save(self) -> None:
        """Write what was changed to the catalogue."""
        for group in self._changed:
            self._builder.set_group_document(group, self._groups[group][1].encode())


def image_path(key: FieldKey, several_acquisitions: bool) -> str:
    """Where a field lies in its plate's group."""
    acquisition, row, column, number = key
    at = PlatePosition(row, column, number, 0, 0, 0, acquisition)
    field_path = at.field_path(several_acquisitions=several_acquisitions or acquisition > 0)
    return f"{at.row_path}/{at.column_path}/{field_path}"
