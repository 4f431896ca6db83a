"""The same loads on the CPU: for machines without a GPU, and for arrays that the GPU does not decode.

`CpuLoader` takes what `vfsd.gpu.loader.Loader` takes and gives numpy. Chunks are decoded on threads, straight into the
result where they lie there in one piece. `read_by_zarr` is for arrays of any other kind: zarr-python knows them all.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from vfsd.codec import FrameError, decompress_into
from vfsd.gpu.chunks import ChunkFailure, Job, Piece, locate, open_file
from vfsd.gpu.loader import ChunksDamaged
from vfsd.gpu.selection import Selection


@final
class CpuLoader:
    """See the module."""

    def load(self, jobs: Sequence[Job], nbytes: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """As `Loader.load`; the result is numpy's."""
        content = np.empty(nbytes, np.uint8)
        holes = []
        failures: list[ChunkFailure] = []
        with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="vfsd-decode") as threads:
            running = []
            for found in locate(jobs):
                if isinstance(found, Piece):
                    running.append((found, threads.submit(_decode, found, content)))
                else:
                    holes.append(found)
            for piece, decoding in running:
                reason = decoding.result()
                if reason is not None:
                    holes.append(ChunkFailure(piece.job, piece.part, piece.path, reason))
        result = content.view(dtype)
        if not dtype.isnative:
            result = result.byteswap(inplace=True).view(dtype.newbyteorder("="))
        for hole in holes:
            _place(content, hole.job)[hole.part.target] = hole.job.layout.fill
        failures = [hole for hole in holes if isinstance(hole, ChunkFailure)]
        if failures:
            raise ChunksDamaged(tuple(failures), result)
        return result


def _place(content: NDArray[np.uint8], job: Job) -> NDArray[Any]:
    kind = job.layout.dtype.newbyteorder("=")
    size = math.prod(job.box.shape) * kind.itemsize
    return content[job.offset : job.offset + size].view(kind).reshape(job.box.shape)


def _decode(piece: Piece, content: NDArray[np.uint8]) -> str | None:
    """One chunk to its place; what is wrong with it, if anything."""
    layout, part = piece.job.layout, piece.part
    try:
        fd = open_file(piece.path)
        try:
            frame = os.pread(fd, piece.size, piece.offset)
        finally:
            os.close(fd)
        if part.offset is not None:
            begin = piece.job.offset + part.offset
            decompress_into(frame, content[begin : begin + layout.chunk_bytes].data)
            return None
        decoded = np.empty(layout.chunk_bytes, np.uint8)
        decompress_into(frame, decoded.data)
    except (OSError, FrameError) as error:
        return str(error)
    stored = tuple(layout.chunk_shape[axis] for axis in layout.order)
    elements = decoded.view(layout.dtype.newbyteorder("=")).reshape(stored).transpose(np.argsort(layout.order))
    _place(content, piece.job)[part.target] = elements[part.source]
    return None


def read_by_zarr(folder: Path, selection: Selection) -> NDArray[Any]:
    """A selection of an array of any kind, in native byte order."""
    import zarr

    array = zarr.open_array(str(folder), mode="r")
    result = np.asarray(array[selection])
    return np.ascontiguousarray(result, result.dtype.newbyteorder("="))
