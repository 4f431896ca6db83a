"""Which instruments there are: our own, and those of other packages (entry points of the group `vfsd.plates`).

An entry point gives an `instrument.Instrument`, or a class of them without arguments. Its name is the
instrument's. A package that cannot be loaded is named in the log and left out; it never stops a mount.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from typing import final

from vfsd.errors import UsageProblem
from vfsd.plates.biotek import BioTek
from vfsd.plates.cellomics import Cellomics
from vfsd.plates.cellvoyager import CellVoyager
from vfsd.plates.harmony import Harmony
from vfsd.plates.imagexpress import ImageXpress
from vfsd.plates.incell import InCell
from vfsd.plates.instrument import Instrument
from vfsd.plates.label_names import LabelNames
from vfsd.plates.matrixscreener import MatrixScreener
from vfsd.plates.metamorph import MetaMorph
from vfsd.plates.pattern import PatternScheme
from vfsd.plates.scanr import NumberedWells, ScanR
from vfsd.plates.scheme import SchemeInstrument

ENTRY_POINTS = "vfsd.plates"

log = logging.getLogger("vfsd.plates")

BUILT_IN: tuple[Instrument, ...] = tuple(
    SchemeInstrument(scheme)
    for scheme in (
        ImageXpress(),
        Harmony(),
        CellVoyager(),
        ScanR(),
        NumberedWells(),
        MatrixScreener(),
        Cellomics(),
        BioTek(),
        InCell(),
        MetaMorph(),
    )
)


@final
@dataclass(frozen=True, slots=True)
class PlateFormats:
    """Which instruments to ask.

    Parameters
    ----------
    instruments : tuple of Instrument
        All that come into question.
    forced : bool
        There is one, and the user named it.
    labels : LabelNames
        Which names are those of label images.
    """

    instruments: tuple[Instrument, ...]
    forced: bool = False
    labels: LabelNames = field(default_factory=LabelNames)


@cache
def known_instruments() -> Mapping[str, Instrument]:
    """All instruments by name; of two with one name ours counts."""
    known = {instrument.name: instrument for instrument in BUILT_IN}
    for entry in entry_points(group=ENTRY_POINTS):
        try:
            loaded = entry.load()
            instrument = loaded() if isinstance(loaded, type) else loaded
            if not (callable(instrument.claim) and isinstance(instrument.name, str)):
                raise TypeError("it is no Instrument")
            name = instrument.name
        except Exception as error:
            # somebody else's package: whatever it does at import must not stop a mount
            log.warning("instrument=%s package=%s not loaded: %s", entry.name, entry.value, error)
            continue
        if known.setdefault(name, instrument) is not instrument:
            log.warning("instrument=%s package=%s ignored: the name is taken", name, entry.value)
    return known


def choose_formats(name: str | None = None, pattern: str | None = None, *, labels: str | None = None) -> PlateFormats:
    """The instruments to ask when the user names one, gives a pattern of names, or neither.

    `labels` is a pattern of the names of label images (`label_names.LabelNames`).

    Raises
    ------
    UsageProblem
        There is no instrument of that name, both are given, or a pattern cannot be understood.
    """
    if name is not None and pattern is not None:
        raise UsageProblem("a plate format and a pattern were given: one of them says what names mean")
    names = LabelNames(labels)
    if pattern is not None:
        return PlateFormats((SchemeInstrument(PatternScheme(pattern)),), forced=True, labels=names)
    known = known_instruments()
    if name is None:
        return PlateFormats(tuple(known.values()), labels=names)
    chosen = known.get(name.casefold()) or known.get(name)
    if chosen is None:
        raise UsageProblem(f"unknown plate format {name!r}; the known ones are {', '.join(sorted(known))}")
    return PlateFormats((chosen,), forced=True, labels=names)
