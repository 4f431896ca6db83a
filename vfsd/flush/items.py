"""What a flush is to store: one item a file, and how its bytes are read.

An item's bytes come from a tier file (dirty), from the source (ingest), or from the store itself (a stored file whose
place changes because it was renamed). Items are read in worker threads; they hold paths, descriptors and values, never
nodes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import final

import numpy as np
import xxhash

from vfsd.errors import StoredDataDamaged
from vfsd.images import NotRebuildable, TiffLayout, analyse_tiff, read_description
from vfsd.images.decode import UndecodableImage, declared_planes
from vfsd.plates import DESCRIPTION_LIMIT, PageOffset, page_offsets
from vfsd.store import InodeRecord
from vfsd.store.scratch import borrow
from vfsd.store.stored import StoredFile

# Files up to this are read whole, in one go, into a buffer of their size: digest and planes from one pass over the
# bytes. Larger ones (multi-page) are read plane by plane after a pass for the digest.
WHOLE_FILE = 64 << 20
# Pieces in which larger files are read for their digest.
PIECE = 8 << 20
# Seconds for which a file of the source has to be unchanged until it is taken for complete. An acquisition may pause
# within a field for as long as a stage and a filter wheel move.
QUIET_IN_SOURCE = 10.0
# Pixels of a compressed file are held decoded in memory while they are stored.
DECODED_MOST = 1 << 30

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class ItemChanged(Exception):
    """The file changed while it was read, or is not what it was when the flush began."""


@final
@dataclass(slots=True)
class Item:
    """A file to be stored.

    Attributes
    ----------
    ino, path, size :
        Which file; `path` is where it belongs in the store.
    record : InodeRecord
        Attributes as they are to be committed.
    open_bytes : callable or None
        Opens the bytes for reading: a tier file, a source file, or a stored file's plain object. None for a file that is
        stored as planes.
    stored : StoredFile or None
        A stored file that is to move.
    seen : (int, int) or None
        Size and mtime (ns) that the source's file had when it was selected; None for any other.
    expected : bytes or None
        The digest that it must have, because it is stored in place of bytes that are damaged.
    version, changes : int
        Data version, and the tier file's count of changes, when the flush began.
    layout : TiffLayout or None
        Where the pixels lie, when planes can be kept apart from the skeleton.
    reason : str
        Why not, when `layout` is None.
    pages : list of (int, int, int) or None
        Of a file of several pages: where each lies, in channels, slices and time points from the first; None where its
        description contradicts the pages.
    unfinished : bool
        It is called a TIFF, and may be one of which the rest is still to be written.
    """

    ino: int
    path: bytes
    size: int
    record: InodeRecord
    open_bytes: Callable[[], int] | None = None
    stored: StoredFile | None = None
    seen: tuple[int, int] | None = None
    expected: bytes | None = None
    version: int = 0
    changes: int = 0
    layout: TiffLayout | None = None
    reason: str = "not a TIFF"
    decoded: tuple[int, int, str] | None = None
    pages: list[PageOffset] | None = None
    digest: bytes | None = None
    unfinished: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def ingested(self) -> bool:
        """Whether the bytes are the source's."""
        return self.seen is not None

    @contextlib.contextmanager
    def opened(self) -> Iterator[int]:
        """The bytes' descriptor; a stored file is rebuilt into an anonymous one."""
        if self.open_bytes is not None:
            fd = self.open_bytes()
        else:
            assert self.stored is not None
            fd = os.memfd_create("vfsd-moving", os.MFD_CLOEXEC)
            try:
                self.stored.rebuild(fd)
            except BaseException:
                os.close(fd)
                raise
        try:
            yield fd
        finally:
            os.close(fd)

    def analyse(self) -> None:
        """Find out whether the file is a TIFF whose planes can be stored apart, or at least shown.

        Raises
        ------
        OSError
            The file cannot be read.
        """
        if self.stored is not None and self.stored.skeleton is not None:
            skeleton = self.stored.skeleton
            self.layout = skeleton.layout
            if self.layout.plane_count > 1:
                # not rebuilt for this: all that is no pixel is at hand, and the description in it
                begin = max(0, skeleton.rest.find(b"ImageJ=", 0, DESCRIPTION_LIMIT))
                self.pages = page_offsets(skeleton.rest[begin : begin + DESCRIPTION_LIMIT], self.layout.plane_count)
            return
        with self.opened() as fd:
            magic = os.pread(fd, 4, 0)
            if magic not in _MAGIC:
                # made, or given its length, and nothing written yet
                self.unfinished = not magic.strip(b"\0") and self.path.lower().endswith((b".tif", b".tiff"))
                return
            try:
                self.layout = analyse_tiff(fd)
                if self.layout.plane_count > 1:
                    description = read_description(fd, DESCRIPTION_LIMIT)
                    self.pages = page_offsets(description, self.layout.plane_count)
            except NotRebuildable as problem:
                self.reason = problem.reason
                self.unfinished = problem.unfinished
                self._look_into(fd)

    def refuse_unfinished(self, now_ns: int, *, at_rest: bool) -> None:
        """A file of the source that is being written just now is not taken in yet.

        Parameters
        ----------
        now_ns : int
            The time, ns since the epoch.
        at_rest : bool
            Whether a file that has not changed lately is as complete as it will be.

        Raises
        ------
        ItemChanged
            It is an unfinished TIFF.
        """
        if (
            self.seen is not None
            and self.unfinished
            and not (at_rest and now_ns - self.seen[1] >= QUIET_IN_SOURCE * 1e9)
        ):
            raise ItemChanged("is a TIFF that is not complete yet")

    def _look_into(self, fd: int) -> None:
        """Height, width and dtype of a compressed file of one plane, so that a plate can show it; decodes nothing yet."""
        try:
            planes = declared_planes(fd, DECODED_MOST)
        except (NotRebuildable, UndecodableImage) as problem:
            self.notes.append(str(problem))
            return
        if len(planes) == 1 and len(planes[0].shape) == 2:
            height, width = planes[0].shape
            self.decoded = (height, width, planes[0].dtype.name)

    def read_whole(self) -> memoryview:
        """All bytes in one buffer, with their digest; for files of up to `WHOLE_FILE`. Until this thread reads the next.

        Raises
        ------
        ItemChanged
            The file is not as long as it was.
        StoredDataDamaged
            A stored file is not what it was when it was stored.
        """
        with self.opened() as fd:
            out = borrow("file", self.size)
            _read_exactly(fd, out, 0)
            if os.fstat(fd).st_size != self.size:
                raise ItemChanged("changed while it was being stored")
        self._take_digest(xxhash.xxh3_128_digest(out))
        return out

    def pieces(self, fd: int) -> Iterator[memoryview]:
        """All bytes of an open item in pieces, each valid until the next; sets the digest at the end. Raises as `read_whole`."""
        hasher = xxhash.xxh3_128()
        buffer = np.empty(min(PIECE, max(1, self.size)), np.uint8).data
        for offset in range(0, self.size, PIECE):
            piece = buffer[: min(PIECE, self.size - offset)]
            _read_exactly(fd, piece, offset)
            hasher.update(piece)
            yield piece
        if os.fstat(fd).st_size != self.size:
            raise ItemChanged("changed while it was being stored")
        self._take_digest(hasher.digest())

    def _take_digest(self, digest: bytes) -> None:
        """A stored file that no longer matches its digest must not get a new one that its damage matches."""
        if self.stored is not None and digest != self.stored.record.digest:
            raise StoredDataDamaged("does not match its digest", path=self.path)
        if self.expected is not None and digest != self.expected:
            raise ItemChanged("is not in the source any more as it was stored")
        self.digest = digest


def _read_exactly(fd: int, out: memoryview, offset: int) -> None:
    done = 0
    while done < len(out):
        got = os.preadv(fd, [out[done:]], offset + done)
        if got == 0:
            raise ItemChanged("became shorter while it was being stored")
        done += got
