"""What several commands take: paths as they are, sizes, and what names of plates mean."""

from __future__ import annotations

from pathlib import Path

import click

from vfsd.daemon.sizes import parse_levels, parse_size
from vfsd.errors import UsageProblem


def path(text: str) -> Path:
    """A path made absolute, its symbolic links left alone; nothing on disk is looked at."""
    if text == "" or "\0" in text:
        raise UsageProblem("a path cannot be empty")
    return Path.cwd() / text


def size(text: str) -> int:
    """A number of bytes: 8G, 512MiB, 2TB."""
    return parse_size(text)


def levels(text: str) -> int | None:
    """How many levels images get below their full size: a number, or "auto"."""
    return parse_levels(text)


PATH = path
SIZE = size
LEVELS = levels

PLATE_FORMAT = click.option(
    "--plate-format", metavar="NAME", help="Which instrument took the plate. [default: found by names and metadata]"
)
PLATE_PATTERN = click.option(
    "--pattern", metavar="PATTERN", help="What names mean, as '{row}{column}_s{field}_w{channel}.tif'."
)
