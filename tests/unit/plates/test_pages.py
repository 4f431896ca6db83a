"""Files of several pages: which page is which plane, as ImageJ, OME-XML or nothing says."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from vfsd.plates import page_offsets

SIZES = st.fixed_dictionaries({axis: st.integers(1, 4) for axis in "czt"})


def description_of(array: np.ndarray[Any, Any], **options: Any) -> tuple[bytes, list[np.ndarray[Any, Any]]]:
    """The description that tifffile writes, and the pages in the file's order."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    buffer.seek(0)
    with tifffile.TiffFile(buffer) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        description = page.tags["ImageDescription"].value.encode()
        return description, list(file.asarray(key=slice(None)).reshape(-1, *array.shape[-2:]))


def numbered(sizes: dict[str, int], order: str) -> np.ndarray[Any, Any]:
    """Planes with the value 100 t + 10 c + z, in an order of axes."""
    t, c, z = np.meshgrid(*(np.arange(sizes[axis]) for axis in "tcz"), indexing="ij")
    values = (100 * t + 10 * c + z).transpose(["tcz".index(axis) for axis in order])
    return np.broadcast_to(values[..., None, None], (*values.shape, 8, 8)).astype(np.uint16)


def assert_offsets_find_the_values(description: bytes, pages: list[np.ndarray[Any, Any]]) -> None:
    offsets = page_offsets(description, len(pages))
    assert offsets is not None
    for (c, z, t), page in zip(offsets, pages, strict=True):
        assert page[0, 0] == 100 * t + 10 * c + z


@given(SIZES)
def test_hyperstacks_of_imagej(sizes: dict[str, int]) -> None:
    array = numbered(sizes, "tzc")
    assert_offsets_find_the_values(*description_of(array, imagej=True, metadata={"axes": "TZCYX"}))


@given(SIZES, st.sampled_from(["tcz", "tzc", "ctz", "czt", "ztc", "zct"]))
def test_ome_tiff_in_any_order(sizes: dict[str, int], order: str) -> None:
    array = numbered(sizes, order)
    assert_offsets_find_the_values(*description_of(array, ome=True, metadata={"axes": order.upper() + "YX"}))


def test_pages_without_a_description_are_slices() -> None:
    assert page_offsets(b"", 3) == [(0, 0, 0), (0, 1, 0), (0, 2, 0)]
    assert page_offsets(b"taken on a Tuesday", 2) == [(0, 0, 0), (0, 1, 0)]
    assert page_offsets(b"ImageJ=1.53\nimages=2\n", 2) == [(0, 0, 0), (0, 1, 0)]


@pytest.mark.parametrize(
    "description",
    [
        b"ImageJ=1.53\nimages=6\nchannels=2\nslices=3\n",
        b"ImageJ=1.53\nchannels=0\n",
        b"ImageJ=1.53\nchannels=999999999\nslices=999999999\n",
        b'<OME><Pixels DimensionOrder="XYCZT" SizeC="2" SizeZ="3" SizeT="1"/></OME>',
        b'<OME><Pixels DimensionOrder="XYZZT" SizeC="1" SizeZ="5" SizeT="1"/></OME>',
        b'<OME><Pixels SizeC="1" SizeZ="5" SizeT="1"/></OME>',
        b'<OME><Pixels DimensionOrder="XYCZT" SizeZ="5"/></OME>',
    ],
)
def test_a_description_of_other_pages_is_not_believed(description: bytes) -> None:
    assert page_offsets(description, 5) is None


@given(st.binary(max_size=200) | st.sampled_from([b"ImageJ=", b"<Pixels "]), st.integers(1, 50))
def test_any_description_gives_as_many_places_as_pages_or_none(description: bytes, pages: int) -> None:
    offsets = page_offsets(description, pages)
    assert offsets is None or (len(offsets) == len(set(offsets)) == pages)
