"""What `vfsd doctor --plate` prints: each plate as a table and a map of its wells, and the files that were left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from vfsd.plates import Plate
    from vfsd.plates.survey import Survey

# A map of one character a well fits a terminal of 80 columns with 24 wells and a space between them, no wider.
_SPACED_COLUMNS = 24
# A list of this many numbers is read; more are a range.
_LISTED_NUMBERS = 12


def print_survey(survey: Survey, folder: str) -> None:
    """Print it for people."""
    from rich.console import Console

    console = Console(highlight=False, emoji=False, markup=False)
    if not survey.plates:
        console.print(f"no plate was recognised in {folder}")
    for plate in survey.plates:
        _print_plate(console, plate)
    for name, paths in sorted(_labels_by_name(survey).items()):
        console.print(f"{len(paths)} label images called {_escaped(name)}, first: {_shown(min(paths))}")
    if survey.strangers:
        console.print(f"{len(survey.strangers)} files belong to no plate, first: {_shown(survey.strangers[0])}")
    for problem in survey.problems:
        console.print(f"cannot be read: {problem}")


def survey_document(survey: Survey) -> dict[str, Any]:
    """The same for `--json`."""
    return {
        "plates": [_plate_document(plate) for plate in survey.plates],
        "labels": {
            _shown(path): {"name": label.name, "of": _shown(label.image)}
            for path, label in sorted(survey.labels.items())
        },
        "of_no_plate": [_shown(path) for path in survey.strangers],
        "unreadable": list(survey.problems),
    }


def _labels_by_name(survey: Survey) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for path, label in survey.labels.items():
        found.setdefault(label.name, []).append(path)
    return found


def _print_plate(console: Console, plate: Plate) -> None:
    from rich.table import Table

    facts = Table(title=f"{_escaped(plate.name)} ({plate.instrument})", title_justify="left", show_header=False)
    facts.add_column()
    facts.add_column(overflow="fold")
    for name, value in _lines(plate):
        facts.add_row(name, value)
    console.print(facts)
    if plate.facts.channels:
        console.print(_channel_table(plate))
    console.print(_well_map(plate))
    left = Counter(plate.others.values())
    if left:
        table = Table(title="not images of this plate", title_justify="left")
        for heading in ("files", "why", "first"):
            table.add_column(heading, overflow="fold")
        for why, count in left.most_common():
            first = min(path for path, reason in plate.others.items() if reason == why)
            table.add_row(str(count), _escaped(why), _shown(first))
        console.print(table)
    for note in plate.notes:
        console.print(f"note: {_escaped(note)}")
    console.print()


def _lines(plate: Plate) -> Iterable[tuple[str, str]]:
    facts, positions = plate.facts, plate.images.values()
    yield "folder", _shown(plate.root) or "."
    if facts.name:
        yield "plate", _escaped(facts.name)
    yield "images", str(len(plate.images))
    wells = len({(at.row, at.column) for at in positions})
    yield "wells", f"{wells} of {facts.rows} x {facts.columns}" if facts.rows and facts.columns else str(wells)
    yield "fields", _numbers(at.field for at in positions)
    yield "time points", _numbers(at.time for at in positions)
    yield "z", _numbers(at.z for at in positions)
    if any(at.acquisition for at in positions):
        yield "acquisitions", _numbers(at.acquisition for at in positions)
    projections = sum(at.projection for at in positions)
    if projections:
        yield "projections", str(projections)
    if facts.pixel_size_um:
        yield "pixel", f"{facts.pixel_size_um[0]:g} x {facts.pixel_size_um[1]:g} µm"
    if facts.z_step_um:
        yield "z step", f"{facts.z_step_um:g} µm"
    if facts.time_step_s:
        yield "time step", f"{facts.time_step_s:g} s"
    if facts.started:
        yield "started", facts.started
    fields = {at.field_key for at in positions}
    yield "stage", f"{len(fields & facts.stage_um.keys())} of {len(fields)} fields"


def _channel_table(plate: Plate) -> RenderableType:
    from rich.table import Table

    names = any(channel.name is not None for channel in plate.facts.channels)
    table = Table()
    for heading in ("channel", "name", "excitation", "emission", "exposure", "images"):
        table.add_column(heading)
    images = Counter(at.channel for at in plate.images.values())
    for channel in plate.facts.channels:
        table.add_row(
            str(channel.number) if not names or channel.number < 10**6 else "-",  # numbers made from names say nothing
            _escaped(channel.name or "-"),
            "-" if channel.excitation_nm is None else f"{channel.excitation_nm:g} nm",
            "-" if channel.emission_nm is None else f"{channel.emission_nm:g} nm",
            "-" if channel.exposure_ms is None else f"{channel.exposure_ms:g} ms",
            str(images[channel.number]),
        )
    return table


def _well_map(plate: Plate) -> str:
    """A row of the plate a line: ● all images that any well has, ○ fewer, · none."""
    from vfsd.plates import row_name
    from vfsd.plates.model import PLATE_FORMATS

    images = Counter((at.row, at.column) for at in plate.images.values())
    rows, columns = plate.facts.rows, plate.facts.columns
    if rows is None or columns is None:
        last_row, last_column = (max(place[axis] for place in images) for axis in (0, 1))
        rows, columns = next(size for size in PLATE_FORMATS if last_row < size[0] and last_column < size[1])
    most = max(images.values())
    gap = " " if columns <= _SPACED_COLUMNS else ""
    lines = ["   " + gap.join(str(column % 10) for column in range(1, columns + 1))]
    for row in range(rows):
        marks = ("·" if not (n := images[row, column]) else "●" if n == most else "○" for column in range(columns))
        lines.append(f"{row_name(row):>2} " + gap.join(marks))
    fewest = min(images.values())
    fewer = "" if fewest == most else f"   ○ {fewest}" if fewest == most - 1 else f"   ○ {fewest} to {most - 1}"
    lines.append(f"   ● {most} images{fewer}   · none")
    return "\n".join(lines)


def _plate_document(plate: Plate) -> dict[str, Any]:
    facts = plate.facts
    return {
        "name": plate.name,
        "folder": _shown(plate.root),
        "instrument": plate.instrument,
        "images": {
            _shown(path): {
                "well": at.well,
                **{part: getattr(at, part) for part in ("field", "time", "channel", "z", "acquisition", "projection")},
            }
            for path, at in sorted(plate.images.items())
        },
        "left": {_shown(path): why for path, why in sorted(plate.others.items())},
        "facts": {
            **{fact: getattr(facts, fact) for fact in ("rows", "columns", "name", "pixel_size_um", "z_step_um")},
            **{fact: getattr(facts, fact) for fact in ("time_points", "z_steps", "time_step_s", "started")},
            "channels": [
                {
                    fact: getattr(channel, fact)
                    for fact in ("number", "name", "colour", "excitation_nm", "emission_nm", "exposure_ms")
                }
                for channel in facts.channels
            ],
            "stage_um": [
                {"acquisition": key[0], "row": key[1], "column": key[2], "field": key[3], "y": place[0], "x": place[1]}
                for key, place in sorted(facts.stage_um.items())
            ],
            "taken_at": _by_path(facts.taken_at),
        },
        "notes": list(plate.notes),
    }


def _by_path(values: Mapping[bytes, str]) -> dict[str, str]:
    return {_shown(path): value for path, value in sorted(values.items())}


def _numbers(values: Iterable[int]) -> str:
    numbers = sorted(set(values))
    if len(numbers) <= _LISTED_NUMBERS:
        return ", ".join(map(str, numbers))
    return f"{len(numbers)} from {numbers[0]} to {numbers[-1]}"


def _shown(path: bytes) -> str:
    from vfsd.errors import shown_path

    return shown_path(path)


def _escaped(text: str) -> str:
    from vfsd.errors import shown_path

    return shown_path(text)
