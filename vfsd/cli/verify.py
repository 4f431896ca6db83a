"""`vfsd verify STORE`: is everything in the store as it was; and, if asked for, make again what is not."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vfsd.cli.parameters import PATH

if TYPE_CHECKING:
    from vfsd.flush import Damaged, RepairReport, Sample, VerifyReport

# As many digits as a person copies without a mistake; a sample needs no more.
SEEDS = 1_000_000


@click.command("verify", short_help="Check that a store is as it was written.")
@click.argument("store", type=PATH)
@click.option("--digests", is_flag=True, help="Compare digests of what lies on the disk; rebuild nothing.")
@click.option("--sample", metavar="N|P%", help="Look at N, or P percent, of the files (with --digests: objects).")
@click.option("--seed", type=click.IntRange(min=0), metavar="N", help="Choose the sample as an earlier one was.")
@click.option("--repair", is_flag=True, help="Make again what is damaged, from the source where it still stands.")
@click.option("--source", type=PATH, metavar="DIR", help="Where the source is now, for --repair.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def verify_command(
    store: Path, digests: bool, sample: str | None, seed: int | None, repair: bool, source: Path | None, as_json: bool
) -> int:
    """Rebuild every file of STORE and compare it with the digest of the original.

    With --digests nothing is rebuilt: it is only asked whether the disk still holds what was written. What is damaged
    is named, file by file.
    """
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.daemon.running import run_until_done
    from vfsd.errors import FlushIncomplete, UsageProblem
    from vfsd.flush import repair_store, verify_store

    if repair and sample is not None:
        raise UsageProblem("--repair looks at everything: it cannot be given with --sample")
    if source is not None and not repair:
        raise UsageProblem("--source is for --repair")
    if seed is not None and sample is None:
        raise UsageProblem("--seed is for --sample")
    chosen = None if sample is None else parse_sample(sample, secrets.randbelow(SEEDS) if seed is None else seed)
    with ProgressDisplay() as display:

        def show(files_done: int, files_total: int, bytes_done: int) -> None:
            display.show(
                {
                    "stage": "verifying",
                    "files_done": files_done,
                    "files_total": files_total,
                    "bytes_done": bytes_done,
                }
            )

        if repair:
            try:
                repaired = run_until_done(
                    lambda: repair_store(
                        store, source=source, digests=digests, on_file=show, on_progress=display.show_progress
                    )
                )
            except OSError as error:
                raise FlushIncomplete(
                    f"{error.strerror or error}; the store is as it was",
                    path=store,
                    remedy="Remove the cause and give the same command again",
                ) from error
            return _tell_repair(store, repaired, as_json)
        report = verify_store(store, digests=digests, sample=chosen, on_progress=show)
    return _tell(store, report, chosen, digests, as_json)


def parse_sample(text: str, seed: int) -> Sample:
    """ "500" or "2.5%"."""
    from vfsd.errors import UsageProblem
    from vfsd.flush import Sample

    number, percent = text.strip().removesuffix("%"), text.strip().endswith("%")
    try:
        if not percent and int(number) > 0:
            return Sample(int(number), None, seed)
        if percent and 0 < float(number) <= 100:
            return Sample(None, float(number) / 100, seed)
    except ValueError:
        pass
    raise UsageProblem("a sample is a number of files, as 500, or a part of them, as 5%")


def _tell(store: Path, report: VerifyReport, sample: Sample | None, digests: bool, as_json: bool) -> int:
    from vfsd.daemon.sizes import format_count, format_size
    from vfsd.errors import VerificationFailed

    code = 0 if report.ok else VerificationFailed.exit_code
    if as_json:
        document = {"exit_code": code, "store": os.fspath(store), "ok": report.ok, **_figures(report, digests)}
        if sample is not None:
            document["sample"] = {"seed": sample.seed, "of": report.of}
        click.echo(json.dumps({**document, "damaged": _listed(report.damaged)}))
        return code
    what = format_count(report.files, "object" if digests else "file")
    if sample is not None:
        what += f" of {report.of:,} (seed {sample.seed})"
    if report.without_digest:
        click.echo(
            f"{format_count(report.without_digest, 'file')} of an older vfsd: the store has no digests of its objects yet. "
            "Without --digests every file is checked",
            err=True,
        )
    if report.ok:
        done = "the disk holds what was written" if digests else "each rebuilt, its digest is right"
        click.echo(f"{what}, {format_size(report.bytes)}: {done}.")
        return code
    click.echo(f"Looked at {what}: {_count(report.damaged)}:")
    _show(report.damaged)
    return code


def _tell_repair(store: Path, report: RepairReport, as_json: bool) -> int:
    from vfsd.errors import VerificationFailed, shown_path

    code = VerificationFailed.exit_code if report.left else 0
    if as_json:
        receipt = None if report.receipt is None else os.fspath(report.receipt)
        document = {"exit_code": code, "store": os.fspath(store), "ok": not report.left, "receipt": receipt}
        parts = {"found": report.before.damaged, "repaired": report.repaired, "damaged": report.left}
        click.echo(json.dumps({**document, **{name: _listed(part) for name, part in parts.items()}}))
        return code
    if report.before.ok:
        click.echo("Nothing is damaged: there was nothing to repair.")
        return code
    if report.repaired:
        click.echo("Made again:")
        _show(report.repaired)
    if report.receipt is not None:
        click.echo(f"Receipt: {shown_path(report.receipt)}.")
    if report.left:
        click.echo("Damaged still:")
        _show(report.left)
    return code


def _figures(report: VerifyReport, digests: bool) -> dict[str, Any]:
    counted = "objects" if digests else "files"
    return {"by": "digests" if digests else "rebuilding", counted: report.files, "bytes": report.bytes}


def _listed(damaged: Sequence[Damaged]) -> list[dict[str, Any]]:
    return [{"path": os.fsdecode(one.path), "kind": str(one.kind), "reason": one.reason} for one in damaged]


def _count(damaged: Sequence[Damaged]) -> str:
    from vfsd.daemon.sizes import format_count
    from vfsd.flush import Damage

    files = sum(one.kind is Damage.FILE for one in damaged)
    told = [f"{format_count(files, 'file')} cannot be rebuilt as they were"] if files else []
    told += ["parts of the store are damaged"] if files < len(damaged) else []
    return " and ".join(told)


def _show(damaged: Sequence[Damaged]) -> None:
    from vfsd.errors import shown_path

    for one in damaged:
        click.echo(f"  {shown_path(one.path)}: {shown_path(one.told)}")
