"""One image of OME-Zarr 0.4 or 0.5: its full-size array, which axis is which, and what is known of its channels and scales.

`read_image` believes nothing that it did not check, and says in a `ForeignError` what is wrong with it. What is only for
display (names, colours, scales) never makes an image unreadable: what is not sensible is left out. Section names are
those of the specification, https://ngff.openmicroscopy.org/0.5/ and 0.4.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from vfsd.images import Stack, StackChannel, StackFacts, sensible
from vfsd.store.foreign.array import ForeignArray, read_array
from vfsd.store.foreign.folder import ForeignError, ForeignFolder, Json

VERSIONS: Final = ("0.4", "0.5")
# Units of section "axes" in µm, and in seconds.
MICROMETRES: Final = {
    **{"picometer": 1e-6, "angstrom": 1e-4, "nanometer": 1e-3, "micrometer": 1.0, "millimeter": 1e3},
    **{"centimeter": 1e4, "decimeter": 1e5, "meter": 1e6, "inch": 25400.0},
}
SECONDS: Final = {
    "microsecond": 1e-6,
    "millisecond": 1e-3,
    "second": 1.0,
    "minute": 60.0,
    "hour": 3600.0,
    "day": 86400.0,
}
# Sections "axes" and "multiscales": two to five axes.
MOST_AXES: Final = 5
_COLOUR: Final = re.compile("[0-9a-fA-F]{6}")
# Of channels that are listed beyond the array's, and of names, no more is looked at than can be shown.
MOST_NAME: Final = 1000


@final
@dataclass(frozen=True, slots=True)
class ForeignImage:
    """See the module.

    Attributes
    ----------
    path : bytes
        Of the image's group.
    mtime : int
        Of its newest metadata, in ns.
    axes : tuple of (int or None)
        Which axis of the array is t, c, z, y, x.
    """

    path: bytes
    mtime: int
    array: ForeignArray
    axes: tuple[int | None, int | None, int | None, int, int]
    facts: StackFacts

    @property
    def stack(self) -> Stack:
        """Its sizes."""
        t, c, z, y, x = (1 if axis is None else self.array.shape[axis] for axis in self.axes)
        return Stack(self.array.dtype, t, c, z, y, x)

    def place(self, time: int, channel: int, slice_: int) -> list[int]:
        """Where a plane lies along each axis of the array."""
        place = [0] * len(self.array.shape)
        for axis, at in zip(self.axes[:3], (time, channel, slice_), strict=True):
            if axis is not None:
                place[axis] = at
        return place


def group_metadata(folder: ForeignFolder, path: bytes) -> tuple[Json, int]:
    """What a group says in the terms of NGFF, and when that was written (ns).

    Raises
    ------
    ForeignError
        There is no Zarr group, or it cannot be read.
    """
    at = path + b"/" if path else b""
    found = folder.document(at + b"zarr.json")
    if found is not None:
        document, status = found
        if document.get("zarr_format") != 3 or document.get("node_type") != "group":
            raise ForeignError("its zarr.json is not that of a Zarr v3 group", path)
        attributes = document.get("attributes", {})
        ome = attributes.get("ome") if isinstance(attributes, dict) else None
        if ome is None:
            return {}, status.st_mtime_ns
        if not isinstance(ome, dict):
            raise ForeignError("its attribute 'ome' is no object", path)
        if ome.get("version", "0.5") not in VERSIONS:
            raise ForeignError(
                f"is OME-Zarr {str(ome.get('version'))[:40]!r}; vfsd knows {' and '.join(VERSIONS)}", path
            )
        return ome, status.st_mtime_ns
    group, found = folder.document(at + b".zgroup"), folder.document(at + b".zattrs")
    if group is not None and group[0].get("zarr_format") != 2:
        raise ForeignError("its .zgroup is not that of a Zarr v2 group", path)
    newest = max((status.st_mtime_ns for _, status in filter(None, (group, found))), default=0)
    if found is not None:
        return found[0], newest
    if group is not None:
        return {}, newest
    raise ForeignError("is no Zarr group: it has neither zarr.json nor .zgroup", path)


def read_image(folder: ForeignFolder, path: bytes, name: str) -> ForeignImage:
    """The image whose group is at `path`; raises ForeignError."""
    metadata, mtime = group_metadata(folder, path)
    multiscales = metadata.get("multiscales")
    if not isinstance(multiscales, list) or not multiscales or not isinstance(multiscales[0], dict):
        raise ForeignError("is no image: its metadata have no multiscales", path)
    multiscale = multiscales[0]
    version = multiscale.get("version", "0.4")
    if version not in VERSIONS:
        raise ForeignError(f"is OME-Zarr {str(version)[:40]!r}; vfsd knows {' and '.join(VERSIONS)}", path)
    axes = _axes(multiscale.get("axes"), path)
    datasets = multiscale.get("datasets")
    if not isinstance(datasets, list) or not datasets or not isinstance(datasets[0], dict):
        raise ForeignError("its multiscales name no datasets", path)
    array = read_array(folder, below(path, datasets[0].get("path"), path))
    if len(array.shape) != len(axes):
        raise ForeignError(f"has {len(array.shape)} axes where its image's metadata name {len(axes)}", array.path)
    if 0 in array.shape:
        raise ForeignError(f"has no pixels: its shape is {array.shape}", array.path)
    chosen = _choose_axes(axes, array)
    scale = _scale(multiscale, datasets[0], len(axes))
    facts = StackFacts(name, _channels(metadata.get("omero"), array, chosen[1]), **_steps(axes, chosen, scale))
    return ForeignImage(path, max(mtime, array.mtime), array, chosen, facts)


def below(path: bytes, name: object, where: bytes) -> bytes:
    """A path that metadata give relative to a group's; raises ForeignError for one that is none."""
    if not isinstance(name, str) or not name or "\0" in name:
        raise ForeignError(f"names the path {str(name)[:80]!r}, which is none", where)
    parts = name.rstrip("/").split("/")
    if any(part in ("", ".", "..") for part in parts):
        raise ForeignError(f"names the path {name[:200]!r}, which leads out of the folder or nowhere", where)
    try:
        encoded = name.rstrip("/").encode()
    except UnicodeEncodeError as error:
        raise ForeignError(f"names the path {name[:80]!r}, which is none", where) from error
    return path + b"/" + encoded if path else encoded


def _axes(value: object, path: bytes) -> list[tuple[str, str | None, str | None]]:
    """Name, type and unit of each axis."""
    if not isinstance(value, list) or not 2 <= len(value) <= MOST_AXES:
        raise ForeignError(f"its multiscales have no list of 2 to {MOST_AXES} axes", path)
    axes = []
    for axis in value:
        if not isinstance(axis, dict) or not isinstance(axis.get("name"), str):
            raise ForeignError("has an axis without a name", path)
        kind, unit = axis.get("type"), axis.get("unit")
        axes.append((axis["name"], kind if isinstance(kind, str) else None, unit if isinstance(unit, str) else None))
    if len({name for name, _, _ in axes}) != len(axes):
        raise ForeignError("has two axes of one name", path)
    return axes


def _choose_axes(
    axes: list[tuple[str, str | None, str | None]], array: ForeignArray
) -> tuple[int | None, int | None, int | None, int, int]:
    """Which axis is t, c, z, y, x: by its type, spatial ones by their name, else by their place."""
    space = [number for number, (_, kind, _) in enumerate(axes) if kind == "space"]
    names = [axes[number][0].lower() for number in space]
    if set(names) in ({"y", "x"}, {"z", "y", "x"}):
        spatial: dict[str, int | None] = dict(zip(names, space, strict=True))
    elif len(space) in (2, 3):
        spatial = dict(zip("zyx"[-len(space) :], space, strict=True))
    else:
        raise ForeignError(f"has {len(space)} axes of type space; an image has two or three", array.path)
    chosen: dict[str, int | None] = {"t": None, "c": None, "z": None, **spatial}
    for number, (name, kind, _) in enumerate(axes):
        if kind == "space":
            continue
        letter = {"time": "t", "channel": "c"}.get(kind or "")
        if letter is not None and chosen[letter] is None:
            chosen[letter] = number
        elif array.shape[number] != 1:
            raise ForeignError(
                f"has an axis {name[:40]!r} of type {str(kind)[:40]!r}, for which a TIFF has no place", array.path
            )
    y, x = chosen["y"], chosen["x"]
    assert y is not None
    assert x is not None
    return chosen["t"], chosen["c"], chosen["z"], y, x


def _scale(multiscale: Json, dataset: Json, axes: int) -> list[float | None]:
    """Scale along each axis (section "multiscales": that of the dataset, then that of all); None where it is not sensible."""
    scale: list[float | None] = [1.0] * axes
    for transformations in (dataset.get("coordinateTransformations"), multiscale.get("coordinateTransformations")):
        for one in transformations if isinstance(transformations, list) else []:
            factors = one.get("scale") if isinstance(one, dict) and one.get("type") == "scale" else None
            if isinstance(factors, list) and len(factors) == axes:
                known = [sensible(factor) for factor in factors]
                scale = [sensible(a * b) if a and b else None for a, b in zip(scale, known, strict=True)]
    return scale


def _steps(
    axes: list[tuple[str, str | None, str | None]],
    chosen: tuple[int | None, int | None, int | None, int, int],
    scale: Sequence[float | None],
) -> dict[str, Any]:
    """Pixel sizes and steps in µm and seconds, as far as their units are known."""

    def in_units(axis: int | None, units: dict[str, float]) -> float | None:
        factor = None if axis is None else units.get(axes[axis][2] or "")
        size = None if axis is None else scale[axis]
        return None if factor is None or size is None else sensible(size * factor)

    t, _, z, y, x = chosen
    height, width = in_units(y, MICROMETRES), in_units(x, MICROMETRES)
    return {
        "pixel_size_um": None if height is None or width is None else (height, width),
        "z_step_um": in_units(z, MICROMETRES),
        "time_step_s": in_units(t, SECONDS),
    }


def _channels(omero: object, array: ForeignArray, axis: int | None) -> list[StackChannel]:
    """What section "omero" says of the channels, as far as it is sensible."""
    listed = omero.get("channels") if isinstance(omero, dict) else None
    count = 1 if axis is None else array.shape[axis]
    found = []
    for channel in listed[:count] if isinstance(listed, list) else []:
        facts = channel if isinstance(channel, dict) else {}
        label, colour, window = facts.get("label"), facts.get("color"), facts.get("window")
        parts = None
        if isinstance(colour, str) and _COLOUR.fullmatch(colour.removeprefix("#")[:6]):
            red, green, blue = bytes.fromhex(colour.removeprefix("#")[:6])
            parts = (red, green, blue)
        name = label[:MOST_NAME] if isinstance(label, str) and label else None
        found.append(StackChannel(name, parts, _window(window)))
    return found


def _window(window: object) -> tuple[float, float] | None:
    limits = [window.get("start"), window.get("end")] if isinstance(window, dict) else []
    numbers = [
        float(limit)
        for limit in limits
        if isinstance(limit, int | float) and not isinstance(limit, bool) and _small(limit)
    ]
    return (numbers[0], numbers[1]) if len(numbers) == 2 and numbers[0] < numbers[1] else None


def _small(value: float) -> bool:
    """Whether a number is one that a display can mean: finite, and a double."""
    return -sys.float_info.max <= value <= sys.float_info.max
