"""How competing claims are settled, and what recognition costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.plates.instrument import Claim, Evidence, Listing, ReadFile
from vfsd.plates.metadata import MAX_PROBES
from vfsd.plates.metamorph import MAX_UNLISTED
from vfsd.plates.model import Plate, PlateFacts, PlatePosition
from vfsd.plates.natural_order import natural_key
from vfsd.plates.recognise import recognise_plates
from vfsd.plates.registry import BUILT_IN, PlateFormats


def no_file(path: bytes, offset: int, size: int) -> bytes:
    raise FileNotFoundError(path)


def at(n: int) -> PlatePosition:
    return PlatePosition(0, 0, n, 1, 1, 1)


@dataclass(frozen=True)
class FixedInstrument:
    """An instrument that claims what it was told to, as far as it is listed."""

    name: str
    root: bytes
    images: tuple[bytes, ...]
    evidence: Evidence
    others: Mapping[bytes, str] = field(default_factory=dict)

    def claim(self, listing: Listing, read_file: ReadFile) -> list[Claim]:
        images = {path: at(n) for n, path in enumerate(self.images) if path in listing.paths}
        plate = Plate(self.root, listing.label(self.root), self.name, images, self.others, PlateFacts())
        return [Claim(plate, self.evidence)]


def recognised(paths: Iterable[bytes], *instruments: FixedInstrument) -> list[tuple[str, bytes, set[bytes]]]:
    plates = recognise_plates(paths, no_file, formats=PlateFormats(instruments))
    return [(plate.instrument, plate.root, set(plate.images)) for plate in plates]


def test_the_registry_knows_the_common_instruments() -> None:
    names = {instrument.name for instrument in BUILT_IN}
    assert names == {
        *("imagexpress", "harmony", "cellvoyager", "scanr", "embl"),
        *("matrixscreener", "cellomics", "biotek", "incell", "metamorph"),
    }


@pytest.mark.parametrize("strong_first", [True, False])
def test_the_strongest_evidence_wins_a_root_in_any_order(strong_first: bool) -> None:
    strong = FixedInstrument("strong", b"p", (b"p/1",), Evidence.METADATA)
    weak = FixedInstrument("weak", b"p", (b"p/1", b"p/2", b"p/3"), Evidence.NAMES)
    order = (strong, weak) if strong_first else (weak, strong)
    assert recognised([b"p/1", b"p/2", b"p/3"], *order) == [("strong", b"p", {b"p/1"})]


def test_of_equal_evidence_more_images_win_then_the_name() -> None:
    few = FixedInstrument("a", b"p", (b"p/1",), Evidence.LAYOUT)
    many = FixedInstrument("b", b"p", (b"p/1", b"p/2"), Evidence.LAYOUT)
    same = FixedInstrument("c", b"p", (b"p/1", b"p/2"), Evidence.LAYOUT)
    assert recognised([b"p/1", b"p/2"], few, same, many) == [("b", b"p", {b"p/1", b"p/2"})]


def test_a_path_is_an_image_of_one_plate_only() -> None:
    inner = FixedInstrument("inner", b"p/q", (b"p/q/1",), Evidence.METADATA)
    outer = FixedInstrument("outer", b"p", (b"p/q/1", b"p/2"), Evidence.NAMES)
    assert recognised([b"p/q/1", b"p/2"], outer, inner) == [
        ("outer", b"p", {b"p/2"}),
        ("inner", b"p/q", {b"p/q/1"}),
    ]


def test_a_plate_that_loses_all_its_images_is_none() -> None:
    inner = FixedInstrument("inner", b"p/q", (b"p/q/1",), Evidence.METADATA)
    outer = FixedInstrument("outer", b"p", (b"p/q/1",), Evidence.NAMES)
    assert recognised([b"p/q/1"], outer, inner) == [("inner", b"p/q", {b"p/q/1"})]


def test_other_files_stay_with_the_deepest_root_and_are_no_images() -> None:
    why = {b"p/q/1": "?", b"p/q/notes": "outer's", b"p/notes": "outer's"}
    outer = FixedInstrument("outer", b"p", (b"p/2",), Evidence.METADATA, why)
    inner = FixedInstrument("inner", b"p/q", (b"p/q/1",), Evidence.NAMES, {b"p/q/notes": "inner's"})
    plates = recognise_plates([b"p/q/1", b"p/2"], no_file, formats=PlateFormats((outer, inner)))
    assert [plate.others for plate in plates] == [{b"p/notes": "outer's"}, {b"p/q/notes": "inner's"}]


def test_the_trees_own_root_is_named_by_the_caller() -> None:
    assert recognise_plates([b"x_B02_s1.tif"], no_file)[0].name == "plate"
    assert recognise_plates([b"x_B02_s1.tif"], no_file, directory_name="plate1")[0].name == "plate1"
    assert recognise_plates([b"a/b/x_B02_s1.tif"], no_file, directory_name="plate1")[0].name == "b"


def test_names_of_plates_can_always_be_encoded() -> None:
    plate = recognise_plates([b"run\xff\n/x\xfe_B02_s1.tif"], no_file)[0]
    assert plate.name == "run\\xff\n"
    assert plate.facts.name == "x\\xfe"


def test_nothing_is_recognised_in_nothing() -> None:
    assert recognise_plates([], no_file) == []


@pytest.mark.parametrize("error", [OSError("gone"), KeyError("gone"), PermissionError("not yours")])
def test_unreadable_metadata_is_no_accident(error: Exception) -> None:
    def fail(path: bytes, offset: int, size: int) -> bytes:
        raise error

    plate = recognise_plates([b"x_B02_s1.tif", b"x.HTD"], fail)[0]
    assert plate.others == {b"x.HTD": "it is the plate's HTD, and not understood: it cannot be read"}


def test_few_files_are_asked_for_however_many_are_listed() -> None:
    asked: list[bytes] = []

    def read(path: bytes, offset: int, size: int) -> bytes:
        asked.append(path)
        raise FileNotFoundError(path)

    plates = recognise_plates((b"name%d_B02.tif" % n for n in range(5_000)), read)
    assert plates == []
    assert len(asked) == MAX_PROBES
    asked.clear()
    wells = [b"%c%02d" % (65 + n % 16, 1 + n // 16) for n in range(384)]
    paths = [b"TimePoint_%d/p_%s_s%d.tif" % (t, well, s) for t in (1, 2) for well in wells for s in (1, 2, 3)]
    assert len(recognise_plates(paths, read)[0].images) == len(paths)
    assert len(asked) <= 4 + MAX_UNLISTED


def test_natural_order_is_a_file_browsers() -> None:
    ordered = [b"ZStep_2/a", b"ZStep_10/a", b"a1", b"a2", b"a10", b"A11", b"b"]
    shuffled = [*ordered[3:], *ordered[:3]]
    assert sorted(shuffled, key=natural_key) == ordered


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_natural_order_is_total(paths: list[bytes]) -> None:
    backwards = paths[::-1]
    assert sorted(paths, key=natural_key) == sorted(backwards, key=natural_key)


@given(st.lists(st.binary(max_size=40), max_size=12))
def test_any_paths_can_be_listed(paths: list[bytes]) -> None:
    for plate in recognise_plates(paths, no_file):
        assert plate.images.keys() <= set(paths)
