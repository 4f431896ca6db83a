"""`make gpu` runs to its end, and with next to nothing installed: on the device whose kernels run on the CPU."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cpu_device import HERE

ROOT = HERE.parents[1]

# Only what `make gpu` may count on can be imported; the rest is as if it were not installed.
BARE = """
import importlib.machinery, sys
ALLOWED = {"numpy", "numcodecs", "vfsd", "benchmarks", "typing_extensions", "cpu_device", "msgpack"}
class Installed:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        if top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_sysconfigdata"):
            return importlib.machinery.PathFinder.find_spec(name, path, target)
        return None
sys.meta_path[:] = [importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, Installed]
sys.path[:0] = sys.argv[2:4]
import ctypes
import cpu_device
from benchmarks.gpu import main
machine = cpu_device.CpuMachine(ctypes.CDLL(sys.argv[1]))
sys.exit(main(sys.argv[4:], machine))
"""


def test_every_section_runs_where_little_is_installed(kernels: ctypes.CDLL, tmp_path: Path) -> None:
    document = tmp_path / "gpu.md"
    document.write_text("# GPU\n<!-- figures: begin -->\n<!-- figures: end -->\nEnd\n")
    options = ["--quick", "--json", str(tmp_path / "gpu.json"), "--work", str(tmp_path), "--document", str(document)]
    command = [sys.executable, "-c", BARE, kernels._name, str(ROOT), str(HERE), *options]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:] + result.stdout[-1000:]
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert not report["failed"]
    assert not report["left_out"]
    assert report["sections"]["correct"]["frames"] == 40
    names = [goal["name"] for goal in report["goals"]]
    for part in ("kernels alone", "one demo plane", "store to array", "compression", "compressed size"):
        assert any(part in name for name in names)
    assert "figures: begin" in document.read_text()


PROVIDED = """
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks import gpu_machine
print(gpu_machine._provide_extension())
import numpy as np
from numcodecs import blosc
from vfsd.codec import FrameError, decompress_into
content = bytes(range(256)) * 300
out = np.empty(len(content), np.uint8)
frame = blosc.compress(content, b"lz4", 5, 1, 0, 2)
decompress_into(frame, out.data)
assert out.tobytes() == content
try:
    decompress_into(frame[:-9], out.data)
except FrameError:
    print("refused")
"""


def test_the_cpu_decodes_without_the_extension_and_without_a_compiler(tmp_path: Path) -> None:
    for path, said in ((os.environ["PATH"], "was built"), (str(tmp_path), "by numcodecs")):
        command = [sys.executable, "-c", PROVIDED, str(ROOT)]
        result = subprocess.run(
            command, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False, cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
        if path != str(tmp_path) and "was built" not in result.stdout:
            said = "by numcodecs"  # no compiler here either
        assert said in result.stdout
        assert result.stdout.endswith("refused\n")


def test_checksums_are_the_same_as_googles() -> None:
    google_crc32c = pytest.importorskip("google_crc32c")
    from benchmarks.gpu_machine import crc32c

    for data in (b"", b"123456789", bytes(range(256)) * 3):
        assert crc32c(data) == google_crc32c.value(data)


def test_figures_replace_the_note_that_there_are_none(tmp_path: Path) -> None:
    from benchmarks.gpu_document import BEGIN, END, replace_figures

    document = tmp_path / "gpu.md"
    document.write_text(f"**Not run on a GPU.** All else is.\n\n# GPU\n\n{BEGIN}\nold\n{END}\nbehind\n")
    report = {
        "machine": {"gpu": "a GPU"},
        "cores": 1,
        "seed": 2,
        "seconds": 3.0,
        "left_out": [],
        "failed": {},
        "goals": [],
        "sections": {},
    }
    replace_figures(document, report)
    text = document.read_text()
    assert text.startswith("# GPU\n")
    assert "old" not in text
    assert "a GPU" in text
    assert text.endswith(f"{END}\nbehind\n")


def test_the_documents_place_for_figures_is_there() -> None:
    from benchmarks.gpu_document import BEGIN, END

    text = (ROOT / "docs" / "gpu.md").read_text()
    assert text.index(BEGIN) < text.index(END)
    assert "Not run on a GPU" not in text or text.startswith("**Not run on a GPU")
