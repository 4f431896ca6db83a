"""`vfs.json`: what makes a folder a store. Written once, when everything else is there, and never changed."""

from __future__ import annotations

import json
from pathlib import Path

from vfsd.errors import UnfitError

FORMAT = "vfsd-store"
VERSION = 1
HEADER = "vfs.json"
WAY_OUT = "vfsd verify --repair writes it again"


def is_store(path: Path) -> bool:
    """Whether a folder is a store (of any version)."""
    try:
        with (path / HEADER).open("rb") as file:
            return FORMAT.encode() in file.read(4096)
    except OSError:
        return False


def header_bytes(store_id: str) -> bytes:
    """What `vfs.json` of a store holds."""
    return json.dumps({"format": FORMAT, "version": VERSION, "id": store_id}, indent=2).encode() + b"\n"


def read_header(root: Path) -> str:
    """The id of a store.

    Raises
    ------
    UnfitError
        No store, one of a newer version, not readable, or damaged.
    """
    try:
        header = json.loads((root / HEADER).read_bytes())
    except FileNotFoundError as error:
        raise UnfitError("is no vfsd store (it has no vfs.json)", path=root) from error
    except OSError as error:
        raise UnfitError(f"the store cannot be read ({error.strerror})", path=root) from error
    except ValueError as error:
        raise UnfitError("its vfs.json is damaged", path=root, remedy=WAY_OUT) from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise UnfitError("is no vfsd store (its vfs.json says otherwise)", path=root)
    version = header.get("version")
    if not isinstance(version, int) or version < 1:
        raise UnfitError("its vfs.json is damaged (no version)", path=root, remedy=WAY_OUT)
    if version > VERSION:
        raise UnfitError(
            f"was written by a newer vfsd (store version {version}, this one knows {VERSION})",
            path=root,
            remedy="Use that newer vfsd",
        )
    store_id = header.get("id")
    if not isinstance(store_id, str) or len(store_id) != 32 or not all(c in "0123456789abcdef" for c in store_id):
        raise UnfitError("its vfs.json is damaged (no id)", path=root, remedy=WAY_OUT)
    return store_id
