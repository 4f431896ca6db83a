"""Label images among the files of a tree: which image of which plate each of them labels.

What a label's name leaves when its own part is taken away is put to the instruments like any listing, so a label has the
position of its image by the same rules, whether that is listed, in the source, in the store or gone; of several ways to
read a name the one counts whose image is there. Never raises and never opens an image.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from vfsd.errors import VfsdError
from vfsd.plates.instrument import ReadFile
from vfsd.plates.model import Plate, PlatePosition
from vfsd.plates.recognise import recognise_plates
from vfsd.plates.registry import PlateFormats, choose_formats

# Of the endings that an image may have, those that the instruments are asked about: all of ours take either case.
_READ = 2


@dataclass(frozen=True, slots=True)
class LabelImage:
    """A label image: the path of the image that it labels, its plate and position there, and the label's name.

    `plate` has what is known of the whole plate; its `images` are the images that labels were found of.
    """

    image: bytes
    plate: Plate
    position: PlatePosition
    name: str


def find_labels(
    paths: Iterable[bytes], read_file: ReadFile, *, directory_name: str = "plate", formats: PlateFormats | None = None
) -> dict[bytes, LabelImage]:
    """The label images among the paths; parameters as for `recognise_plates`.

    A read of no bytes asks `read_file` only whether a file is there.
    """
    asked = formats or choose_formats()
    waiting = {path: list(asked.labels.candidates(path)) for path in paths}
    found: dict[bytes, LabelImage] = {}
    absent: dict[bytes, LabelImage] = {}
    while waiting := {path: candidates for path, candidates in waiting.items() if candidates}:
        trying = {path: candidates.pop(0) for path, candidates in waiting.items()}
        wanted = {image for one in trying.values() for image in one.images[:_READ]}
        plates: dict[bytes, Plate] = {}
        for plate in recognise_plates(wanted, read_file, directory_name=directory_name, formats=asked):
            plates.update(dict.fromkeys(plate.images, plate))
        for path, one in trying.items():
            image = next((image for image in one.images if image in plates), None)
            if image is None:
                continue
            of_plate = plates[image]
            at = of_plate.images[image]
            there = next((image for image in one.images if _is_there(image, read_file)), None)
            if there is not None:
                found[path] = LabelImage(there, of_plate, at, one.label)
                del waiting[path]
            elif not one.checked:
                absent.setdefault(path, LabelImage(image, of_plate, at, one.label))
    return absent | found


def _is_there(path: bytes, read_file: ReadFile) -> bool:
    try:
        read_file(path, 0, 0)
    except (OSError, LookupError, VfsdError):
        return False
    return True
