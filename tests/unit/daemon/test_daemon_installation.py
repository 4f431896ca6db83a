"""What `vfsd install-helpers` writes: whole, once, with this Python's name, and nothing of anybody else's touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vfsd.cli import main
from vfsd.daemon import installation
from vfsd.daemon.installation import PLACES, install, uninstall
from vfsd.errors import UnfitError


def test_every_file_lies_where_it_is_looked_for(tmp_path: Path) -> None:
    written = install(tmp_path)
    assert written == [tmp_path / place for place in PLACES.values()]
    for path in written:
        assert "@PYTHON@" not in path.read_text(), path
        assert os.access(path, os.X_OK) == ("sbin" in path.parts)
    assert sys.executable in (tmp_path / "sbin/mount.fuse.vfsd").read_text()
    assert install(tmp_path) == []  # nothing has changed


def test_helpers_run_as_installed(tmp_path: Path) -> None:
    install(tmp_path)
    for name in ("mount.fuse.vfsd", "umount.fuse.vfsd"):
        helper = tmp_path / "sbin" / name
        if "PYTHONPATH" in os.environ:  # then vfsd is not where an isolated Python looks
            helper.write_text(helper.read_text().replace(" -I ", " "))
        done = subprocess.run([helper, "--strange"], capture_output=True, text=True, check=False)
        assert done.returncode in (1, 32), done
        assert done.stderr.startswith(f"{name}: "), done


def test_what_is_gone_or_changed_is_written_again(tmp_path: Path) -> None:
    written = install(tmp_path)
    written[0].unlink()
    written[1].chmod(0o600)
    assert install(tmp_path) == written[:2]


def test_other_people_s_files_are_neither_overwritten_nor_removed(tmp_path: Path) -> None:
    other = tmp_path / "sbin/mount.fuse.vfsd"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\nsomething else\n")
    for act in (install, uninstall):
        with pytest.raises(UnfitError, match="is there already"):
            act(tmp_path)
    assert list(tmp_path.rglob("*.service")) == []
    assert other.read_text() == "#!/bin/sh\nsomething else\n"


def test_uninstall_takes_away_what_was_installed(tmp_path: Path) -> None:
    written = install(tmp_path)
    assert uninstall(tmp_path) == written
    assert uninstall(tmp_path) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "sbin").write_text("no folder")
    with pytest.raises(UnfitError, match="sbin"):
        install(tmp_path)


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install-helpers", "--root", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("installed ") > len(PLACES)
    assert main(["install-helpers", "--root", str(tmp_path)]) == 0
    assert "already" in capsys.readouterr().out
    assert main(["install-helpers", "--root", str(tmp_path), "--uninstall"]) == 0
    assert capsys.readouterr().out.count("removed ") > len(PLACES)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_package_without_its_templates_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "_templates", lambda: tmp_path)
    with pytest.raises(UnfitError, match="missing from this installation"):
        install(tmp_path / "root")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")
def test_units_are_what_systemd_takes(tmp_path: Path) -> None:
    install(tmp_path)
    unit = tmp_path / "usr/local/lib/systemd/system/vfsd@.service"
    text = "".join(line for line in unit.read_text().splitlines(keepends=True) if not line.startswith("Documentation="))
    unit.write_text(text)  # the manual page is installed with the program, not with the units
    example = Path(__file__).resolve().parents[3] / "systemd/examples/mnt-plate1.mount"
    done = subprocess.run(["systemd-analyze", "verify", unit, example], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["system", "user"])
def test_no_unit_hides_its_mount_or_breaks_fusermount(tmp_path: Path, kind: str) -> None:
    install(tmp_path)
    text = (tmp_path / f"usr/local/lib/systemd/{kind}/vfsd@.service").read_text()
    settings = {line.split("=")[0] for line in text.splitlines() if "=" in line and not line.startswith("#")}
    namespaced = {"PrivateTmp", "PrivateDevices", "PrivateMounts", "ReadOnlyPaths", "ReadWritePaths", "RootDirectory"}
    assert not settings & {*namespaced, "NoNewPrivileges", "DynamicUser", "InaccessiblePaths", "TemporaryFileSystem"}
    assert not {name for name in settings if name.startswith("Protect")}
    if kind == "user":
        assert not {name for name in settings if name.startswith(("SystemCall", "Restrict", "Lock"))}
