"""Where the items of a flush go, as plain values: what `placing` decides and all that follows of a flush reads."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import final

from vfsd.flush.items import Item
from vfsd.plates import PlatePosition
from vfsd.store.catalogue import PlaneRecord
from vfsd.store.geometry import ITEM_SIZES, ArrayGeometry


@dataclass(frozen=True, slots=True)
class PlaneShape:
    """What planes of one array have in common."""

    height: int
    width: int
    samples: int
    planar: bool
    dtype: str

    @classmethod
    def of(cls, geometry: ArrayGeometry) -> PlaneShape:
        """That of an array's planes."""
        return cls(geometry.height, geometry.width, geometry.samples, geometry.planar, geometry.dtype)

    def text(self) -> str:
        """For names: "512x512", "512x512x3"."""
        return f"{self.height}x{self.width}" + (f"x{self.samples}" if self.samples > 1 else "")

    @property
    def bytes(self) -> int:
        """Bytes of one plane."""
        return self.height * self.width * self.samples * ITEM_SIZES[self.dtype]


@final
@dataclass(slots=True)
class Placement:
    """Where the items of a flush go.

    Attributes
    ----------
    planes : dict
        Inode → its planes' places, in the order of its pages.
    plain : dict
        Inode → the item whose bytes become a plain object (of a compressed plate image: as well).
    windows : dict
        (group, channel) → the item and its page by which the channel's brightness is judged.
    unplaced : dict
        (group, image) → an item of that field, where the stage's position is not known from the vendor's metadata.
    touched : set of int
        Groups that planes of other files came into or left.
    """

    planes: dict[int, list[PlaneRecord]] = field(default_factory=dict)
    plain: dict[int, Item] = field(default_factory=dict)
    windows: dict[tuple[int, int], tuple[Item, int]] = field(default_factory=dict)
    unplaced: dict[tuple[int, str], Item] = field(default_factory=dict)
    touched: set[int] = field(default_factory=set)


def plane_shape(item: Item) -> PlaneShape | None:
    """The shape of an item's one plane, or of all its equal pages; None when it has none that can be stored."""
    if item.layout is not None and item.layout.uniform:
        page = item.layout.pages[0]
        return PlaneShape(page.height, page.width, page.samples, page.planar, page.dtype.name)
    if item.decoded is not None:
        height, width, dtype = item.decoded
        return PlaneShape(height, width, 1, False, dtype)
    return None


def positions_of_pages(item: Item, first: PlatePosition) -> list[PlatePosition]:
    """Where each plane of an item belongs, from where its first one does; none where that cannot be said."""
    if item.layout is None or item.layout.plane_count == 1:
        return [first]
    return [
        replace(first, channel=first.channel + channel, z=first.z + z, time=first.time + time)
        for channel, z, time in item.pages or ()
    ]
