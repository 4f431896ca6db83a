"""What a synthesized TIFF says of its pixels: OME-XML, and ImageJ's description and metadata tags.

`StackFacts` is what is known; each format gets what it has a place for. All text is ASCII (OME-XML by character
references, ImageJ's labels by UTF-16 in its own tag), without a character that XML forbids.
"""

from __future__ import annotations

import functools
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np

from vfsd.images.synthesis import Stack, SynthesisError

# Pixel types of OME-XML 2016-06 by numpy's kind and bytes; there is none of 64-bit integers.
OME_TYPES: Final = {
    **{f"u{size}": f"uint{8 * size}" for size in (1, 2, 4)},
    **{f"i{size}": f"int{8 * size}" for size in (1, 2, 4)},
    "f4": "float",
    "f8": "double",
}
OME: Final = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
# An XML element for each: what has more is no image of channels, and the document would not fit into memory.
MOST_CHANNELS: Final = 65_536
# A label for each slice costs its bytes in the header; ImageJ shows them one at a time.
MOST_LABELS: Final = 10_000
# ImageJ composes at most seven channels (CompositeImage.MAX_CHANNELS).
MOST_COMPOSED: Final = 7

_FORBIDDEN: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ENTITIES: Final = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
# The version of ImageJ whose format this is.
IMAGEJ_VERSION: Final = "1.53t"


@final
@dataclass(frozen=True, slots=True)
class StackChannel:
    """One channel: its name, its colour (red, green, blue), what is shown as black and as full colour."""

    name: str | None = None
    colour: tuple[int, int, int] | None = None
    window: tuple[float, float] | None = None


@final
@dataclass(frozen=True, slots=True)
class StackFacts:
    """What is known of a stack. Pixel sizes are (y, x) in µm, times in seconds; None: not known."""

    name: str
    channels: Sequence[StackChannel] = ()
    pixel_size_um: tuple[float, float] | None = None
    z_step_um: float | None = None
    time_step_s: float | None = None

    def channel(self, number: int) -> StackChannel:
        """A channel's facts; empty ones where none are known."""
        return self.channels[number] if number < len(self.channels) else StackChannel()


def ome_xml(stack: Stack, facts: StackFacts, creator: str) -> bytes:
    """The OME-XML of a stack of which each plane has a directory, in the order XYZCT; ASCII.

    Raises
    ------
    SynthesisError
        OME has no such pixels, or the image has too many channels.
    """
    pixel_type = OME_TYPES.get(stack.dtype.str[1:])
    if pixel_type is None:
        raise SynthesisError(f"OME-TIFF knows no pixels of type {stack.dtype.name}")
    if stack.channels > MOST_CHANNELS:
        raise SynthesisError(f"{stack.channels} channels are more than the {MOST_CHANNELS} that fit into its metadata")
    sizes: dict[str, object] = {
        "ID": "Pixels:0",
        "DimensionOrder": "XYZCT",
        "Type": pixel_type,
        "SizeX": stack.width,
        "SizeY": stack.height,
        "SizeZ": stack.slices,
        "SizeC": stack.channels,
        "SizeT": stack.times,
        "BigEndian": "false",
        "Interleaved": "false",
    }
    if facts.pixel_size_um is not None:
        sizes |= _length("X", facts.pixel_size_um[1]) | _length("Y", facts.pixel_size_um[0])
    if facts.z_step_um is not None:
        sizes |= _length("Z", facts.z_step_um)
    if facts.time_step_s is not None:
        sizes |= {"TimeIncrement": repr(facts.time_step_s), "TimeIncrementUnit": "s"}
    channels = "".join(_ome_channel(number, facts.channel(number)) for number in range(stack.channels))
    document = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f'<OME xmlns="{OME}" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" '
        f'xsi:schemaLocation="{OME} {OME}/ome.xsd"{_attributes({"Creator": creator})}>'
        f"<Image{_attributes({'ID': 'Image:0', 'Name': facts.name})}><Pixels{_attributes(sizes)}>{channels}"
        f'<TiffData IFD="0" PlaneCount="{stack.planes}"/></Pixels></Image></OME>'
    )
    return document.encode("ascii", "xmlcharrefreplace")


def _length(axis: str, value: float) -> dict[str, object]:
    return {f"PhysicalSize{axis}": repr(float(value)), f"PhysicalSize{axis}Unit": "µm"}


def _ome_channel(number: int, channel: StackChannel) -> str:
    facts: dict[str, object] = {"ID": f"Channel:0:{number}", "SamplesPerPixel": 1}
    if channel.name is not None:
        facts["Name"] = channel.name
    if channel.colour is not None:
        red, green, blue = channel.colour
        facts["Color"] = struct.unpack(">i", bytes((red, green, blue, 255)))[0]  # RGBA as a signed number
    return f"<Channel{_attributes(facts)}/>"


def _attributes(values: dict[str, object]) -> str:
    return "".join(
        f' {name}="{_FORBIDDEN.sub("?", str(value)).translate(_ENTITIES)}"' for name, value in values.items()
    )


def imagej_description(stack: Stack, facts: StackFacts) -> bytes:
    """The description by which ImageJ knows a hyperstack (ij.io.FileOpener and TiffEncoder); ASCII."""
    lines: list[tuple[str, object]] = [("ImageJ", IMAGEJ_VERSION), ("images", stack.planes)]
    sizes = (("channels", stack.channels), ("slices", stack.slices), ("frames", stack.times))
    lines += [(name, size) for name, size in sizes if size > 1]
    if stack.planes > 1:
        lines.append(("hyperstack", "true"))
    if stack.channels > 1:
        composed = stack.channels <= MOST_COMPOSED and stack.dtype.itemsize <= 2
        lines.append(("mode", "composite" if composed else "grayscale"))
    if facts.pixel_size_um is not None or facts.z_step_um is not None:
        lines.append(("unit", "micron"))
    if facts.z_step_um is not None and stack.slices > 1:
        lines.append(("spacing", repr(float(facts.z_step_um))))
    if facts.time_step_s is not None and stack.times > 1:
        lines.append(("finterval", repr(float(facts.time_step_s))))
    lines.append(("loop", "false"))
    window = facts.channel(0).window
    if window is not None:
        lines += [("min", repr(window[0])), ("max", repr(window[1]))]
    return "".join(f"{name}={value}\n" for name, value in lines).encode("ascii")


def imagej_metadata(stack: Stack, facts: StackFacts) -> tuple[list[int], bytes] | None:
    """Byte counts and bytes of ImageJ's own tags 50838 and 50839: labels, display ranges, colours; None without any.

    The format is that of ij.io.TiffEncoder.writeMetaData: "IJIJ", then type and count of each kind of entry, then the
    entries; numbers and type names in the byte order of the file, here little-endian.
    """
    kinds: list[tuple[bytes, list[bytes]]] = []
    channels = [facts.channel(number) for number in range(min(stack.channels, MOST_CHANNELS))]
    if any(channel.name for channel in channels) and stack.planes <= MOST_LABELS:
        names = [_FORBIDDEN.sub("?", channel.name or "") for channel in channels]
        kinds.append((b"labl", [names[number % stack.channels].encode("utf-16-le") for number in range(stack.planes)]))
    if stack.channels <= MOST_COMPOSED:
        windows = [channel.window for channel in channels]
        if all(window is not None for window in windows):
            ranges = [limit for window in windows if window is not None for limit in window]
            kinds.append((b"rang", [struct.pack(f"<{len(ranges)}d", *ranges)]))
        if all(channel.colour is not None for channel in channels):
            kinds.append((b"luts", [_lut(channel.colour) for channel in channels if channel.colour is not None]))
    if not kinds:
        return None
    header = b"JIJI" + b"".join(kind[::-1] + struct.pack("<I", len(entries)) for kind, entries in kinds)
    every = [entry for _, entries in kinds for entry in entries]
    return [len(header), *map(len, every)], header + b"".join(every)


@functools.lru_cache(maxsize=256)
def _lut(colour: tuple[int, int, int]) -> bytes:
    """ImageJ's look-up table from black to a colour: 256 reds, greens, blues."""
    steps = np.arange(256)
    return b"".join((steps * part // 255).astype(np.uint8).tobytes() for part in colour)


def sensible(value: Any) -> float | None:
    """A size or a step that can be written down: a positive, finite number; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and number > 0 else None
