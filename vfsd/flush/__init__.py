"""Plan → write → verify → commit → release; receipts; and the commands on whole stores (convert, verify, export).

`flush_tree` is the heart: it stores what a tree has and the store has not. All planning works on snapshots of rows; worker
threads get items, paths and buffers, never nodes. The trio thread takes the snapshot and releases, each without an await in
between. One flush at a time a tree (`Tree.flush_lock`); there are no other locks but the one around the table of failures
(`writing.Failures`), held for dictionary operations only.
"""

from vfsd.flush.convert import convert_plate
from vfsd.flush.damage import Damage, Damaged
from vfsd.flush.export import ExportReport, export_store
from vfsd.flush.flush import flush_tree, is_flushing
from vfsd.flush.order import Verify
from vfsd.flush.progress import FlushProgress, FlushResult, KeptFile
from vfsd.flush.repair import RepairReport, repair_store
from vfsd.flush.verify import Sample, VerifyReport, verify_store

__all__ = [
    "Damage",
    "Damaged",
    "ExportReport",
    "FlushProgress",
    "FlushResult",
    "KeptFile",
    "RepairReport",
    "Sample",
    "Verify",
    "VerifyReport",
    "convert_plate",
    "export_store",
    "flush_tree",
    "is_flushing",
    "repair_store",
    "verify_store",
]
