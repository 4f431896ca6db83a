"""What becomes of objects as files and back, and what of objects and files that are no good."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

import vfsd
from vfsd.client.codecs import CODECS
from vfsd.client.codecs.arrays import host_array
from vfsd.client.codecs.tiff import read_metadata
from vfsd.client.conversion import KINDS, convert
from vfsd.errors import DamagedFile, MissingPackage, UnfitData, UsageProblem

RANDOM = np.random.default_rng(7)


def encoded(data: Any, name: str, **options: Any) -> memoryview:
    codec, _ = CODECS.to_save(data, name.encode(), allow_pickle=False)
    return memoryview(b"".join(bytes(part) for part in codec.encode(data, **options)))


def decoded(data: bytes | memoryview, name: str, mark: str | None = None) -> Any:
    view = memoryview(data)
    return CODECS.to_load(name.encode(), lambda: mark, view, allow_pickle=False).decode(view)


ARRAYS: dict[str, np.ndarray] = {
    "plane": RANDOM.integers(0, 60000, (30, 40), dtype=np.uint16),
    "big-endian": RANDOM.integers(0, 60000, (30, 40)).astype(">u2"),
    "every second": RANDOM.integers(0, 255, (30, 40), dtype=np.uint8)[::2, ::-1],
    "by columns": np.asfortranarray(RANDOM.random((3, 20, 30))),
    "complex": RANDOM.random((20, 30)) + 1j,
    "float16": RANDOM.random((20, 30)).astype(np.float16),
    "bool": RANDOM.random((20, 33)) > 0.5,
    "stack": RANDOM.integers(0, 255, (2, 3, 20, 30), dtype=np.uint8),
    "signed": RANDOM.integers(-500, 500, (20, 30), dtype=np.int64),
    "zero-size": np.zeros((0, 5), np.float32),
    "0-d": np.array(3.5),
    "times": np.array(["2026-01-01", "NaT"], "M8[ns]"),
    "record": np.array([(1, 2.5)], [("a", "<i4"), ("b", ">f8")]),
    "text": np.array(["a", "bc"]),
}


@pytest.mark.parametrize("kind", ARRAYS)
def test_an_array_comes_back_from_npy_as_it_is(kind: str, tmp_path: Path) -> None:
    array = ARRAYS[kind]
    data = encoded(array, "x.npy")
    found = decoded(data, "x.npy")
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()
    assert not found.flags.writeable
    (tmp_path / "x.npy").write_bytes(data)
    assert np.load(tmp_path / "x.npy").tobytes() == array.tobytes()  # numpy agrees
    assert decoded(encoded(array, "x"), "x", "npy").tobytes() == array.tobytes()


@pytest.mark.parametrize("kind", [k for k in ARRAYS if k not in ("zero-size", "0-d", "times", "record", "text")])
@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}], ids=str)
def test_an_image_comes_back_from_tiff(kind: str, options: dict[str, Any]) -> None:
    array = ARRAYS[kind]
    if options and kind == "complex":
        with pytest.raises(UnfitData, match="loaded again"):
            encoded(array, "x.tif", **options)
        return
    found = decoded(encoded(array, "x.tif", **options), "x.tif")
    assert np.array_equal(found, array)
    assert found.dtype == array.dtype.newbyteorder(found.dtype.byteorder)
    assert np.array_equal(tifffile.imread(_as_file(encoded(array, "x.tif", **options))), array)


def _as_file(data: memoryview) -> Any:
    import io

    return io.BytesIO(data)


def test_tiffs_of_imagej_and_ome_keep_their_metadata() -> None:
    stack = RANDOM.integers(0, 4000, (2, 3, 20, 30), dtype=np.uint16)
    imagej = encoded(stack, "x.tif", imagej=True, metadata={"axes": "ZCYX", "unit": "um", "spacing": 0.5})
    assert np.array_equal(decoded(imagej, "x.tif"), stack)
    found = read_metadata(imagej)
    assert (found["imagej"]["unit"], found["imagej"]["channels"], found["axes"]) == ("um", 3, "ZCYX")
    ome = encoded(stack, "x.ome.tif", ome=True, metadata={"axes": "CZYX", "Channel": {"Name": ["a", "b"]}})
    assert np.array_equal(decoded(ome, "x.ome.tif"), stack)
    assert 'Name="a"' in read_metadata(ome)["ome"]


def test_uncompressed_pixels_are_not_copied() -> None:
    array = ARRAYS["plane"]
    for name in ("x.npy", "x.tif"):
        data = encoded(array, name)
        assert np.shares_memory(decoded(data, name), np.frombuffer(data, np.uint8))


def test_other_types_come_back() -> None:
    cases: list[tuple[str, Any]] = [
        ("x.json", {"a": [1, 2.5, None, "é"]}),
        ("x.txt", "line\r\nend"),
        ("x.csv", [["a", "b"], ["1", "x,y"]]),
        ("x.bin", b"\0\1"),
        ("x.PNG", ARRAYS["every second"]),
        ("x.png", RANDOM.integers(0, 65535, (9, 8, 3), dtype=np.uint16)),
    ]
    for name, data in cases:
        found = decoded(encoded(data, name), name)
        assert np.array_equal(found, data) if isinstance(data, np.ndarray) else found == data
    both = {"one": ARRAYS["plane"], "two": ARRAYS["0-d"]}
    for compressed in (False, True):
        found = decoded(encoded(both, "x.npz", compressed=compressed), "x.npz")
        assert all(np.array_equal(found[name], both[name]) for name in both)
    for data, mark in (("text", "text"), (b"\x93NUMPY", "bytes"), ({"a": 1}, "named-json")):
        codec, marked = CODECS.to_save(data, b"no.suffix", allow_pickle=False)
        assert (codec.name, marked) == (mark, True)
        assert decoded(encoded(data, "no.suffix"), "no.suffix", mark) == data


UNFIT: dict[str, tuple[Any, str]] = {
    "objects": (np.array([{}, None], object), "x.npy"),
    "objects without suffix": (np.array([{}, None], object), "x"),
    "objects in a record": (np.zeros(2, [("a", "O")]), "x.npy"),
    "masked": (np.ma.masked_array([1, 2], [True, False]), "x.npy"),
    "text as array": ("text", "x.npy"),
    "text as image": ("text", "x.tif"),
    "an array as JSON": (ARRAYS["plane"], "x.json"),
    "an array in JSON": ({"a": ARRAYS["plane"]}, "x.json"),
    "0-d image": (ARRAYS["0-d"], "x.tif"),
    "empty image": (ARRAYS["zero-size"], "x.tif"),
    "times as image": (np.zeros((3, 4), "M8[ns]"), "x.tif"),
    "floats as PNG": (np.zeros((3, 4)), "x.png"),
    "bytes as image": (b"II*\0", "x.tif"),
    "a set": ({1, 2}, "x"),
    "a dictionary with numbers for keys": ({1: 2}, "x"),
    "half a surrogate": ("\ud800", "x.txt"),
    "rows of different columns": ([{"a": 1}, {"b": 2}], "x.csv"),
    "an object as pickle": (Fraction(1, 2), "x.pkl"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_its_name_is_refused(case: str) -> None:
    data, name = UNFIT[case]
    with pytest.raises(UnfitData):
        encoded(data, name)


def test_no_room_on_the_host_is_a_memory_error() -> None:
    class OnGpu:
        shape = (1 << 20, 1 << 20)
        dtype = np.dtype(np.float64)
        device = "cuda:0"

        def get(self) -> np.ndarray:
            return np.empty((1 << 30, 1 << 25), self.dtype)

    with pytest.raises(MemoryError):
        host_array(OnGpu())


DAMAGED: dict[str, Callable[[], tuple[bytes, str]]] = {
    "npy cut": lambda: (bytes(encoded(ARRAYS["plane"], "x.npy"))[:-1], "x.npy"),
    "npy header cut": lambda: (bytes(encoded(ARRAYS["plane"], "x.npy"))[:40], "x.npy"),
    "npy empty": lambda: (b"", "x.npy"),
    "npy of objects": lambda: (
        _npy_header({"descr": "|O", "fortran_order": False, "shape": (1,)}) + b"cos\nsystem\n",
        "x.npy",
    ),
    "npy negative": lambda: (_npy_header({"descr": "<u2", "fortran_order": False, "shape": (-1,)}), "x.npy"),
    "npy huge": lambda: (_npy_header({"descr": "<u2", "fortran_order": False, "shape": (1 << 62, 8)}), "x.npy"),
    "npy nested": lambda: (_npy_raw("(" * 5000), "x.npy"),
    "npz cut": lambda: (bytes(encoded({"a": ARRAYS["plane"]}, "x.npz"))[:-30], "x.npz"),
    "tiff cut": lambda: (bytes(encoded(ARRAYS["plane"], "x.tif"))[:-100], "x.tif"),
    "tiff header": lambda: (b"II*\0" + b"\xff" * 40, "x.tif"),
    "tiff empty": lambda: (b"", "x.tif"),
    "png": lambda: (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "x.png"),
    "json": lambda: (b"{", "x.json"),
    "json nested": lambda: (b"[" * 100_000, "x.json"),
    "text": lambda: (b"\xff", "x.txt"),
    "csv": lambda: (b'a,"' + b"x" * 200_000, "x.csv"),
}


def _npy_raw(header: str) -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x02\0" + len(text).to_bytes(4, "little") + text


def _npy_header(header: dict[str, Any]) -> bytes:
    return _npy_raw(repr(header) + "\n")


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_files_are_said_to_be(case: str) -> None:
    data, name = DAMAGED[case]()
    with pytest.raises(DamagedFile):
        decoded(data, name)


@given(st.data())
def test_flipped_bytes_give_an_array_or_an_error(data: st.DataObject) -> None:
    name, whole = data.draw(
        st.sampled_from([(n, bytes(encoded(ARRAYS["plane"], n))) for n in ("x.npy", "x.tif", "x.png")])
    )
    broken = bytearray(whole)
    for place in data.draw(st.lists(st.integers(0, min(len(whole), 300) - 1), min_size=1, max_size=6)):
        broken[place] = data.draw(st.integers(0, 255))
    try:
        found = decoded(bytes(broken), name)
    except DamagedFile:
        return
    assert isinstance(found, np.ndarray)


def test_a_type_of_ones_own() -> None:
    vfsd.register_codec(Fraction, ".ratio", encode=lambda f: str(f).encode(), decode=lambda b: Fraction(b.decode()))
    assert decoded(encoded(Fraction(1, 3), "x.ratio"), "x.ratio") == Fraction(1, 3)
    assert decoded(encoded(Fraction(1, 3), "x"), "x", "fractions.Fraction") == Fraction(1, 3)
    with pytest.raises(UnfitData):
        encoded("text", "x.ratio")
    with pytest.raises(UsageProblem):
        vfsd.register_codec(Fraction, "ratio", encode=bytes, decode=bytes)


def test_arrays_of_other_libraries() -> None:
    import dask.array
    import pandas
    import zarr

    plane = ARRAYS["plane"]
    for other in (zarr.array(plane), dask.array.from_array(plane)):
        assert np.array_equal(decoded(encoded(other, "x.npy"), "x.npy"), plane)
    assert isinstance(convert(plane, "zarr"), zarr.Array)
    assert np.array_equal(convert(plane, "dask").compute(), plane)
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    data = encoded(frame, "x.csv")
    assert decoded(data, "x.csv") == [["a", "b"], ["1", "x"], ["2", "y"]]
    assert convert(decoded(data, "x.csv"), "pandas", data).equals(frame)
    assert json.loads(json.dumps(KINDS)) == list(KINDS)
    with pytest.raises(UsageProblem, match="numpy, torch"):
        convert(plane, "matlab")
    with pytest.raises(UnfitData):
        convert("text", "numpy")


@pytest.mark.parametrize("kind", ["torch", "cupy", "jax"])
def test_a_missing_library_is_named(kind: str) -> None:
    import importlib.util

    if importlib.util.find_spec(kind) is not None:
        pytest.skip(f"{kind} is there")
    with pytest.raises(MissingPackage, match=f"pip install {kind}"):
        convert(ARRAYS["plane"], kind)
