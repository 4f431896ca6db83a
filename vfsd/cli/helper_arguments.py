"""What mount(8) and umount(8) pass to their helpers, and the exit codes that they expect back.

Both call `HELPER SPEC [DIRECTORY] [-sfnv…] [-N NAMESPACE] [-o OPTIONS] [-t TYPE.SUBTYPE]`, with the flags anywhere.
"""

from __future__ import annotations

import getopt
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from vfsd.errors import UnfitError, UsageProblem, shown_path

# What mount(8) documents; umount(8) has the same.
WRONG_INVOCATION = 1
SYSTEM_ERROR = 2
FAILED = 32
TYPES = frozenset({"fuse.vfsd", "vfsd", "fuse"})


@dataclass(frozen=True, slots=True)
class HelperArguments:
    """One call of a helper. `operands` are SPEC and DIRECTORY, or the directory alone."""

    operands: tuple[str, ...]
    flags: frozenset[str]
    options: tuple[str, ...]
    namespace: str | None


def read_arguments(arguments: Sequence[str], flags: str) -> HelperArguments:
    """Read the arguments of a helper that knows these one-letter flags.

    Raises
    ------
    UsageProblem
        For unknown flags, flags without their value, or a type that is not ours.
    """
    try:
        found, operands = getopt.gnu_getopt(list(arguments), f"{flags}N:o:t:", ["help"])
    except getopt.GetoptError as error:
        raise UsageProblem(shown_path(str(error))) from None
    values: dict[str, list[str]] = {}
    for flag, value in found:
        values.setdefault(flag, []).append(value)
    kind = values.get("-t", ["fuse.vfsd"])[-1]
    if kind not in TYPES:
        raise UsageProblem(f"the type {shown_path(kind)!r} is not fuse.vfsd")
    given = frozenset(flag.removeprefix("-") for flag in values if flag not in ("-N", "-o", "-t"))
    return HelperArguments(tuple(operands), given, tuple(values.get("-o", ())), values.get("-N", [None])[-1])


def enter_namespace(namespace: str, module: str, arguments: Sequence[str]) -> NoReturn:
    """Begin again inside another mount namespace, given as a process number or a file (`mount -N`).

    Raises
    ------
    UnfitError
        If nsenter(1) cannot be run.
    """
    where = f"/proc/{namespace}/ns/mnt" if namespace.isdigit() else namespace
    rest = _without_namespace(arguments)
    try:
        os.execvp("nsenter", ["nsenter", f"--mount={where}", sys.executable, "-I", "-m", module, *rest])
    except OSError as error:
        raise UnfitError(f"nsenter cannot be run: {error.strerror}", path=where) from error


def _without_namespace(arguments: Sequence[str]) -> list[str]:
    rest = []
    wanted = iter(arguments)
    for argument in wanted:
        if argument == "-N":
            next(wanted, None)
        elif not argument.startswith("-N"):
            rest.append(argument)
    return rest
