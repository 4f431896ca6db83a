"""The images of a plate by what they are, instead of by their names: well, field, time, channel, z.

What names and vendor metadata say is read once, when the plate is looked for; images are loaded when they are asked for. A plane
that was never acquired is absent: asking for it is a LookupError, and nothing is made up in its place. Label images and
projections are not among the images unless they are asked for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from vfsd.plates import Plate, PlatePosition, find_labels, recognise_plates, row_index

if TYPE_CHECKING:
    from vfsd.client.filemanager import FileManager


@final
@dataclass(frozen=True, slots=True)
class PlateImage:
    """One plane of a plate: its name in the tree, its place, and its channel's name where the vendor gives one."""

    name: str
    position: PlatePosition
    channel: str | None
    _manager: FileManager

    def load(self, backend: str = "auto", **options: Any) -> Any:
        """The pixels, as `FileManager.load`."""
        return self._manager.load(self.name, backend, **options)


@final
class PlateImages:
    """A plate: `plate.images(channel="DAPI")`, `plate["B02"].field(1)[0, "DAPI", 0]`.

    Attributes
    ----------
    name : str
        The plate's folder, or the vendor's name for it.
    plate : vfsd.plates.Plate
        All that is known of it: facts, notes, files that are no images.
    """

    def __init__(self, manager: FileManager, plate: Plate) -> None:
        self.plate = plate
        self.name = plate.name
        self._channels = {facts.number: facts.name for facts in plate.facts.channels}
        placed = sorted((position, path) for path, position in plate.images.items())
        self._images = [
            PlateImage(os.fsdecode(path), position, self._channels.get(position.channel), manager)
            for position, path in placed
        ]

    def __len__(self) -> int:
        return len(self._images)

    @property
    def wells(self) -> list[str]:
        """The wells that have an image, by row and column: "B02"."""
        return list(dict.fromkeys(image.position.well for image in self._images))

    @property
    def channels(self) -> list[str]:
        """The channels, by the vendor's numbers; one without a name is called by its number."""
        numbers = sorted({image.position.channel for image in self._images})
        return [self._channels.get(number) or str(number) for number in numbers]

    def images(
        self,
        *,
        well: str | None = None,
        field: int | None = None,
        time: int | None = None,
        channel: str | int | None = None,
        z: int | None = None,
        acquisition: int | None = None,
        projection: bool = False,
    ) -> Iterator[PlateImage]:
        """The images of some coordinates, in the order of well, field, time, channel, z.

        Parameters
        ----------
        well : str, optional
            "B02" or "b2".
        field, time, z, acquisition : int, optional
            The vendor's own numbers.
        channel : str or int, optional
            Its name, case ignored, or the vendor's number.
        projection : bool
            Those that the instrument computed along z, instead of the stack's.

        Raises
        ------
        LookupError
            The plate has no such well or channel: probably it is misspelt.
        """
        row_and_column = None if well is None else self._well(well)
        number = None if channel is None else self.channel_number(channel)
        wanted = (row_and_column, field, time, number, z, acquisition)
        for image in self._images:
            at = image.position
            has = ((at.row, at.column), at.field, at.time, at.channel, at.z, at.acquisition)
            if at.projection is projection and all(
                one is None or one == other for one, other in zip(wanted, has, strict=True)
            ):
                yield image

    def __iter__(self) -> Iterator[PlateImage]:
        return self.images()

    def __getitem__(self, well: str) -> WellImages:
        """A well; KeyError where the plate has no image of it."""
        return WellImages(self, list(self.images(well=well)), f"{self.name}, well {well}")

    def channel_number(self, channel: str | int) -> int:
        """The vendor's number of a channel; KeyError."""
        numbers = {image.position.channel for image in self._images}
        if isinstance(channel, int) and channel in numbers:
            return channel
        for number in sorted(numbers):
            if str(channel).casefold() in ((self._channels.get(number) or "").casefold(), str(number)):
                return number
        raise KeyError(f"{self.name} has no channel {channel!r}; it has {', '.join(self.channels)}")

    def _well(self, well: str) -> tuple[int, int]:
        letters = well.rstrip("0123456789")
        try:
            found = row_index(letters), int(well[len(letters) :]) - 1
        except ValueError as error:
            raise KeyError(f"{well!r} is no well, such as B02") from error
        if all((image.position.row, image.position.column) != found for image in self._images):
            raise KeyError(f"{self.name} has no image of well {well}")
        return found


@final
class WellImages:
    """The images of one well."""

    def __init__(self, plate: PlateImages, images: Sequence[PlateImage], shown: str) -> None:
        self._plate = plate
        self._images = images
        self._shown = shown

    @property
    def fields(self) -> list[int]:
        """The vendor's numbers of its fields."""
        return sorted({image.position.field for image in self._images})

    def field(self, number: int, acquisition: int = 0) -> FieldImages:
        """One field by the vendor's number; KeyError where it has no image."""
        images = [
            image
            for image in self._images
            if (image.position.field, image.position.acquisition) == (number, acquisition)
        ]
        if not images:
            raise KeyError(f"{self._shown}: there is no field {number}; there are {self.fields}")
        return FieldImages(self._plate, images, f"{self._shown}, field {number}")


@final
class FieldImages:
    """The planes of one field, lazily: `field[t, c, z]` is loaded when it is asked for.

    `times`, `channels` and `z_steps` are the vendor's numbers in order; an index is a place among them, from 0. A channel may be
    given by its name.
    """

    def __init__(self, plate: PlateImages, images: Sequence[PlateImage], shown: str) -> None:
        self._plate = plate
        self._shown = shown
        self._at = {(i.position.time, i.position.channel, i.position.z): i for i in images}
        self.times = sorted({time for time, _, _ in self._at})
        self.channels = sorted({channel for _, channel, _ in self._at})
        self.z_steps = sorted({z for _, _, z in self._at})

    @property
    def shape(self) -> tuple[int, int, int]:
        """Times, channels and steps along z."""
        return len(self.times), len(self.channels), len(self.z_steps)

    def image(self, time: int, channel: int | str, z: int) -> PlateImage:
        """The plane at a place, not loaded.

        Raises
        ------
        IndexError
            There is no such place.
        KeyError
            There is, and nothing was acquired there; or no channel has this name.
        """
        number = self._plate.channel_number(channel) if isinstance(channel, str) else self.channels[channel]
        place = self.times[time], number, self.z_steps[z]
        if place not in self._at:
            raise KeyError(f"{self._shown}: no image was acquired at time {place[0]}, channel {place[1]}, z {place[2]}")
        return self._at[place]

    def __getitem__(self, place: tuple[int, int | str, int]) -> Any:
        """The pixels at (t, c, z), shape (y, x); read-only, as `FileManager.load` gives them."""
        return self.image(*place).load()


def find_plates(manager: FileManager, paths: Sequence[bytes], read: Any, name: str) -> list[PlateImages]:
    """The plates among files of a tree."""
    labels = find_labels(paths, read, directory_name=name)
    plates = recognise_plates([path for path in paths if path not in labels], read, directory_name=name)
    return [PlateImages(manager, plate) for plate in plates]
