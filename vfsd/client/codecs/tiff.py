"""`.tif` and `.tiff`: any image, with ImageJ's or OME's metadata; uncompressed ones are decoded without a copy.

Only headers are read in this process, by tifffile's Python. Compressed pixels are decoded in a process of their own
(`vfsd.images.decode`), since damaged data crash the native decoders.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from vfsd.client.codecs.arrays import host_array, is_array
from vfsd.client.codecs.codec import Codec, Part
from vfsd.errors import DamagedFile, UnfitData, UsageProblem

if TYPE_CHECKING:
    import tifffile

_MAGIC: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


class _ViewFile(io.RawIOBase):
    """Bytes as a file, without copying them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._position = 0

    def let_go(self) -> None:
        """tifffile's objects hold each other, and so this, until they are collected: the bytes are not to wait for that."""
        self._data = memoryview(b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: len(self._data)}[whence]
        if base + offset < 0:
            raise OSError("before the beginning of the file")
        self._position = base + offset
        return self._position

    def readinto(self, target: Any) -> int:
        view = memoryview(target).cast("B")
        part = self._data[self._position : self._position + len(view)]
        view[: len(part)] = part
        self._position += len(part)
        return len(part)


@contextmanager
def _opened(data: memoryview) -> Iterator[tifffile.TiffFile]:
    """A TIFF's headers; of an OME-TIFF that names other files only this one is meant."""
    import tifffile

    file = _ViewFile(data)
    try:
        with tifffile.TiffFile(cast("IO[bytes]", file), _multifile=False) as opened:
            yield opened
    finally:
        file.let_go()


def _encode(data: Any, **options: Any) -> Sequence[Part]:
    import tifffile

    array = host_array(data)
    if array.ndim < 2 or array.size == 0:
        raise UnfitData(f"an array of shape {array.shape} is no image", remedy="Save it as .npy")
    target = io.BytesIO()
    byteorder: Literal[">", "<"] = ">" if array.dtype.byteorder == ">" else "<"
    options.setdefault(
        "photometric",
        "rgb" if array.dtype == np.uint8 and array.shape[-1] in (3, 4) and array.ndim == 3 else "minisblack",
    )
    if options.get("imagej") and byteorder == "<":
        byteorder = ">"  # ImageJ's own
        array = array.astype(array.dtype.newbyteorder(">"))
    try:
        tifffile.imwrite(target, array, byteorder=byteorder, **options)
    except TypeError as error:
        raise UsageProblem(f"a TIFF cannot be made with these options ({error})") from error
    except (ValueError, KeyError) as error:
        raise UnfitData(
            f"an array of shape {array.shape} and type {array.dtype} makes no such TIFF ({error})"
        ) from error
    made = target.getbuffer()
    if options.get("compression"):
        _check_readable(made)
    return [made]


def _check_readable(made: memoryview) -> None:
    """tifffile writes compressions that no decoder here is trusted with: such a file would be saved, and never loaded."""
    try:
        _decode(made)
    except DamagedFile as error:
        raise UnfitData(
            f"would be a TIFF that cannot be loaded again ({error.message})", remedy="Choose zlib, lzw or zstd, or none"
        ) from error


def _decode(data: memoryview) -> NDArray[Any]:
    try:
        with _opened(data) as opened:
            series = opened.series[0]
            offset, shape, dtype, order = series.dataoffset, series.shape, series.dtype, opened.byteorder
            bilevel = series.keyframe.bitspersample == 1
            if dtype is None:
                raise ValueError("its samples are of no known type")
            size = math.prod(shape) * dtype.itemsize
            if dtype.kind == "c" and series.keyframe.compression == 1 and size <= len(data):
                # tifffile maps no complex pixels, and reads those that are not compressed by numpy alone
                return np.asarray(series.asarray())
            if offset is not None and not bilevel:
                return np.frombuffer(data, dtype.newbyteorder(order), math.prod(shape), offset).reshape(shape)
    except Exception as error:  # a damaged header fails wherever tifffile believes it
        raise DamagedFile(f"is no TIFF that can be read ({error})") from error
    pixels = _decoded_apart(data)
    try:
        found = np.stack(pixels) if len(pixels) > 1 else pixels[0]
        found = found.reshape(shape)
    except ValueError:
        found = pixels[0]  # of pages that do not go together the first one, as tifffile does
    return found.astype(np.bool_) if bilevel else found


def _decoded_apart(data: memoryview) -> list[NDArray[Any]]:
    from vfsd.images import UndecodableImage, decode_tiff

    fd = os.memfd_create("vfsd-tiff", os.MFD_CLOEXEC)
    try:
        left = data
        while left.nbytes:
            left = left[os.write(fd, left) :]
        return decode_tiff(fd)
    except UndecodableImage as error:
        raise DamagedFile(f"its pixels cannot be decoded: {error.reason}") from error
    finally:
        os.close(fd)


def read_metadata(data: memoryview) -> dict[str, Any]:
    """What a TIFF says of itself: axes, shape, and "imagej" (a dict), "ome" (XML) or "description" where it has them."""
    try:
        with _opened(data) as opened:
            series = opened.series[0]
            found: dict[str, Any] = {"axes": series.axes, "shape": tuple(series.shape), "pages": len(opened.pages)}
            if opened.imagej_metadata:
                found["imagej"] = dict(opened.imagej_metadata)
            if opened.ome_metadata:
                found["ome"] = opened.ome_metadata
            elif opened.pages.first.description:
                found["description"] = opened.pages.first.description
            return found
    except Exception as error:
        raise DamagedFile(f"is no TIFF that can be read ({error})") from error


CODECS: Final = (Codec("tiff", (".tif", ".tiff"), is_array, _encode, _decode, _MAGIC),)
