"""Metadata that is damaged, malicious or endless: a note that names the file, and the plate all the same."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from plate_listings import holding, only_plate, plates_in

from vfsd.plates import harmony_index, recognise_plates, xml_stream
from vfsd.plates.metadata import PIECE
from vfsd.plates.xml_stream import MAX_DEPTH, MAX_TOKEN, XmlError, read_xml

# Of each instrument that reads metadata: an image, and the metadata's path.
READERS = [
    (b"Images/r01c01f01p01-ch1sk1fk1fl1.tiff", b"Images/Index.idx.xml"),
    (b"P_A01_T0001F001L01A01Z01C01.tif", b"MeasurementData.mlf"),
    (b"P_A01_T0001F001L01A01Z01C01.tif", b"MeasurementDetail.mrf"),
    (b"P_A01_T0001F001L01A01Z01C01.tif", b"any.mes"),
    (b"data/A1--W00001--P00001--Z00000--T00000--GFP.tif", b"experiment_descriptor.xml"),
    (
        b"slide--S00/chamber--U00--V00/field--X00--Y00/image--L00--S00--U00--V00--J08--E00--O00--X00--Y00--T00--Z00--C00.tif",
        b"slide--S00/chamber--U00--V00/field--X00--Y00/metadata/image--L00--S00--U00--V00--J08--E00--O00--X00--Y00--T00.ome.xml",
    ),
    (b"A - 1(fld 1 wv UV - DAPI).tif", b"plate.xdce"),
    (b"p_A01_s1_w1.TIF", b"p.HTD"),
    (b"exp_w1DAPI_s1_t1.tif", b"exp.nd"),
]

BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">'
    + b"".join(b'<!ENTITY a%d "%s">' % (n, b"&a%s;" % (b"%d" % (n - 1) if n else b"") * 10) for n in range(12))
    + b"]><a>&a11;</a>"
)
OUTSIDE = b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><EvaluationInputData><Plates><Plate><Name>&x;</Name></Plate></Plates></EvaluationInputData>'
DAMAGED = {
    "empty": b"",
    "zeros": bytes(5000),
    "no XML": b"\xff\xfe\x00garbage" * 50,
    "not UTF-8": b"<?xml version='1.0' encoding='utf-8'?><A>\xff\xfe\xfa</A>",
    "unknown encoding": b"<?xml version='1.0' encoding='klingon'?><A/>",
    "cut": b"<?xml version='1.0'?><EvaluationInputData><Images><Image><URL>r01c01f01p01-ch1",
    "bomb": BOMB,
    "outside": OUTSIDE,
    "deep": b"<a>" * 5000,
    "two roots": b"<a/><b/>",
    "unclosed attribute": b"<a b='" + b"x" * 10_000,
    "page": b"<!DOCTYPE html><html><body>404</body></html>",
    "absurd": b"<A><Plate rows='999999999999' columns='-4' name=''/><PlateRows>1e400</PlateRows></A>",
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize(("image", "path"), READERS, ids=lambda value: value.rpartition(b"/")[2].decode())
def test_damaged_metadata_leaves_the_plate(image: bytes, path: bytes, kind: str) -> None:
    plate = only_plate([image], {path: DAMAGED[kind]})
    assert list(plate.images) == [image]
    assert path in plate.others
    facts = plate.facts
    assert (facts.rows, facts.columns, facts.pixel_size_um) == (None, None, None)
    latin_1 = path.endswith(b"descriptor.xml")  # takes any bytes for letters, whatever the document says
    if kind != "absurd" and not (latin_1 and kind in ("not UTF-8", "unknown encoding")):
        assert any(note.startswith(path.decode()) for note in plate.notes)


def test_entities_are_never_resolved() -> None:
    plate = only_plate([READERS[0][0]], {READERS[0][1]: OUTSIDE})
    assert plate.facts.name is None
    assert "document type" in plate.notes[0]


def test_metadata_that_cannot_be_read_is_named() -> None:
    def fail(path: bytes, offset: int, size: int) -> bytes:
        raise PermissionError(13, "Permission denied")

    for image, path in READERS[:3]:
        (plate,) = recognise_plates([image, path], fail)
        assert plate.images
        assert "Permission denied" in plate.notes[0]


def test_what_stands_before_the_damage_is_believed() -> None:
    said = (
        b"<a><Plates><Plate><Name>P</Name><PlateRows>8</PlateRows><PlateColumns>12</PlateColumns></Plate></Plates><Ima"
    )
    plate = only_plate([READERS[0][0]], {READERS[0][1]: said})
    assert (plate.facts.name, plate.facts.rows) == ("P", 8)
    assert len(plate.notes) == 1


def endless(start: bytes, piece: bytes, times: int) -> Iterator[bytes]:
    yield start
    for _ in range(times):
        yield piece


def peak_of(pieces: Iterator[bytes], texts: tuple[str, ...] = ("T",)) -> int:
    """The most memory that reading took, in bytes."""
    tracemalloc.start()
    try:
        with pytest.raises(XmlError):
            read_xml(pieces, lambda name, attributes: None, lambda name, text: None, texts=texts)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"<a><T>", b"x" * PIECE),  # one text without end
        (b"<a>", b" " * PIECE),
        (b"<a><T>", b"&lt;&#65;" * (PIECE // 9)),
        (b"<a b='", b"x" * PIECE),  # one attribute without end
        (b"<", b"x" * PIECE),  # one name without end
        (b"<!--", b"x" * PIECE),
        (b"<a><![CDATA[", b"x" * PIECE),
        (b"", b"<a>" * (PIECE // 3)),  # nothing but beginnings
    ],
)
def test_endless_xml_takes_bounded_memory(start: bytes, piece: bytes) -> None:
    assert peak_of(endless(start, piece, 200)) < 4 * MAX_TOKEN


def test_elements_without_end_take_bounded_memory_and_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xml_stream, "MAX_ELEMENTS", 200_000)
    assert peak_of(endless(b"<a>", b"<b/>" * (PIECE // 4), 200)) < 4 * MAX_TOKEN


def test_names_made_up_without_end_take_bounded_memory() -> None:
    pieces = (b"".join(b"<n%d_%d/>" % (n, m) for m in range(1000)) for n in range(100))
    assert peak_of(iter([b"<a>", *pieces])) < 64 << 20


def test_depth_is_bounded() -> None:
    def read(depth: int) -> None:
        text = b"<a>" * depth + b"</a>" * depth
        read_xml([text], lambda name, attributes: None, lambda name, text: None, texts=())

    read(MAX_DEPTH)
    with pytest.raises(XmlError, match="deep"):
        read(MAX_DEPTH + 1)


def test_a_large_index_is_streamed() -> None:
    """Ten thousand images of which one is here: what is kept is about the one."""
    name = b"r01c01f01p01-ch1sk1fk1fl1.tiff"
    head = b"<D xmlns='http://www.perkinelmer.com/PEHH/HarmonyV5'><Images>"
    other = (
        b"<Image><URL>r02c02f%05dp01-ch1sk1fk1fl1.tiff</URL><Row>2</Row><Col>2</Col>" + b"<X>0</X>" * 20 + b"</Image>"
    )
    mine = b"<Image><URL>%s</URL><Row>1</Row><Col>1</Col><AbsTime>2024-01-01T00:00:00</AbsTime></Image>" % name
    text = head + b"".join(other % n for n in range(10_000)) + mine + b"</Images></D>"
    files = {b"Images/Index.idx.xml": text}
    read = holding(files)
    largest = 0

    def watched(path: bytes, offset: int, size: int) -> bytes:
        nonlocal largest
        largest = max(largest, size)
        return read(path, offset, size)

    tracemalloc.start()
    (plate,) = recognise_plates([b"Images/" + name, *files], watched)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plate.facts.taken_at == {b"Images/" + name: "2024-01-01T00:00:00"}
    assert "10001 images are listed, 1 are here" in plate.others[b"Images/Index.idx.xml"]
    assert largest <= 1 << 20
    assert peak < 16 << 20


def test_a_large_document_is_parsed_once_for_many_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = 0
    parse = xml_stream.read_xml

    def counting(*arguments: Any, **options: Any) -> None:
        nonlocal parsed
        parsed += 1
        parse(*arguments, **options)

    monkeypatch.setattr(harmony_index, "read_xml", counting)
    image = b"<Image><URL>%s</URL><Row>1</Row><Col>1</Col><AbsTime>2031-01-0%dT00:00:00</AbsTime></Image>"
    names = [b"r01c01f%02dp01-ch1sk1fk1fl1.tiff" % n for n in range(1, 6)]
    text = b"<D>" + b"".join(image % (name, n) for n, name in enumerate(names, 1)) + b"</D>"
    for name in names:
        plate = only_plate([b"Images/" + name], {b"Images/Index.xml": text})
        assert len(plate.facts.taken_at) == 1
    assert parsed == 1
    other = only_plate([b"Images/" + names[0]], {b"Images/Index.xml": text.replace(b"2031", b"2032")})
    assert other.facts.taken_at == {b"Images/" + names[0]: "2032-01-01T00:00:00"}
    assert parsed == 2


@given(st.sampled_from(READERS), st.binary(max_size=300))
@example(READERS[0], b"<Image><URL>r01c01f01p01-ch1sk1fk1fl1.tiff</URL><PositionX Unit='m'>nan</PositionX></Image>")
def test_any_bytes_may_be_metadata(reader: tuple[bytes, bytes], data: bytes) -> None:
    image, path = reader
    for plate in plates_in([image], {path: data}):
        assert list(plate.images) == [image]


WORDS = st.sampled_from(
    [
        *(b"<Image>", b"</Image>", b"<URL>r01c01f01p01-ch1sk1fk1fl1.tiff</URL>", b"<Row>1</Row>", b"<Row>x</Row>"),
        *(b"<Entry ChannelID='1'>", b"</Entry>", b"<PositionX Unit='parsec'>1</PositionX>", b"<Plate rows='1e9'>"),
        *(b"</Plate>", b"<PlateRows>0</PlateRows>", b"<PositionZ>inf</PositionZ>", b"<AbsTime>-</AbsTime>", b"&lt;"),
        *(b"<MeasurementRecord Type='IMG' X='1e999' Row='-1'>P_A01_T0001F001L01A01Z01C01.tif</MeasurementRecord>",),
        *(b"<Channel Ch='99999'/>", b"<Pixels PhysicalSizeX='-1' PhysicalSizeY='0'/>", b"<Name>name</Name><Val/>"),
    ]
)


@given(st.sampled_from(READERS), st.lists(WORDS, max_size=30))
def test_any_mixture_of_true_elements_may_be_metadata(reader: tuple[bytes, bytes], words: list[bytes]) -> None:
    image, path = reader
    plate = only_plate([image], {path: b"<D>" + b"".join(words) + b"</D>"})
    assert list(plate.images) == [image]
