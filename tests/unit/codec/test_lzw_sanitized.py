"""The LZW codec's C, compiled under AddressSanitizer and UndefinedBehaviorSanitizer, against mutated strips."""

from __future__ import annotations

import itertools
import shutil
import struct
import subprocess
from pathlib import Path

import imagecodecs
import pytest
from sample_buffers import KINDS, make_content

import vfsd.codec

HARNESS = Path(__file__).with_name("lzw_harness.c")
HEADERS = Path(vfsd.codec.__file__).parent
ROUNDS = 300


def test_no_mutated_strip_makes_the_codec_step_out_of_bounds(tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    probe = [compiler, *sanitizers, "empty.c", "-o", "empty"]
    if subprocess.run(probe, cwd=tmp_path, capture_output=True, check=False).returncode != 0:
        pytest.skip("gcc has no sanitizer libraries here")
    with (tmp_path / "samples").open("wb") as file:
        for size, kind in itertools.product((1, 40, 700, 9000), KINDS):
            content = make_content(kind, size, 2)
            strip = imagecodecs.lzw_encode(content)
            file.write(struct.pack("=II", len(strip), len(content)) + strip + content)
    program = tmp_path / "harness"
    build = [compiler, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *sanitizers]
    subprocess.run([*build, f"-I{HEADERS}", HARNESS, "-o", program], check=True)
    result = subprocess.run(
        [program, tmp_path / "samples", str(ROUNDS), "1"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-4000:]
    tried, decoded = (int(word) for word in result.stdout.split())
    assert tried >= 3000
    assert tried // 50 < decoded < tried
