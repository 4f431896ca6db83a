"""Bytes in = bytes out, for generated files: whatever is analysed is rebuilt exactly, whole and in ranges."""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rebuild_check import check_range, check_rebuild, rebuild, take_apart
from tiff_writer import BYTE, LONG, LONG8, SHORT, Tag, TiffWriter, simple_tiff

from vfsd.images import NotRebuildable

KEPT_TYPES = ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8"]
FORMATS = {"u": 1, "i": 2, "f": 3}


@st.composite
def own_pages(draw: st.DrawFn, writer: TiffWriter) -> np.ndarray:
    """One page in any arrangement of strips; the array that it holds."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 7))
    samples = draw(st.sampled_from([1, 1, 3, 4]))
    planar = samples > 1 and draw(st.booleans())
    dtype = np.dtype(draw(st.sampled_from(KEPT_TYPES))).newbyteorder(writer.order)
    shape = [height, width] if samples == 1 else [samples, height, width] if planar else [height, width, samples]
    raw = draw(st.binary(min_size=1, max_size=8))
    nbytes = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer((raw * nbytes)[:nbytes], dtype).reshape(shape)

    rows = draw(st.integers(1, height + 2))
    layers = list(array) if planar else [array]
    strips = [layer[y : y + rows].tobytes() for layer in layers for y in range(0, height, rows)]
    surplus = draw(st.lists(st.integers(0, 3), min_size=len(strips), max_size=len(strips)))
    offsets = [0] * len(strips)
    for i in draw(st.permutations(range(len(strips)))):
        writer.append(bytes(draw(st.integers(0, 2))))
        offsets[i] = writer.append(strips[i] + b"\xee" * surplus[i])
    counts = [len(strip) + more for strip, more in zip(strips, surplus, strict=True)]

    wide = [SHORT, LONG, *([LONG8] if writer.bigtiff else [])]
    kind = st.sampled_from([LONG] if max(offsets) > 65_000 else wide)
    tags = [
        Tag(256, draw(st.sampled_from([BYTE, *wide])), [width]),
        Tag(257, draw(st.sampled_from([BYTE, *wide])), [height]),
        Tag(258, SHORT, [8 * dtype.itemsize] * draw(st.sampled_from([1, samples]))),
        Tag(262, SHORT, [draw(st.sampled_from([0, 1, 2, 5]))]),
        Tag(273, draw(kind), offsets),
        Tag(277, SHORT, [samples]),
        Tag(284, SHORT, [2 if planar else 1]),
        Tag(339, SHORT, [FORMATS[dtype.kind]] * draw(st.sampled_from([1, samples]))),
    ]
    if len(strips) > len(layers) or draw(st.booleans()):
        tags.append(Tag(278, draw(st.sampled_from(wide)), [rows]))
    if draw(st.booleans()):
        tags.append(Tag(279, draw(kind), counts))
    writer.add_directory(tags)
    return array


@st.composite
def own_tiffs(draw: st.DrawFn) -> tuple[bytes, Sequence[np.ndarray]]:
    writer = TiffWriter(big_endian=draw(st.booleans()), bigtiff=draw(st.booleans()))
    writer.append(draw(st.binary(max_size=20)))
    arrays = [draw(own_pages(writer)) for _ in range(draw(st.integers(1, 3)))]
    writer.append(draw(st.binary(max_size=20)))
    return bytes(writer.data), arrays


@given(own_tiffs())
@settings(max_examples=150, deadline=None)
def test_any_arrangement_of_strips_is_rebuilt(tiff: tuple[bytes, Sequence[np.ndarray]]) -> None:
    data, arrays = tiff
    layout, planes = check_rebuild(data)
    assert layout.plane_count == len(arrays)
    assert layout.uniform == (len({(a.shape, a.dtype) for a in arrays}) == 1)
    for plane, array in zip(planes, arrays, strict=True):
        assert plane.dtype == array.dtype.newbyteorder("<")
        assert plane.tobytes() == array.astype(plane.dtype).tobytes()
        assert plane.shape == array.shape


@given(own_tiffs(), st.data())
@settings(max_examples=60, deadline=None)
def test_any_range_comes_together_from_planes_and_skeleton(
    tiff: tuple[bytes, Sequence[np.ndarray]], data: st.DataObject
) -> None:
    content, _ = tiff
    skeleton, _ = take_apart(content)
    check_range(content, skeleton, 0, len(content))
    for _ in range(5):
        offset = data.draw(st.integers(0, len(content) + 5))
        check_range(content, skeleton, offset, data.draw(st.integers(0, len(content))))


@st.composite
def tifffile_arguments(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, object]]:
    dtype = np.dtype(draw(st.sampled_from(KEPT_TYPES)))
    size = st.integers(1, 20)
    # tifffile gives a colour image, or one with many samples, the axis that the next line chooses
    kind = draw(st.sampled_from(["grey", "grey", "contig", "separate"]))
    shape = {
        "grey": (draw(st.integers(1, 4)), draw(size), draw(size)),
        "contig": (draw(st.integers(1, 3)), draw(size), draw(size), 3),
        "separate": (draw(st.integers(1, 3)), 3, draw(size), draw(size)),
    }[kind]
    array = draw(hnp.arrays(dtype, shape, elements=st.just(0) | hnp.from_dtype(dtype, allow_nan=False)))
    arguments: dict[str, object] = {
        "byteorder": draw(st.sampled_from("<>")),
        "bigtiff": draw(st.booleans()),
        "photometric": "minisblack" if kind == "grey" else "rgb",
        "rowsperstrip": draw(st.none() | size),
        "description": draw(st.none() | st.text(st.characters(max_codepoint=126, min_codepoint=32), max_size=50)),
        "metadata": None,
        "contiguous": draw(st.booleans()),
    }
    if kind != "grey":
        arguments["planarconfig"] = kind
    elif draw(st.booleans()):
        arguments["photometric"] = "miniswhite"
    return array, arguments


@given(tifffile_arguments())
@settings(max_examples=100, deadline=None)
def test_what_tifffile_writes_is_rebuilt(written: tuple[np.ndarray, dict[str, object]]) -> None:
    array, arguments = written
    contiguous = arguments.pop("contiguous")
    stream = io.BytesIO()
    order = arguments.pop("byteorder")
    bigtiff = arguments.pop("bigtiff")
    with tifffile.TiffWriter(stream, bigtiff=bigtiff, byteorder=order) as writer:
        for image in [array] if contiguous else array:
            writer.write(image, **arguments)
    layout, planes = check_rebuild(stream.getvalue())
    assert layout.big_endian == (order == ">")
    stream.seek(0)
    with tifffile.TiffFile(stream) as tiff:
        pages = [page.asarray() for page in tiff.pages]
    assert len(pages) == len(planes)
    for plane, page in zip(planes, pages, strict=True):
        assert plane.tobytes() == page.astype(plane.dtype).tobytes()
    assert np.concatenate([plane.ravel() for plane in planes]).tobytes() == array.tobytes()


@given(
    # tifffile drops trailing axes of 1 and takes others for the image
    st.tuples(*[st.integers(1, 3)] * 3, *[st.integers(2, 8)] * 2),
    st.sampled_from(["u1", "u2", "f4"]),
    st.sampled_from("<>"),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_imagej_hyperstacks_are_rebuilt(sizes: tuple[int, ...], dtype: str, order: str, truncate: bool) -> None:
    array = np.arange(np.prod(sizes)).astype(dtype).reshape(sizes)
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, imagej=True, byteorder=order, metadata={"axes": "TZCYX"}, truncate=truncate)
    layout, planes = check_rebuild(stream.getvalue())
    assert layout.big_endian == (order == ">")
    assert layout.plane_count == int(np.prod(sizes[:3]))
    assert np.stack(planes).tobytes() == array.tobytes()


def test_ome_tiff_is_rebuilt() -> None:
    array = np.arange(2 * 3 * 10 * 12, dtype=np.uint16).reshape(2, 3, 10, 12)
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, ome=True, metadata={"axes": "CZYX"})
    layout, planes = check_rebuild(stream.getvalue())
    assert layout.uniform
    assert np.stack(planes).tobytes() == array.tobytes()


SEEDS = [
    simple_tiff(),
    bytes(simple_tiff(3, 4, Tag(278, LONG, [1]))),
]


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_changed_files_are_refused_or_rebuilt(data: st.DataObject) -> None:
    content = bytearray(data.draw(own_tiffs())[0] if data.draw(st.booleans()) else data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 6))):
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] = data.draw(st.sampled_from([0, 1, 2, 8, 0x7F, 0xFF]) | st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    with suppress(NotRebuildable):
        check_rebuild(content)


def test_planes_and_rest_have_to_be_complete() -> None:
    skeleton, planes = take_apart(simple_tiff())
    with pytest.raises(ValueError, match="0 of the 1 planes"):
        rebuild(skeleton, [])
    with pytest.raises(ValueError, match="more than the 1 planes"):
        rebuild(skeleton, planes * 2)
    with pytest.raises(ValueError, match="a plane of 20 bytes is given 15"):
        rebuild(skeleton, [planes[0][:3]])
