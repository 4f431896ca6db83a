"""Plan → write → verify → commit → release; receipts; and the commands on whole stores (convert, verify, export).

`flush_tree` is the heart: it stores what a tree has and the store has not. All planning works on snapshots of rows; worker
threads get items, paths and buffers, never nodes. The trio thread takes the snapshot and releases, each without an await in
between. One flush at a time a tree (`Tree.flush_lock`); there are no other locks but the one around the table of failures
(`writing.Failures`), held for dictionary operations only.
"""

from vfsd.flush.convert import convert_plate
from vfsd.flush.export import ExportReport, export_store
from vfsd.flush.flush import flush_tree, is_flushing
from vfsd.flush.progress import FlushProgress, FlushResult, KeptFile
from vfsd.flush.verify import DamagedFile, VerifyReport, verify_store

__all__ = [
    "DamagedFile",
    "ExportReport",
    "FlushProgress",
    "FlushResult",
    "KeptFile",
    "VerifyReport",
    "convert_plate",
    "export_store",
    "flush_tree",
    "is_flushing",
    "verify_store",
]
