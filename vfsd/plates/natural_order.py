"""The order in which people expect names: folders before files, `s2` before `s10`, case ignored.

Pure functions of bytes; digits are never converted, since a name may hold thousands of them.
"""

from __future__ import annotations

import re

_DIGITS = re.compile(rb"(\d+)")

_ComponentKey = tuple[bool, tuple[bytes | tuple[int, bytes], ...]]
NaturalKey = tuple[tuple[_ComponentKey, ...], bytes]


def natural_key(path: bytes) -> NaturalKey:
    """Sorts paths as a file browser does: folders before files, `s2` before `s10`, case ignored.

    Digits are compared by length and value, not converted: a name may hold thousands of them.
    """
    *folders, name = path.split(b"/")
    key = [(False, _chunks(folder)) for folder in folders]
    key.append((True, _chunks(name)))
    return tuple(key), path


def _chunks(component: bytes) -> tuple[bytes | tuple[int, bytes], ...]:
    pieces = _DIGITS.split(component.lower())
    return tuple(_number_key(piece) if i % 2 else piece for i, piece in enumerate(pieces))


def _number_key(digits: bytes) -> tuple[int, bytes]:
    value = digits.lstrip(b"0")
    return len(value), value
