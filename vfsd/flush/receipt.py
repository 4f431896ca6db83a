"""The receipt: a JSON file in the store that says, file by file, what a flush stored, where, and how it was checked."""

from __future__ import annotations

import json
import platform
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import vfsd
from vfsd.errors import shown_path
from vfsd.flush.assembly import Assembly
from vfsd.flush.items import Item
from vfsd.flush.progress import FlushResult, KeptFile
from vfsd.store import Kind, Store, Transaction
from vfsd.store.stored import array_key

VERSION = 1


def put_receipt(
    store: Store, transaction: Transaction, result: FlushResult, assembly: Assembly, items: Sequence[Item], began: int
) -> Path:
    """Put the receipt of a flush into its transaction, so that it is there if and only if the flush is committed.

    Parameters
    ----------
    began : int
        When the flush started, ns since the epoch.

    Returns
    -------
    Path
        Where it will lie.
    """
    ended = datetime.now(UTC)
    document: dict[str, Any] = {
        "format": "vfsd-receipt",
        "version": VERSION,
        "store": store.id,
        "source": None if store.source is None else shown_path(store.source),
        "started": datetime.fromtimestamp(began / 1e9, UTC).isoformat(),
        "ended": ended.isoformat(),
        "host": socket.gethostname(),
        "software": {
            "vfsd": vfsd.__version__,
            "python": platform.python_version(),
            "kernel": platform.release(),
        },
        "totals": {
            "files": result.files,
            "bytes": result.bytes,
            "stored_bytes": result.stored_bytes,
            "seconds": round(result.seconds, 3),
        },
        "complete": result.complete,
        "kept_whole_beside_planes": _kept_whole(items, assembly),
        "files": [_file_entry(item, assembly) for item in sorted(items, key=lambda item: item.path)],
        "kept": _listed(result.kept),
        "waiting": _listed(result.waiting),
    }
    if result.source_replaceable is not None:
        document["source_replaceable"] = result.source_replaceable
        document["obstacles"] = _listed(result.obstacles)
    name = ended.strftime("%Y%m%dT%H%M%S.%fZ") + ".json"
    transaction.put_bytes(b"receipts/" + name.encode(), json.dumps(document, indent=1).encode() + b"\n")
    return store.root / "receipts" / name


def _file_entry(item: Item, assembly: Assembly) -> dict[str, Any]:
    record = assembly.records[item.ino]
    entry: dict[str, Any] = {
        "path": shown_path(item.path),
        "size": item.size,
        "xxh3_128": None if record.digest is None else record.digest.hex(),
        "stored": "planes" if record.kind is Kind.PLANES else "plain",
        "verified": "rebuilt from the store and compared",
    }
    try:
        item.path.decode()
    except UnicodeDecodeError:
        entry["path_hex"] = item.path.hex()
    if record.location is not None:
        entry["location"] = shown_path(record.location)
    planes = assembly.placement.planes.get(item.ino, [])
    if planes:
        entry["array"] = shown_path(array_key(assembly.groups[planes[0].group], planes[0].image))
        entry["index"] = [list(plane.index) for plane in planes]
    if record.kind is Kind.PLANES and item.layout is not None and item.layout.compressed:
        entry["compression"] = "LZW; the file's bytes are encoded anew from its planes"
    if record.kind is Kind.PLAIN and item.reason != "not a TIFF" and item.layout is None:
        entry["kept_whole_because"] = item.reason
        if planes:
            entry["costs_bytes"] = item.size  # the array has the pixels as well
    if item.notes:
        entry["notes"] = item.notes
    return entry


def _kept_whole(items: Sequence[Item], assembly: Assembly) -> dict[str, int]:
    """What it costs that compressed images are kept as they are, beside their pixels: files, and bytes of them."""
    kept = [item for item in items if assembly.records[item.ino].kind is Kind.PLAIN]
    kept = [item for item in kept if assembly.placement.planes.get(item.ino)]
    return {"files": len(kept), "bytes": sum(item.size for item in kept)}


def _listed(files: Sequence[KeptFile]) -> list[dict[str, str]]:
    return [{"path": shown_path(file.path), "reason": file.reason} for file in files]
