"""The kernels' source as one text, which is what NVRTC takes: local includes put in place, each once.

The files stay what a compiler reads by itself, so that nvcc and the tests' g++ use them as they lie.
"""

from __future__ import annotations

import functools
import re
from importlib import resources
from typing import Final

_INCLUDE: Final = re.compile(r'^#include "([\w.]+)"$', re.MULTILINE)

DECODE: Final = "decode.cu"
ENCODE: Final = "encode.cu"


@functools.cache
def kernel_source(name: str) -> str:
    """The text of `vfsd/gpu/kernels/<name>`, whole."""
    folder = resources.files("vfsd.gpu") / "kernels"
    seen: set[str] = set()

    def inlined(file: str) -> str:
        seen.add(file)
        text = (folder / file).read_text(encoding="utf-8")
        return _INCLUDE.sub(lambda match: "" if match[1] in seen else inlined(match[1]), text)

    return inlined(name)
