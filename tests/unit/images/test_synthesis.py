"""TIFFs that nobody wrote: any range of one is the same as that part of the whole, and tifffile reads it as it is meant."""

from __future__ import annotations

import io
import itertools
import tempfile
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from vfsd.images import (
    Stack,
    StackChannel,
    StackFacts,
    SynthesisError,
    SynthesizedTiff,
    analyse_tiff,
    imagej_description,
    imagej_metadata,
    ome_xml,
    synthesize_hyperstack,
    synthesize_ome_tiff,
)

DTYPES = ["u1", "u2", "u4", "i1", "i2", "i4", "f4", "f8"]
TEXTS = st.text(max_size=12)
FACTS = st.builds(
    StackFacts,
    TEXTS,
    st.lists(
        st.builds(
            StackChannel,
            st.none() | TEXTS,
            st.none() | st.tuples(*[st.integers(0, 255)] * 3),
            st.none() | st.just((0.0, 4095.5)),
        ),
        max_size=4,
    ),
    st.none() | st.tuples(*[st.floats(1e-6, 1e6)] * 2),
    st.none() | st.floats(1e-6, 1e6),
    st.none() | st.floats(1e-3, 1e6),
)
SIZES = st.integers(1, 4)


def stack_of(dtype: str, *sizes: int) -> Stack:
    return Stack(np.dtype("<" + dtype), *sizes)


def ome_tiff(stack: Stack, facts: StackFacts) -> SynthesizedTiff:
    size = facts.pixel_size_um
    return synthesize_ome_tiff(stack, ome_xml(stack, facts, "vfsd"), pixel_size_um=size, software="vfsd")


def hyperstack(stack: Stack, facts: StackFacts) -> SynthesizedTiff:
    return synthesize_hyperstack(
        stack, imagej_description(stack, facts), pixels_per_unit=(2.0, 4.0), metadata=imagej_metadata(stack, facts)
    )


def pixels_of(stack: Stack) -> np.ndarray[Any, Any]:
    count = stack.planes * stack.height * stack.width
    shape = stack.times, stack.channels, stack.slices, stack.height, stack.width
    return (np.arange(count) * 7 % 251).astype(stack.dtype).reshape(shape)


def read(tiff: SynthesizedTiff, pixels: np.ndarray[Any, Any], offset: int, size: int) -> bytes:
    """A range of the file, as a reader would put it together."""
    out = bytearray(max(0, min(size, tiff.size - offset)))
    head = tiff.read_head(offset, size)
    out[: len(head)] = head
    for run in tiff.locate(offset, size):
        plane = pixels[run.time, run.channel, run.slice].tobytes()
        start = run.file_offset - offset
        out[start : start + run.length] = plane[run.plane_offset : run.plane_offset + run.length]
    return bytes(out)


class VirtualFile(io.RawIOBase):
    """A file whose pixels are all zero, for what is too large to be made."""

    def __init__(self, tiff: SynthesizedTiff) -> None:
        self.tiff, self.at = tiff, 0

    def readinto(self, out: Any) -> int:
        size = max(0, min(len(out), self.tiff.size - self.at))
        out[:size] = self.tiff.read_head(self.at, size).ljust(size, b"\0")
        self.at += size
        return size

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.tiff.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True


@given(st.sampled_from(DTYPES), SIZES, SIZES, SIZES, SIZES, SIZES, FACTS, st.data())
def test_ranges_are_the_whole_and_tifffile_reads_it(
    dtype: str, t: int, c: int, z: int, y: int, x: int, facts: StackFacts, data: st.DataObject
) -> None:
    stack = stack_of(dtype, t, c, z, y, x)
    pixels = pixels_of(stack)
    files = [(ome_tiff(stack, facts), pixels, "TCZYX")]
    if dtype not in ("i1", "f8"):
        files.append((hyperstack(stack, facts), pixels.swapaxes(1, 2), "TZCYX"))
    for tiff, expected, axes in files:
        whole = read(tiff, pixels, 0, tiff.size)
        assert len(whole) == tiff.size
        cuts = sorted({0, tiff.size, *data.draw(st.lists(st.integers(0, tiff.size), max_size=8))})
        pieces = [read(tiff, pixels, low, high - low) for low, high in itertools.pairwise(cuts)]
        assert b"".join(pieces) == whole
        with tifffile.TiffFile(io.BytesIO(whole)) as opened:
            series = opened.series[0]
            assert (opened.is_ome, opened.is_imagej) == ((True, False) if axes == "TCZYX" else (False, True))
            kept = [(axis, size) for axis, size in zip(axes, expected.shape, strict=True) if size > 1 or axis in "YX"]
            found = [
                (axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if size > 1 or axis in "YX"
            ]
            assert found == kept
            np.testing.assert_array_equal(series.asarray().reshape(expected.shape), expected)


@given(st.sampled_from(["u1", "u2"]), SIZES, SIZES, SIZES, FACTS)
def test_our_own_reader_finds_the_same_planes(dtype: str, t: int, c: int, z: int, facts: StackFacts) -> None:
    """So a TIFF that is copied up, changed and stored is taken apart like any other."""
    stack = stack_of(dtype, t, c, z, 5, 3)
    pixels = pixels_of(stack)
    tiff = ome_tiff(stack, facts)
    with tempfile.TemporaryFile() as file:
        file.write(read(tiff, pixels, 0, tiff.size))
        file.flush()
        layout = analyse_tiff(file.fileno())
    assert len(layout.pages) == stack.planes
    assert [page.segments[0].offset for page in layout.pages] == [
        tiff.pixels + number * stack.plane_bytes for number in range(stack.planes)
    ]


@given(FACTS, st.integers(1, 3))
def test_ome_xml_is_well_formed_whatever_the_names(facts: StackFacts, channels: int) -> None:
    document = ome_xml(stack_of("u2", 2, channels, 3, 4, 5), facts, "vfsd")
    document.decode("ascii")
    pixels = ElementTree.fromstring(document).find(".//{*}Pixels")
    assert pixels is not None
    assert [pixels.get(f"Size{axis}") for axis in "XYZCT"] == ["5", "4", "3", str(channels), "2"]
    names = [channel.get("Name") for channel in pixels.findall("{*}Channel")]
    assert len(names) == channels
    for number, name in enumerate(names):
        wanted = facts.channel(number).name
        if wanted is not None and wanted.isprintable():
            assert name == wanted


def test_what_is_known_of_channels_and_scales_is_there() -> None:
    facts = StackFacts(
        "A01 f0",
        [StackChannel("DAPI µ", (0, 0, 255), (10.0, 2000.0)), StackChannel("GFP", (0, 255, 0), (5.0, 100.0))],
        pixel_size_um=(0.5, 0.25),
        z_step_um=2.0,
        time_step_s=60.0,
    )
    stack = stack_of("u2", 2, 2, 3, 4, 5)
    pixels = pixels_of(stack)
    tiff = ome_tiff(stack, facts)
    with tifffile.TiffFile(io.BytesIO(read(tiff, pixels, 0, tiff.size))) as opened:
        found = ElementTree.fromstring(opened.ome_metadata or "").find(".//{*}Pixels")
        assert found is not None
        assert (found.get("PhysicalSizeX"), found.get("PhysicalSizeXUnit")) == ("0.25", "µm")
        assert (found.get("PhysicalSizeY"), found.get("PhysicalSizeZ"), found.get("TimeIncrement")) == (
            "0.5",
            "2.0",
            "60.0",
        )
        assert [channel.get("Name") for channel in found.findall("{*}Channel")] == ["DAPI µ", "GFP"]
        assert [channel.get("Color") for channel in found.findall("{*}Channel")] == ["65535", "16711935"]
        page = opened.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        assert np.divide(*page.tags["XResolution"].value) == 40_000  # a centimetre
    tiff = hyperstack(stack, facts)
    with tifffile.TiffFile(io.BytesIO(read(tiff, pixels, 0, tiff.size))) as opened:
        metadata = opened.imagej_metadata or {}
        assert metadata["Labels"] == ["DAPI µ", "GFP"] * 6
        assert metadata["Ranges"] == (10.0, 2000.0, 5.0, 100.0)
        assert [lut[:, -1].tolist() for lut in metadata["LUTs"]] == [[0, 0, 255], [0, 255, 0]]
        assert (metadata["spacing"], metadata["unit"], metadata["finterval"]) == (2.0, "micron", 60.0)
        assert metadata["mode"] == "composite"


def test_large_files_are_bigtiff_and_a_hyperstack_stays_one_directory() -> None:
    small, large = stack_of("u2", 1, 1, 511, 2048, 2048), stack_of("u2", 2, 4, 70, 2048, 2048)
    facts = StackFacts("large")
    assert not ome_tiff(small, facts).big
    tiff = ome_tiff(large, facts)
    assert tiff.big
    assert tiff.size > 1 << 32
    with tifffile.TiffFile(VirtualFile(tiff)) as opened:
        assert opened.is_bigtiff
        assert opened.series[0].shape == (2, 4, 70, 2048, 2048)
        assert opened.pages[559].dataoffsets[0] == tiff.pixels + 559 * large.plane_bytes
    tiff = hyperstack(large, facts)
    assert not tiff.big
    with tifffile.TiffFile(VirtualFile(tiff)) as opened:
        assert opened.series[0].axes == "TZCYX"
        assert opened.series[0].shape == (2, 70, 4, 2048, 2048)
        assert opened.series[0].dataoffset == tiff.pixels


def test_a_million_planes_cost_no_memory() -> None:
    tiff = ome_tiff(stack_of("u1", 1_000_000, 1, 1, 16, 16), StackFacts("long"))
    assert len(tiff.first) < 4096
    middle = tiff.read_head(tiff.pixels // 2, 4096)
    assert len(middle) == 4096
    assert next(tiff.locate(tiff.size - 1, 10)).time == 999_999


@pytest.mark.parametrize(
    ("stack", "reason"),
    [
        (stack_of("u8", 1, 1, 1, 4, 4), "uint64"),
        (stack_of("u2", 1, 1, 1, 0, 4), "without pixels"),
        (stack_of("u2", 1, 1, 1, 1 << 33, 4), "more than TIFF can say"),
        (stack_of("u2", 1 << 60, 1, 1, 4, 4), "more than a file can hold"),
        (stack_of("u2", 1, 1 << 40, 1, 4, 4), "channels"),
    ],
)
def test_what_no_tiff_can_be_is_refused(stack: Stack, reason: str) -> None:
    with pytest.raises(SynthesisError, match=reason):
        ome_tiff(stack, StackFacts("refused"))


def test_what_imagej_does_not_know_is_refused() -> None:
    for stack in (
        stack_of("i1", 1, 1, 1, 4, 4),
        stack_of("f8", 1, 1, 1, 4, 4),
        stack_of("u2", 1, 1, 1, 1 << 16, 1 << 16),
    ):
        with pytest.raises(SynthesisError, match="ImageJ"):
            hyperstack(stack, StackFacts("refused"))
