"""The layout of a demo plate: which wells, fields and planes, in which folders, and its HTD.

A plan that exists is valid: its numbers are in range and every name in it is one that `imagexpress`
recognises. Nothing is written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from vfsd.errors import UsageProblem
from vfsd.plates.demo_scene import PIXEL_UM, stain_of
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, PLATE_FORMATS, row_index

# The largest plane: beyond any camera, and the canvas of it still fits in 300 MB.
MAX_SIZE = 8192
# The smallest plane that still shows a cell.
MIN_SIZE = 16
# Beyond these nobody means it; the names stay inside what is recognised.
MAX_FIELDS = 9_999
MAX_CHANNELS = 99
MAX_STEPS = 9_999

# µm from well to well by columns of the plate (ANSI/SLAS 4-2004: 9 mm for 96 wells).
_PITCH_UM = {3: 39_120, 4: 26_000, 6: 19_300, 8: 13_000, 12: 9_000, 24: 4_500, 48: 2_250}
# Smaller formats exist, but a demo of a few wells looks familiar on 96.
_SMALLEST_FORMAT = (8, 12)
_Z_STEP_UM = 3.0
_FOCUS_UM = 9_990.0

_WELL = re.compile(r"([A-Za-z]{1,2})(\d{1,2})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .-]{0,99}", re.ASCII)


@dataclass(frozen=True, slots=True)
class DemoPlan:
    """The plate to write. Rows and columns are 0-based; fields, time points and steps count from 1."""

    name: str
    wells: tuple[tuple[int, int], ...]
    plate_format: tuple[int, int]
    fields: int
    channels: int
    z: int
    size: int
    dtype: np.dtype[Any]
    time_points: int
    seed: int

    @property
    def images(self) -> int:
        return len(self.wells) * self.fields * self.images_per_field

    @property
    def images_per_field(self) -> int:
        return self.channels * self.z * self.time_points

    def planes(self) -> Iterator[tuple[int, int, int]]:
        """Time point, step and channel of each plane of a field, in the order of the acquisition."""
        return product(range(1, self.time_points + 1), range(1, self.z + 1), range(1, self.channels + 1))

    @property
    def pixel_bytes(self) -> int:
        return self.size * self.size * self.dtype.itemsize

    def folders(self) -> Iterator[str]:
        """Relative folders that get an HTD, parents first; "" is the plate's own."""
        yield ""
        for time in range(1, self.time_points + 1):
            yield f"TimePoint_{time}"
            if self.z > 1:
                yield from (f"TimePoint_{time}/ZStep_{z}" for z in range(1, self.z + 1))

    def image_folder(self, time: int, z: int) -> str:
        """Where the images of a time point and z step (1-based) lie."""
        return f"TimePoint_{time}/ZStep_{z}" if self.z > 1 else f"TimePoint_{time}"

    def dose(self, column: int) -> float:
        """0 in the first of the used columns to 1 in the last."""
        columns = sorted({c for _, c in self.wells})
        return columns.index(column) / max(1, len(columns) - 1)

    def stage_um(self, row: int, column: int, site: int, z: int) -> tuple[float, float, float]:
        """Where the stage is (x, y, z): wells by the plate's pitch, sites as squares from left to right."""
        pitch = _PITCH_UM[self.plate_format[1]]
        across = _sites_across(self.fields)
        step = self.size * PIXEL_UM
        site_y, site_x = divmod(site - 1, across)
        return (
            column * pitch + (site_x - (across - 1) / 2) * step,
            row * pitch + (site_y - (across - 1) / 2) * step,
            _FOCUS_UM + (z - 1) * _Z_STEP_UM,
        )

    def htd(self) -> bytes:
        """The HTD, with the lines that MetaXpress 6 writes."""
        rows, columns = self.plate_format
        used = set(self.wells)
        across = _sites_across(self.fields)
        down = -(-self.fields // across)
        lines = [
            '"HTSInfoFile", Version 1.0',
            f'"Description", "Simulated by vfsd demo-plate, {PIXEL_UM} µm a pixel"',
            f'"TimePoints", {self.time_points}',
            f'"ZSeries", {_flag(self.z > 1)}',
            f'"ZSteps", {self.z if self.z > 1 else 0}',
            '"ZProjection", FALSE',
            f'"XWells", {columns}',
            f'"YWells", {rows}',
            *(
                f'"WellsSelection{row + 1}", ' + ", ".join(_flag((row, column) in used) for column in range(columns))
                for row in range(rows)
            ),
            f'"Sites", {_flag(self.fields > 1)}',
            f'"XSites", {across}',
            f'"YSites", {down}',
            *(
                f'"SiteSelection{y + 1}", ' + ", ".join(_flag(y * across + x < self.fields) for x in range(across))
                for y in range(down)
            ),
            '"Waves", TRUE',
            f'"NWavelengths", {self.channels}',
            *(f'"WaveName{c + 1}", "{stain_of(c).name}"' for c in range(self.channels)),
            *(f'"WaveCollect{c + 1}", 1' for c in range(self.channels)),
            '"EndFile"',
        ]
        return ("\r\n".join(lines) + "\r\n").encode("latin-1")


def plan_demo_plate(
    wells: int | Sequence[str],
    fields: int,
    channels: int,
    z: int,
    size: int,
    dtype: str,
    time_points: int,
    seed: int,
    name: str,
) -> DemoPlan:
    """A plan for what `write_demo_plate` was asked for; UsageProblem says what cannot be had."""
    for value, what, smallest, largest in (
        (fields, "fields", 1, MAX_FIELDS),
        (channels, "channels", 1, MAX_CHANNELS),
        (z, "z steps", 1, MAX_STEPS),
        (size, "pixels a side", MIN_SIZE, MAX_SIZE),
        (time_points, "time points", 1, MAX_STEPS),
        (seed, "as seed", 0, 2**63),
    ):
        if not smallest <= value <= largest:
            raise UsageProblem(f"{value} {what}: a demo plate has {smallest} to {largest}")
    if dtype not in ("uint8", "uint16"):
        raise UsageProblem(f"a demo plate's pixels are uint8 or uint16, not {dtype!r}")
    if not _NAME.fullmatch(name):
        raise UsageProblem(f"{name!r} cannot be a plate's name: letters, digits, spaces, dots and dashes")
    places = _block_of_wells(wells) if isinstance(wells, int) else _named_wells(wells)
    rows, columns = 1 + max(row for row, _ in places), 1 + max(column for _, column in places)
    plate_format = next(f for f in PLATE_FORMATS if f >= _SMALLEST_FORMAT and f[0] >= rows and f[1] >= columns)
    pixels: np.dtype[np.uint8] | np.dtype[np.uint16] = np.dtype("<u2") if dtype == "uint16" else np.dtype("u1")
    return DemoPlan(name, places, plate_format, fields, channels, z, size, pixels, time_points, seed)


def _block_of_wells(count: int) -> tuple[tuple[int, int], ...]:
    """So many wells as a block that is wider than high, on the smallest plate that holds them.

    The rim of the plate stays free where it can, as assays leave it: 12 wells are B02 to D05.
    """
    if not 1 <= count <= MAX_ROWS * MAX_COLUMNS:
        raise UsageProblem(f"{count} wells: a plate has 1 to {MAX_ROWS * MAX_COLUMNS}")
    rows, columns = next(f for f in PLATE_FORMATS if f >= _SMALLEST_FORMAT and f[0] * f[1] >= count)
    rim = 1 if count <= (rows - 2) * (columns - 2) else 0
    widest = columns - 2 * rim
    width = next(w for w in range(1, widest + 1) if 2 * w * w >= 3 * count or w == widest)
    # A block without a ragged last row where a width nearby allows it.
    width = next((w for w in range(max(1, width - 1), widest + 1) if count % w == 0), width)
    if -(-count // width) > rows - 2 * rim:
        width = widest
    return tuple((rim + i // width, rim + i % width) for i in range(count))


def _named_wells(names: Sequence[str]) -> tuple[tuple[int, int], ...]:
    places: dict[tuple[int, int], None] = {}
    for name in names:
        match = _WELL.fullmatch(name)
        try:
            row = row_index(match[1]) if match else MAX_ROWS
        except ValueError:
            row = MAX_ROWS
        if match is None or row == MAX_ROWS or not 1 <= int(match[2]) <= MAX_COLUMNS:
            raise UsageProblem(f"{name!r} is no well of a plate: A01 to AF48")
        places[row, int(match[2]) - 1] = None
    if not places:
        raise UsageProblem("a demo plate has at least one well")
    return tuple(sorted(places))


def _sites_across(fields: int) -> int:
    return next(n for n in range(1, fields + 1) if n * n >= fields)


def _flag(value: bool) -> str:
    return "TRUE" if value else "FALSE"
