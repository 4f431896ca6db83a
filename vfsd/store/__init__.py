"""The store on disk: catalogue, OME-Zarr groups, shards, plain files.

A store is a folder (DESIGN: `vfs.json`, `catalog.sqlite`, `images/`, `files/`, `receipts/`). Rooms above reach it only
through `Store`: read a file's record, rebuild its bytes, and change everything at once through a `Transaction`, which
is either wholly there or not there at all after a crash. Nothing above builds a path into a store.

Threads: `Storage`, `StoredFiles` and everything below may be called from worker threads; `StoredFiles` guards its index
cache with one lock that is held for dictionary operations only, never across I/O. A `Catalogue` connection belongs to
the thread that opened it.
"""

from vfsd.store.catalogue import Catalogue, GroupRecord, InodeRecord, Kind, PlaneRecord
from vfsd.store.store import Store, StoreUsage, is_store
from vfsd.store.stored import StoredFiles
from vfsd.store.transaction import Transaction

__all__ = [
    "Catalogue",
    "GroupRecord",
    "InodeRecord",
    "Kind",
    "PlaneRecord",
    "Store",
    "StoreUsage",
    "StoredFiles",
    "Transaction",
    "is_store",
]
