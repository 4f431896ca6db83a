"""The decoder's C, compiled under AddressSanitizer and UndefinedBehaviorSanitizer, against mutated frames."""

from __future__ import annotations

import itertools
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from sample_buffers import KINDS, make_content

import vfsd.codec
from vfsd.codec import BloscParameters, compress

HARNESS = Path(__file__).with_name("decode_harness.c")
HEADERS = Path(vfsd.codec.__file__).parent
ROUNDS = 30  # mutations of each sample: some thousands in all, in two or three seconds


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("samples") / "samples"
    sizes = (1, 130, 5000, 40_000)
    with path.open("wb") as file:
        for size, kind, shuffle, typesize in itertools.product(
            sizes, KINDS, ("noshuffle", "shuffle", "bitshuffle"), (1, 2, 3, 8, 17)
        ):
            content = make_content(kind, size, typesize)
            frame = compress(content, BloscParameters(typesize, shuffle=shuffle, blocksize=4096))
            file.write(struct.pack("=II", len(frame), len(content)) + frame + content)
    return path


@pytest.mark.parametrize("flags", [[], ["-DVFSD_PORTABLE"]], ids=["this-machine", "portable"])
def test_no_mutated_frame_makes_the_decoder_step_out_of_bounds(flags: list[str], samples: Path, tmp_path: Path) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc")
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    (tmp_path / "empty.c").write_text("int main(void) { return 0; }\n")
    probe = [compiler, *sanitizers, "empty.c", "-o", "empty"]
    if subprocess.run(probe, cwd=tmp_path, capture_output=True, check=False).returncode != 0:
        pytest.skip("gcc has no sanitizer libraries here")
    program = tmp_path / "harness"
    build = [compiler, "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *sanitizers, *flags]
    subprocess.run([*build, f"-I{HEADERS}", HARNESS, "-o", program], check=True)
    # A frame may ask for scratch of hundreds of megabytes: refused here, so that "no memory" is met as well.
    options = "allocator_may_return_null=1:max_allocation_size_mb=64:detect_leaks=1"
    result = subprocess.run(
        [program, samples, str(ROUNDS), "1"],
        env={**os.environ, "ASAN_OPTIONS": options, "UBSAN_OPTIONS": "print_stacktrace=1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    tried, decoded, made_up = (int(word) for word in result.stdout.split())
    assert tried >= 5000
    # The test would prove nothing if every mutation were stopped at the header, or none did harm.
    assert tried // 50 < decoded < tried
    assert tried // 2 < made_up < 10 * tried
