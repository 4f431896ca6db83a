"""`vfsd install-helpers`: what mount(8), umount(8) and systemd need to know of vfsd."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click

from vfsd.cli.parameters import PATH

RUNNING_SYSTEMD = Path("/run/systemd/system")


@click.command("install-helpers", short_help="Let mount(8), umount(8) and systemd know vfsd.")
@click.option("--root", type=PATH, metavar="DIR", help="Install below DIR, for a package. [default: /]")
@click.option("--uninstall", is_flag=True, help="Remove what was installed.")
def install_helpers_command(root: Path | None, uninstall: bool) -> int:
    """Install mount.fuse.vfsd and umount.fuse.vfsd, units for systemd, manual pages and completions for shells.

    Then 'mount -t fuse.vfsd PLATE MOUNTPOINT' and lines of fstab work, and a plain 'umount' waits until everything is
    in the store.
    """
    from vfsd.cli.manual import completions, manual_pages
    from vfsd.daemon import installation
    from vfsd.errors import shown_path

    where = Path("/") if root is None else root
    generated = [
        installation.Piece(where / "usr/local" / place, text, 0o644)
        for place, text in (*((f"share/man/man1/{name}", text) for name, text in manual_pages()), *completions())
    ]
    changed = (installation.uninstall if uninstall else installation.install)(where, generated)
    for path in changed:
        click.echo(f"{'removed' if uninstall else 'installed'} {shown_path(path)}")
    if not changed:
        click.echo("Nothing to remove." if uninstall else "Everything is installed already.")
    elif root is None and RUNNING_SYSTEMD.is_dir():
        subprocess.run(["systemctl", "daemon-reload"], check=False)
    return 0
