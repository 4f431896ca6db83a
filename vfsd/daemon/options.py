"""What somebody asked for when mounting: the values of `vfsd mount`, not yet checked against the machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MountOptions:
    """One `vfsd mount`. Paths are absolute; sizes are in bytes, None meaning "choose for me"."""

    source: Path
    """The plate, or a store that is to be mounted alone."""
    mountpoint: Path
    store: Path | None = None
    ingest: bool = False
    ram: int | None = None
    ram_dir: Path | None = None
    cache_dir: Path | None = None
    cache_size: int | None = None
    keep_in_ram: int | None = None
    stream_above: int | None = None
    read_only: bool = False
    allow_other: bool = False
    prefetch: bool = True
    foreground: bool = False
    transport: str = "auto"
    plate_format: str | None = None
    """The instrument that took the plate, None meaning "find out"."""
    pattern: str | None = None
    """What names mean, instead of an instrument's."""
    labels: str | None = None
    """Which names are those of label images, instead of the usual ones."""
    archive: bool = False
    """Whether new images are compressed for few bytes rather than for speed."""
    levels: int | None = None
    """How many times new images are halved for viewers; None: until they are small."""
    zarr_as: str | None = None
    """How to show a source that is OME-Zarr: "tiff" or "files"; None: as its store has it, else as TIFFs."""
    verify: str = "full"
    """What is done with what a flush wrote before anything is given up for it: "full", "digest" or "off"."""
    fuse_options: tuple[str, ...] = ()
    """Further options for the kernel, such as "noatime"; never those that have a field of their own."""
