"""Putting mount helpers, systemd units and the rest where the machine looks for them, and taking them away again.

The files are templates in `mount_helpers/` and `systemd/` (of a checkout) or beside the installed package. They
name the Python of *this* installation, so that mount(8), which knows no PATH, finds it. Each file
is written whole and renamed into place. What is there and is not ours is never overwritten or removed.
"""

from __future__ import annotations

import shlex
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vfsd.errors import UnfitError

# Where a file comes from, and where it goes: mount(8) looks nowhere else, and administrators' own units go to /usr/local.
PLACES = {
    "mount_helpers/mount.fuse.vfsd": "sbin/mount.fuse.vfsd",
    "mount_helpers/umount.fuse.vfsd": "sbin/umount.fuse.vfsd",
    "systemd/system/vfsd@.service": "usr/local/lib/systemd/system/vfsd@.service",
    "systemd/user/vfsd@.service": "usr/local/lib/systemd/user/vfsd@.service",
    "systemd/tmpfiles.d/vfsd.conf": "usr/local/lib/tmpfiles.d/vfsd.conf",
}
# In every file of ours; what lacks it belongs to somebody else.
OURS = "vfsd"


@dataclass(frozen=True, slots=True)
class Piece:
    """One file to install."""

    destination: Path
    text: str
    mode: int


def pieces(root: Path) -> Iterator[Piece]:
    """Every file, as it is to lie below `root` (the machine's, or a package's staging folder).

    Raises
    ------
    UnfitError
        If the templates did not come with this installation.
    """
    templates = _templates()
    for source, destination in PLACES.items():
        template = templates / source
        try:
            text = template.read_text(encoding="utf-8")
            executable = template.stat().st_mode & 0o111 != 0 or destination.startswith("sbin/")
        except OSError as error:
            raise UnfitError(f"is missing from this installation: {error.strerror}", path=template) from error
        python = shlex.quote(sys.executable) if executable else _quoted_for_systemd(sys.executable)
        yield Piece(root / destination, text.replace("@PYTHON@", python), 0o755 if executable else 0o644)


def install(root: Path, generated: Iterable[Piece] = ()) -> list[Path]:
    """Write every file, and those that somebody else made; returns those that were not there as they are now.

    Raises
    ------
    UnfitError
        If one cannot be written, or another's file is in its place.
    """
    wanted = [*pieces(root), *generated]
    for piece in wanted:
        _refuse_what_is_not_ours(piece.destination)
    return [piece.destination for piece in wanted if _write(piece)]


def uninstall(root: Path, generated: Iterable[Piece] = ()) -> list[Path]:
    """Remove what `install` wrote; returns what was there."""
    removed = []
    for path in [*(root / destination for destination in PLACES.values()), *(piece.destination for piece in generated)]:
        if path.is_symlink() or path.exists():
            _refuse_what_is_not_ours(path)
            try:
                path.unlink()
            except OSError as error:
                raise UnfitError(f"cannot be removed: {error.strerror}", path=path) from error
            removed.append(path)
    return removed


def _templates() -> Path:
    """The folder with `mount_helpers/` and `systemd/`: the checkout's, else that of the installed package."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "mount_helpers").is_dir() and (checkout / "pyproject.toml").is_file():
        return checkout
    return Path(sysconfig.get_path("data")) / "share" / "vfsd"


def _quoted_for_systemd(path: str) -> str:
    """A program's path as ExecStart= takes it."""
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"' if escaped != path or " " in path else path


def _refuse_what_is_not_ours(path: Path) -> None:
    try:
        ours = not path.is_symlink() and OURS in path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnfitError(f"cannot be read: {error.strerror}", path=path) from error
    if not ours:
        raise UnfitError("is there already, and is not vfsd's", path=path, remedy="Move it away first")


def _write(piece: Piece) -> bool:
    path = piece.destination
    try:
        if (
            path.exists()
            and path.read_text(encoding="utf-8") == piece.text
            and path.stat().st_mode & 0o777 == piece.mode
        ):
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.new")
        beside.write_text(piece.text, encoding="utf-8")
        beside.chmod(piece.mode)
        beside.replace(path)
    except OSError as error:
        raise UnfitError(f"cannot be written: {error.strerror}", path=path, remedy="Run it as root") from error
    return True
