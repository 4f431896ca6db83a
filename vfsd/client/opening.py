"""Store, state folder, tiers and tree of a tree in this process: opened in this order, closed in the reverse one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import final

from vfsd.client.state_folder import StateFolder, open_state
from vfsd.errors import UnfitError
from vfsd.store import Store, is_store
from vfsd.store.store import SourceIdentity
from vfsd.store.views import FILES
from vfsd.tiers import TierFiles
from vfsd.tree import Tree

STORE_SUFFIX = ".vfs"


@final
@dataclass(frozen=True, slots=True)
class OpenTree:
    """The parts, all of which belong to the thread that opened them."""

    store: Store
    tiers: TierFiles
    tree: Tree
    state: StateFolder
    _release: Callable[[], None]

    def close(self, *, clean: bool) -> None:
        """Close everything; with `clean`, since all is stored, nothing but the store stays."""
        try:
            self.tree.close()
            self.tiers.close()
            if clean:
                self.state.remove()
            else:
                self.state.let_go()
        finally:
            self._release()


def open_parts(source: Path, store: Path | None, *, ram: int | None, cache: int | None) -> OpenTree:
    """Open a plate with its store (made if it is missing), or a store alone.

    Raises
    ------
    UnfitError
        The places are not fit: no folder, one inside another, of another source, not writable.
    BusyError
        A mount or another process has the store.
    """
    plate, root = _check_places(Path(os.path.realpath(source)), store)
    with ExitStack() as undo:
        opened = _open_store(plate, root)
        undo.callback(opened.close)
        state = open_state(opened.id, opened.root, plate, ram=ram, cache=cache)
        letting_go = undo.enter_context(ExitStack())
        letting_go.callback(state.let_go)
        tiers = TierFiles(state.ram, state.cache, state.ram_budget, state.cache_budget)
        tiers.look()
        tree = Tree(plate, opened, state.root, tiers, read_only=False)
        letting_go.pop_all()
        return OpenTree(opened, tiers, tree, state, undo.pop_all().close)


def _check_places(source: Path, store: Path | None) -> tuple[Path | None, Path]:
    """The plate, if there is one besides its store, and the store."""
    try:
        os.scandir(source).close()
    except NotADirectoryError as error:
        raise UnfitError("is no folder", path=source) from error
    except FileNotFoundError as error:
        raise UnfitError("does not exist", path=source) from error
    except OSError as error:
        raise UnfitError(f"cannot be read ({error.strerror})", path=source) from error
    if is_store(source):
        if store is not None:
            raise UnfitError("is a store itself, which has no other one", path=source)
        return None, source
    root = source.with_name(source.name + STORE_SUFFIX) if store is None else Path(os.path.realpath(store))
    for inner, outer in ((root, source), (source, root)):
        if inner.is_relative_to(outer):
            raise UnfitError(f"lies inside {outer}", path=inner, remedy="Choose another place for the store")
    return source, root


def _open_store(source: Path | None, root: Path) -> Store:
    if source is not None and not is_store(root):
        return Store.create(root, source=source)
    opened = Store.open(root, writable=True)
    with contextlib.ExitStack() as undo:
        undo.callback(opened.close)
        recorded = opened.source_identity
        if source is not None:
            moved = recorded is not None and not recorded.is_folder(SourceIdentity.of(source))
            if moved and opened.source != source:
                raise UnfitError("is the store of another source", path=root, remedy="Choose another store")
            if recorded is not None and opened.source_view != FILES:
                raise UnfitError(
                    "shows its source as TIFFs, which only a mount does", path=root, remedy="Mount it: vfsd mount"
                )
        undo.pop_all()
    return opened
