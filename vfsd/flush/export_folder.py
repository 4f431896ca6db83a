"""The folder that an export is written into: whose it is, whether it is finished, and a place for what is being written.

At its top, as long as the export is not finished, lies a folder of our own (`.vfsd-export`) with a note that says what
is exported. Files are written there and renamed to their place, so that whatever has its name is whole. Started again with the
same note it goes on; nothing is written into a folder that holds anything else.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import final

from vfsd.errors import UnfitError
from vfsd.store.storage import sync_file_system

MARK = b".vfsd-export"
NOTE = b"export.json"
# A note is one line; more is none of ours.
LONGEST_NOTE = 4096


@final
class ExportFolder:
    """See the module.

    Parameters
    ----------
    directory : Path
        Made if it is missing.
    store : Path
        The store's folder, in which no export goes.
    note : mapping
        What is exported, and how.
    mark : bytes
        The name of our own folder; another than `MARK` where a file is called like that.

    Raises
    ------
    UnfitError
        The directory holds something else, or cannot be written.
    """

    def __init__(self, directory: Path, store: Path, note: Mapping[str, str], mark: bytes = MARK) -> None:
        if directory.resolve().is_relative_to(store.resolve()):
            raise UnfitError("lies inside the store", path=directory, remedy="Choose another folder")
        self.path = os.fsencode(directory)
        self.own = self.path + b"/" + mark
        said = json.dumps(dict(note)).encode()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            names = set(os.listdir(self.path))
            left = self._left() if mark in names else None
            begun = names == {mark} and not left  # it ended before the note was there: nothing else is yet
            if names and not begun and (left is None or self._said() != said):
                raise UnfitError(
                    "is not empty, and no export of this store", path=directory, remedy="Choose a new folder"
                )
            if mark not in names:
                os.mkdir(self.own, 0o700)
            for name in left or ():
                if name != NOTE:
                    os.unlink(self.own + b"/" + name)
            with open(self.own + b"/part", "wb") as file:
                file.write(said)
            os.rename(self.own + b"/part", self.own + b"/" + NOTE)
        except OSError as error:
            raise UnfitError(f"cannot be written ({error.strerror})", path=directory) from error

    def _left(self) -> list[bytes] | None:
        """What is in our own folder; None where that is none."""
        try:
            return os.listdir(self.own)
        except NotADirectoryError:
            return None

    def _said(self) -> bytes | None:
        try:
            with open(self.own + b"/" + NOTE, "rb") as file:
                return file.read(LONGEST_NOTE)
        except FileNotFoundError:
            return None

    def finish(self) -> None:
        """All is there: make it durable, and let our own folder go."""
        sync_file_system(self.path)
        shutil.rmtree(self.own)
