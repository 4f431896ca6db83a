"""A simulated plate that looks like a real one, to try things on.

Written as MetaXpress exports: `TimePoint_1/[ZStep_1/]demo_B02_s1_w1.TIF` with an HTD in every folder. The
same seed and sizes give the same bytes (with the same version of numpy), wherever it is written. Columns are
a dose series: to the right fewer cells survive and the second channel lights up. It writes into a new or
empty folder only, never over anything, and one plane at a time: memory does not grow with the plate.

One thread of its own writes a plane while the next is drawn; the two share nothing but the plane handed over.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from vfsd.errors import UnfitError, VfsdError
from vfsd.plates.demo_plan import DemoPlan, plan_demo_plate
from vfsd.plates.demo_scene import PIXEL_UM, Scene, stain_of
from vfsd.plates.demo_tiff import PlaneLabel, pack_header, pack_tail
from vfsd.plates.model import row_name

# Files done, files in all, bytes done.
OnProgress = Callable[[int, int, int], None]

# Two planes: one is drawn while the other is written.
_BUFFERS = 2

_SECONDS_A_PLANE = 0.35
_SECONDS_A_TIME_POINT = 3600


@dataclass(frozen=True, slots=True)
class DemoPlate:
    """What was written.

    Parameters
    ----------
    directory : Path
        The plate's folder.
    name : str
        The plate's name in the names of its files.
    wells : tuple of str
        In the order in which they were written.
    files, images : int
        All files, and those of them that are images.
    bytes : int
        The size of all files together.
    """

    directory: Path
    name: str
    wells: tuple[str, ...]
    files: int
    images: int
    bytes: int


def write_demo_plate(
    directory: Path,
    *,
    wells: int | Sequence[str] = 12,
    fields: int = 2,
    channels: int = 3,
    z: int = 1,
    size: int = 512,
    dtype: str = "uint16",
    time_points: int = 1,
    seed: int = 0,
    name: str = "demo",
    on_progress: OnProgress | None = None,
) -> DemoPlate:
    """Write a simulated plate; the default has 72 images in 38 MB.

    Parameters
    ----------
    directory : Path
        Is made, with its parents; or is there and empty.
    wells : int or sequence of str
        How many, laid out as a block on a plate of 96, 384 or 1536 wells; or which ("B02").
    fields, channels, z, time_points : int
        How many of each.
    size : int
        Height and width of an image in px.
    dtype : str
        "uint16" or "uint8".
    seed : int
        Other seeds give other plates.
    name : str
        The plate's name in the names of its files.
    on_progress : callable, optional
        Called after each field with files done, files in all, and bytes done.

    Raises
    ------
    UsageProblem
        A number is out of range, a well does not exist.
    UnfitError
        The directory is not empty or cannot be made, or the disk has no room for the plate.
    VfsdError
        Writing failed half-way; what was written stays, and the error names it.
    """
    plan = plan_demo_plate(wells, fields, channels, z, size, dtype, time_points, seed, name)
    _prepare_directory(directory, plan)
    output = _Output(directory)
    try:
        with output.writing():
            _write_plate(plan, output, on_progress)
    except OSError as error:
        raise _write_failure(error, directory, output.files, plan) from error
    names = tuple(f"{row_name(row)}{column + 1:02d}" for row, column in plan.wells)
    return DemoPlate(directory, plan.name, names, output.files, plan.images, output.bytes)


def _prepare_directory(directory: Path, plan: DemoPlan) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        if any(directory.iterdir()):
            raise UnfitError(
                "it is not empty, and a demo plate is never written over anything",
                path=directory,
                remedy="Name a folder that does not exist yet",
            )
        disk = os.statvfs(directory)
    except OSError as error:
        raise UnfitError(f"the folder cannot be made: {error.strerror}", path=directory) from error
    needed, free = plan.images * plan.pixel_bytes, disk.f_bavail * disk.f_frsize
    # Some network file systems report 0 for what they do not know; writing will tell.
    if 0 < free < needed:
        raise UnfitError(
            f"the plate needs {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free there",
            path=directory,
            remedy="Ask for fewer wells or fields, or name another disk",
        )


def _write_failure(error: OSError, directory: Path, files: int, plan: DemoPlan) -> VfsdError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    cause = "the disk is full" if full else f"writing failed: {error.strerror}"
    return VfsdError(
        f"{cause}; the demo plate is not complete: {files} files are there, and it has {plan.images} images",
        path=directory,
        remedy="Delete this folder, then ask for fewer wells or fields, or name another disk",
    )


def _write_plate(plan: DemoPlan, output: _Output, on_progress: OnProgress | None) -> None:
    """Folders and HTDs first, as the instrument does, then field by field."""
    htd = plan.htd()
    folders = list(plan.folders())
    for folder in folders:
        output.make_folder(folder)
        output.write(f"{folder}/{plan.name}.HTD" if folder else f"{plan.name}.HTD", [htd])
    total = plan.images + len(folders)
    scene = Scene(plan.size, plan.channels, plan.z, plan.dtype, plan.seed)
    buffers = [np.empty((plan.size, plan.size), plan.dtype) for _ in range(_BUFFERS)]
    planes_before = 0
    for row, column in plan.wells:
        for site in range(1, plan.fields + 1):
            _write_field(plan, output, scene, buffers, row, column, site, planes_before)
            planes_before += plan.images_per_field
            if on_progress is not None:
                on_progress(output.files, total, output.bytes)
    output.wait_for_files(0)
    if on_progress is not None:
        on_progress(output.files, total, output.bytes)


def _write_field(
    plan: DemoPlan,
    output: _Output,
    scene: Scene,
    buffers: list[NDArray[Any]],
    row: int,
    column: int,
    site: int,
    planes_before: int,
) -> None:
    rng = np.random.default_rng([plan.seed, row, column, site])
    # A dose-response curve; fields scatter about it by a tenth.
    effect = float(1.0 / (1.0 + np.exp(-9.0 * (plan.dose(column) - 0.55))))
    survival = float(np.clip((1.0 - 0.85 * effect) * rng.normal(1.0, 0.1), 0.05, 1.2))
    cells = scene.scatter_cells(rng, survival)
    header = pack_header(plan.pixel_bytes)
    well = f"{row_name(row)}{column + 1:02d}"
    plane = planes_before
    for time, z, channel in plan.planes():
        stain = stain_of(channel - 1)
        pixels = buffers[plane % _BUFFERS]
        output.wait_for_files(_BUFFERS - 1)
        scene.draw_plane(pixels, rng, cells, channel=channel - 1, z=z - 1, time=time - 1, response=effect)
        label = PlaneLabel(
            plate=plan.name,
            well=well,
            site=site,
            channel=stain.name,
            wavelength_nm=stain.wavelength_nm,
            pixel_um=PIXEL_UM,
            stage_um=plan.stage_um(row, column, site, z),
            seconds=(time - 1) * _SECONDS_A_TIME_POINT + plane * _SECONDS_A_PLANE,
            guid=f"{{{UUID(bytes=rng.bytes(16), version=4)}}}".upper(),
        )
        tail = pack_tail(plan.size, plan.size, 8 * plan.dtype.itemsize, label)
        name = f"{plan.image_folder(time, z)}/{plan.name}_{well}_s{site}_w{channel}.TIF"
        output.write(name, [header, pixels.data.cast("B"), tail])
        plane += 1


class _Output:
    """Writes files below a directory, in order, on a thread of its own; counts those that are complete."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._pending: deque[Future[int]] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self.files = 0
        self.bytes = 0

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Within, files can be written; at its end all are, or the first failure is raised."""
        with ThreadPoolExecutor(1, thread_name_prefix="demo-plate") as self._thread:
            yield
            self.wait_for_files(0)

    def make_folder(self, name: str) -> None:
        """Make a folder, whose parent is there; "" is the directory itself."""
        (self._directory / name).mkdir(exist_ok=True)

    def write(self, name: str, pieces: Sequence[bytes | memoryview]) -> None:
        """Hand over one new file; its pieces must not change until it is written."""
        assert self._thread is not None
        self._pending.append(self._thread.submit(_write_file, self._directory / name, pieces))

    def wait_for_files(self, pending: int) -> None:
        """Wait until no more than so many files are still to be written.

        Raises
        ------
        OSError
            One of them could not be written.
        """
        while len(self._pending) > pending:
            self.bytes += self._pending.popleft().result()
            self.files += 1


def _write_file(path: Path, pieces: Sequence[bytes | memoryview]) -> int:
    """Write a new file in one go and return its size."""
    size = sum(map(len, pieces))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        written = os.writev(descriptor, pieces)
        if written < size:
            # A short count comes at the edge of a full disk; the next call then says why.
            rest = memoryview(b"".join(pieces))
            while written < size:
                written += os.write(descriptor, rest[written:])
    finally:
        os.close(descriptor)
    return size
