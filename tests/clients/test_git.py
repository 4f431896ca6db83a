"""git works on a mount: a clone, commits, branches, packing, and a check of every object, also after a remount."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from blackbox.acts import some_bytes
from blackbox.daemons import DONE, Mounted, Vfsd

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(shutil.which("git") is None, reason="no git"),
]

# Nothing of whoever runs the tests may decide what git does.
ENVIRONMENT = {
    **os.environ,
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_SYSTEM": "/dev/null",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def git(folder: Path, *arguments: str | Path) -> str:
    """One git command in a repository; it must succeed."""
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", folder, *arguments],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, f"git {arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def check(repository: Path, commits: int) -> None:
    assert git(repository, "fsck", "--full", "--strict").strip() == ""
    assert git(repository, "status", "--porcelain") == ""
    assert len(git(repository, "log", "--oneline", "--all").splitlines()) == commits


def make_repository(folder: Path) -> None:
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    for number in range(12):
        (folder / f"folder {number % 3}").mkdir(exist_ok=True)
        (folder / f"folder {number % 3}" / f"{number}.py").write_text(f"print({number})\n" * 50 * number)
        (folder / "picture.bin").write_bytes(some_bytes(30_000, number))
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "-m", f"number {number}")
    (folder / "script").write_text("#!/bin/sh\n")
    (folder / "script").chmod(0o755)
    (folder / "link").symlink_to("script")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "modes")


def test_a_clone_lives_on_the_mount(tmp_path: Path, mounted: Mounted, vfsd: Vfsd) -> None:
    source, origin = tmp_path / "plate", tmp_path / "origin"
    source.mkdir()
    make_repository(origin)
    git(source, "clone", "--quiet", "--no-hardlinks", origin, "in the source")
    with mounted(source) as mount:
        clone, old = mount.path / "clone", mount.path / "in the source"
        git(mount.path, "clone", "--quiet", origin, clone)
        for repository in (clone, old):
            check(repository, 13)
            git(repository, "switch", "--quiet", "-c", "side", "HEAD~5")
            (repository / "folder 1" / "new.py").write_text("new\n")
            git(repository, "add", ".")
            git(repository, "commit", "--quiet", "-m", "on the side")
            git(repository, "merge", "--quiet", "-m", "merged", "main")
            git(repository, "mv", "folder 2", "moved")
            git(repository, "commit", "--quiet", "-m", "moved")
            git(repository, "stash", "list")
            check(repository, 16)
            git(repository, "gc", "--quiet", "--aggressive", "--prune=now")
            check(repository, 16)
        git(clone, "push", "--quiet", "origin", "side")
        assert "side" in git(origin, "branch")
        mount.umount()
    vfsd.expect(DONE, "verify", mount.store)
    with mounted(source) as again:
        for name in ("clone", "in the source"):
            check(again.path / name, 16)
            git(again.path / name, "checkout", "--quiet", "main")
            assert (again.path / name / "link").read_text() == "#!/bin/sh\n"
            check(again.path / name, 16)
