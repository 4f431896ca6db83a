"""Every benchmark, one after the other; each prints its ratios, and a full run writes docs/performance.md.

    python -m benchmarks [--quick] [--only NAME,…] [--work DIR] [--results DIR] [--document FILE]

`--results` keeps what each found as JSON; results that lie there already of benchmarks that are not run now go into the document
as well. Without `--quick` the data need about 60 GB below `--work`, and the whole takes about an hour on two cores.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from benchmarks.document import write_document

# In the order of the document; what is measured first has the quietest machine.
BENCHMARKS = (
    *("flush", "verify", "read_back", "walks", "large_file", "small_files", "opens", "codecs", "slope", "plate_size"),
    *("levels", "lzw", "read_through", "transport", "names", "journal", "policy", "tiers", "demo_plate"),
)
# Run once more over the kernel transport, where this machine has it.
OVER_KERNEL = ("read_back", "walks")
# Has options of its own and prints its JSON.
OLDER = ("demo_plate",)
ROOT = Path(__file__).parent.parent


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="small runs that only show that they run")
    options.add_argument("--only", metavar="NAME,…", help="only these")
    options.add_argument("--work", type=Path, metavar="DIR", help="folder for the data")
    options.add_argument("--results", type=Path, metavar="DIR", default=ROOT / "build" / "benchmarks")
    options.add_argument("--document", type=Path, metavar="FILE", help="what to write (default: docs/performance.md)")
    chosen = options.parse_args()
    names = chosen.only.split(",") if chosen.only else BENCHMARKS
    chosen.results.mkdir(parents=True, exist_ok=True)
    worst = 0
    for run, (name, arguments) in runs_of(names).items():
        print(f"== {run}", flush=True)
        command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
        if name not in OLDER:
            command += ["--json", str(chosen.results / f"{run}.json")]
            command += ["--quick"] if chosen.quick else []
            command += ["--work", str(chosen.work)] if chosen.work else []
        worst = max(worst, subprocess.run(command, check=False).returncode)
    document = chosen.document or (None if chosen.quick else ROOT / "docs" / "performance.md")
    if document is not None:
        write_document(document, [chosen.results / f"{run}.json" for run in runs_of(BENCHMARKS)])
    return worst


def runs_of(names: Iterable[str]) -> dict[str, tuple[str, list[str]]]:
    """What is run for these benchmarks: the name of its result, its module, its arguments."""
    runs: dict[str, tuple[str, list[str]]] = {}
    for name in names:
        runs[name] = (name, [])
        if name in OVER_KERNEL and os.geteuid() == 0:
            runs[f"{name}_kernel"] = (name, ["--transport", "kernel"])
    return runs


if __name__ == "__main__":
    sys.exit(main())
