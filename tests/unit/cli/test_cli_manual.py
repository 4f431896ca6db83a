"""Manual pages, completions and the documentation: made from the commands, and without a warning."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vfsd.cli.commands import NAMES
from vfsd.cli.manual import completions, manual_pages

ROOT = Path(__file__).resolve().parents[3]


def test_there_is_a_page_for_every_command_with_its_options() -> None:
    pages = dict(manual_pages())
    assert set(pages) == {"vfsd.1", *(f"vfsd-{name}.1" for name in NAMES)}
    assert "\\-\\-cache\\-size" in pages["vfsd-mount.1"]
    for name in NAMES:
        assert name.replace("-", "\\-") in pages["vfsd.1"]


@pytest.mark.skipif(shutil.which("man") is None, reason="no man(1)")
def test_man_shows_them_without_a_warning(tmp_path: Path) -> None:
    for name, text in manual_pages():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        command = ["man", "--warnings", "-E", "UTF-8", "-l", path]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={"MANWIDTH": "100"})
        assert (done.returncode, done.stderr) == (0, ""), name
        assert "EXIT STATUS" in done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_takes_its_completion(tmp_path: Path) -> None:
    scripts = dict(completions())
    script = next(text for place, text in scripts.items() if "bash" in place)
    path = tmp_path / "vfsd"
    path.write_text(script)
    assert subprocess.run(["bash", "-n", path], check=False).returncode == 0


@pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="no sphinx")
def test_the_documentation_builds_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-E", ROOT / "docs", tmp_path / "html"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "vfsd mount" in (tmp_path / "html/commands.html").read_text(encoding="utf-8")
