"""What `vfsd doctor --plate` prints of an OME-Zarr: the images as they are shown, and what cannot be shown or read."""

from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vfsd.store.foreign.survey import ForeignSurvey

# As many names as are read in a terminal; --json has them all.
_SHOWN = 20


def zarr_document(survey: ForeignSurvey) -> dict[str, Any]:
    """For `--json`."""
    from vfsd.errors import shown_path

    problems = [{"path": shown_path(path) or ".", "reason": reason} for path, reason in survey.problems]
    return {"images": {shown_path(name): facts for name, facts in survey.images.items()}, "problems": problems}


def print_zarr_survey(survey: ForeignSurvey, folder: str) -> None:
    """Print it for people: a line for each kind of image, then the names, then what is wrong."""
    import click

    from vfsd.daemon.sizes import format_count
    from vfsd.errors import shown_path

    click.echo(f"{folder}: OME-Zarr, {format_count(len(survey.images), 'image')} shown as TIFFs")
    kinds = Counter(_kind(facts) for facts in survey.images.values())
    for kind, count in kinds.most_common():
        click.echo(f"  {count} x {kind}")
    for name in sorted(survey.images)[:_SHOWN]:
        click.echo(f"  {shown_path(os.fsencode(name))}")
    if len(survey.images) > _SHOWN:
        click.echo(f"  … and {len(survey.images) - _SHOWN} more")
    for path, reason in survey.problems:
        click.echo(f"problem: {shown_path(path) or '.'}: {shown_path(reason)}")


def _kind(facts: dict[str, object]) -> str:
    shape = facts["shape"]
    sizes = " x ".join(map(str, shape)) if isinstance(shape, list) else "?"
    sharded = ", sharded" if "shards" in facts else ""
    return f"{sizes} {facts['dtype']}, Zarr v{facts['zarr_format']}, {facts['codec']}{sharded}"
