"""What a flush was asked for, and how thoroughly what it writes is to be looked at before anything is given up for it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import final

from vfsd.plates import PlateFormats


@final
class Verify(StrEnum):
    """What is done, before the commit, with what was written.

    Full: read back from the disk, every file rebuilt and compared. Digest: read back, and compared with what was
    written; nothing is rebuilt. Off: neither; a receipt then never says that the source may go.
    """

    FULL = "full"
    DIGEST = "digest"
    OFF = "off"

    @property
    def told(self) -> str:
        """For the receipt."""
        return _TOLD[self]


_TOLD = {
    Verify.FULL: "rebuilt from the store and compared",
    Verify.DIGEST: "read back from the store: it has the digest of what was written; not rebuilt",
    Verify.OFF: "not verified",
}


@final
@dataclass(frozen=True, slots=True)
class Repair:
    """What of a store is to be made again.

    Attributes
    ----------
    files : dict
        Inode → path in the source of each damaged file whose bytes the source still has; None for a compressed image that
        is whole and of which only the decoded pixels are damaged.
    levels : collection of bytes
        Keys of damaged shards of the images' levels.
    objects : collection of bytes
        Keys of damaged metadata (`zarr.json`).
    """

    files: dict[int, bytes | None] = field(default_factory=dict)
    levels: Collection[bytes] = ()
    objects: Collection[bytes] = ()


@final
@dataclass(frozen=True, slots=True)
class FlushOrder:
    """The parameters of `flush_tree`, which explains them; with `repair` nothing but that is done."""

    formats: PlateFormats
    paths: Sequence[bytes] | None = None
    ingest: bool = False
    only: Collection[int] | None = None
    levels: int | None = None
    verify: Verify = Verify.FULL
    repair: Repair | None = None
    archive: bool = False
