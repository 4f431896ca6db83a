"""The receipt: a JSON file in the store that says, file by file, what a flush stored, where, and how it was checked.

It is written an entry at a time: a plate of a hundred thousand files takes no more memory than one of ten. The verdict stands
before the list of files. It is an object of the transaction, so it is on the disk, synced, if and only if the flush is
committed. Names that are no UTF-8 are escaped for display, and have their bytes in hexadecimal beside them.
"""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, final

import xxhash

import vfsd
from vfsd.errors import shown_path
from vfsd.flush.assembly import Assembly
from vfsd.flush.items import Item
from vfsd.flush.progress import FlushResult, KeptFile
from vfsd.store import InodeRecord, Kind, Store, Transaction
from vfsd.store.objects import ObjectDigest
from vfsd.store.storage import write_all
from vfsd.store.stored import array_key

VERSION = 1
# Written in pieces of about this size.
PIECE = 256 << 10


def put_receipt(
    store: Store,
    transaction: Transaction,
    result: FlushResult,
    assembly: Assembly,
    items: Sequence[Item],
    began: int,
    *,
    repair: bool = False,
) -> Path:
    """Put the receipt of a flush into its transaction.

    Parameters
    ----------
    began : int
        When the flush started, ns since the epoch.
    repair : bool
        The files were damaged in the store, and are stored again.

    Returns
    -------
    Path
        Where it will lie.
    """
    ended = datetime.now(UTC)
    name = ended.strftime("%Y%m%dT%H%M%S.%fZ") + ".json"
    ordered = sorted(items, key=lambda item: item.path)
    document: dict[str, Any] = {
        "format": "vfsd-receipt",
        "version": VERSION,
        "store": store.id,
        "generation": transaction.generation,
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
        "repair": repair,
        "verified": result.verify.told,
        "complete": result.complete,
        "kept_whole_beside_planes": _kept_whole(items, assembly),
    }
    if result.source_replaceable is not None:
        document["source_replaceable"] = result.source_replaceable
    key = b"receipts/" + name.encode()
    writer = _Writer(transaction, key)
    try:
        writer.begin(document)
        if result.source_replaceable is not None:
            writer.array("obstacles", map(_listed, result.obstacles))
        writer.array("kept", map(_listed, result.kept))
        writer.array("waiting", map(_listed, result.waiting))
        told = result.verify.told
        writer.array("files", (_file_entry(item, assembly.record(item), assembly, told) for item in ordered))
        writer.end()
    finally:
        writer.close()
    transaction.describe(key, writer.written)
    return store.root / "receipts" / name


@final
class _Writer:
    """A JSON object written front to back: plain members first, then arrays, one entry a line."""

    def __init__(self, transaction: Transaction, key: bytes) -> None:
        self._fd = transaction.create(key)
        self._hasher = xxhash.xxh3_128()
        self._size = self._waiting = 0
        self._pieces: list[bytes] = []

    @property
    def written(self) -> ObjectDigest:
        """What is in the file."""
        return ObjectDigest(self._size, self._hasher.digest())

    def begin(self, members: Mapping[str, Any]) -> None:
        """The plain members."""
        self._put(json.dumps(members, indent=1).removesuffix("\n}"))

    def array(self, name: str, entries: Iterable[Mapping[str, Any]]) -> None:
        """An array, whose entries are made as they are written."""
        self._put(f",\n {json.dumps(name)}: [")
        before = "\n  "
        for entry in entries:
            self._put(before + json.dumps(entry))
            before = ",\n  "
        self._put("\n ]" if before.startswith(",") else "]")

    def end(self) -> None:
        """Nothing comes any more."""
        self._put("\n}\n")
        self._flush()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._fd)

    def _put(self, text: str) -> None:
        self._pieces.append(text.encode("ascii"))
        self._waiting += len(text)
        if self._waiting >= PIECE:
            self._flush()

    def _flush(self) -> None:
        data = b"".join(self._pieces)
        self._pieces, self._waiting = [], 0
        write_all(self._fd, data)
        self._hasher.update(data)
        self._size += len(data)


def _file_entry(item: Item, record: InodeRecord, assembly: Assembly, verified: str) -> dict[str, Any]:
    entry: dict[str, Any] = {
        **_named(item.path),
        "size": item.size,
        "xxh3_128": None if record.digest is None else record.digest.hex(),
        "stored": "planes" if record.kind is Kind.PLANES else "plain",
        "verified": verified,
    }
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
    plain = assembly.placement.plain
    kept = [item for item in items if item.ino in plain and assembly.placement.planes.get(item.ino)]
    return {"files": len(kept), "bytes": sum(item.size for item in kept)}


def _listed(file: KeptFile) -> dict[str, str]:
    return {**_named(file.path), "reason": file.reason}


def _named(path: bytes) -> dict[str, str]:
    """A path for people, and its bytes where that does not say them."""
    shown = shown_path(path)
    return {"path": shown} if os.fsencode(shown) == path else {"path": shown, "path_hex": path.hex()}
