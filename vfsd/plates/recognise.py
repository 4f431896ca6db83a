"""Which plates a listing holds.

Every instrument claims what it knows with the strength of its evidence, and the strongest claim on a
directory wins, whatever the order of the registry. A path belongs to at most one plate. Recognition is cheap
(names and a few metadata files, never an image) and stable: a file gets the same root and position whether it
is listed alone or with its whole plate. The one exception is a file whose position another listed file takes.
It never raises: an instrument that fails is named in the log, and its files are no images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

from vfsd.plates.instrument import Claim, Instrument, Listing, ReadFile
from vfsd.plates.model import MAX_COLUMNS, MAX_ROWS, Plate
from vfsd.plates.registry import PlateFormats, choose_formats

log = logging.getLogger("vfsd.plates")


def recognise_plates(
    paths: Iterable[bytes],
    read_file: ReadFile,
    *,
    directory_name: str = "plate",
    formats: PlateFormats | None = None,
) -> list[Plate]:
    """The plates among the paths, sorted by root and name.

    Parameters
    ----------
    paths : iterable of bytes
        Files, relative to the tree, without a leading slash. A part of a plate is enough.
    read_file : callable
        Gives the contents of a path, also of one that is not listed; see `instrument.ReadFile`.
    directory_name : str
        Names a plate whose root is the tree's own.
    formats : PlateFormats, optional
        Which instruments to ask; all that are known.

    Returns
    -------
    list of Plate
        Paths of no plate are in none of them. Plates of one root have distinct names; which of them is called
        like the directory may depend on what is listed, so a store identifies a plate by root and `Plate.key`.
    """
    asked = formats or choose_formats()
    listing = Listing(tuple(sorted(set(paths))), directory_name, asked.forced)
    listed = set(listing.paths)
    claims: list[Claim] = []
    for instrument in asked.instruments:
        claims += _ask(instrument, listing, listed, read_file)
    return settle_claims(claims)


def _ask(instrument: Instrument, listing: Listing, listed: set[bytes], read_file: ReadFile) -> list[Claim]:
    try:
        return [claim for claim in instrument.claim(listing, read_file) if _is_sound(claim.plate, listed)]
    except Exception:
        # somebody else's package, or a fault of ours: the files are kept as they are, which loses nothing
        log.exception("instrument=%s failed: its files are kept as plain files", instrument.name)
        return []


def _is_sound(plate: Plate, listed: set[bytes]) -> bool:
    """Whether a plate is one of this listing: those of other packages are not ours to trust."""
    fields = plate.facts.stage_um
    in_bounds = all(0 <= row < MAX_ROWS and 0 <= column < MAX_COLUMNS for _, row, column, _ in fields)
    return plate.images.keys() <= listed and in_bounds and all(min(key) >= 0 for key in fields)


def settle_claims(claims: Iterable[Claim]) -> list[Plate]:
    """The plates that stand when the strongest claim on each root, and on each path, wins.

    Of equally strong claims the one with more images wins, then the instrument's name decides.
    """
    ranked = sorted(claims, key=_rank)
    instrument_of_root: dict[bytes, str] = {}
    taken: set[bytes] = set()
    plates: list[Plate] = []
    for claim in ranked:
        plate = claim.plate
        if instrument_of_root.setdefault(plate.root, plate.instrument) != plate.instrument:
            continue
        if not taken.isdisjoint(plate.images):
            plate = replace(plate, images={p: at for p, at in plate.images.items() if p not in taken})
        if plate.images:
            taken.update(plate.images)
            plates.append(plate)
    return sorted(_share_others(plates, taken), key=lambda plate: (plate.root, plate.name))


def _rank(claim: Claim) -> tuple[int, int, str, bytes, str]:
    plate = claim.plate
    return -claim.evidence, -len(plate.images), plate.instrument, plate.root, plate.name


def _share_others(plates: list[Plate], images: set[bytes]) -> list[Plate]:
    """Each path that is no image stays with the deepest root above it; of equals, with the strongest."""
    seen = set(images)
    shared: list[Plate] = []
    for plate in sorted(plates, key=lambda plate: -len(plate.root)):
        if not seen.isdisjoint(plate.others):
            plate = replace(plate, others={p: why for p, why in plate.others.items() if p not in seen})
        seen.update(plate.others)
        shared.append(plate)
    return shared
