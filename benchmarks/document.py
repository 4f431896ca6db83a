"""docs/performance.md from the results of benchmarks: the machine, and every figure with its ratio to something.

Only tables; what the figures mean is said once, above them. A time alone says nothing, since it is this machine's: none is
written without what it was compared with.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

HEAD = """# How fast vfsd is

Written by `make bench`; do not edit. Each line compares vfsd with something that ran in turn with it, in the same minutes, on the
same data: *ratio* is how many times better vfsd is (more of what is wanted, or less of what is not), *goal* what it should be at
least. Medians; cold means that nothing was in the page cache. Times are this machine's: look at the ratios.

"""

TITLES = {
    "flush": "Storing new images, verified",
    "verify": "What verification costs",
    "read_back_kernel": "Reading a stored plate, kernel transport",
    "read_back": "Reading a stored plate",
    "walks_kernel": "Walking over a plate, kernel transport",
    "walks": "Walking over a plate, 10 ms of computing a plane: prefetch against none",
    "large_file": "A piece of a large file, against its whole plane",
    "small_files": "Small files",
    "opens": "One file for a field, against the claim of 40 times",
    "codecs": "The codec",
    "slope": "100 GB",
    "plate_size": "Plates of few and of many images",
    "levels": "Levels for viewers",
    "lzw": "LZW strips",
    "read_through": "Reading the source through the mount",
    "transport": "The kernel transport, pyfuse3, and others",
    "names": "Names",
    "journal": "How long a change waits for the journal",
    "policy": "Who goes first when RAM is short",
    "tiers": "RAM as a budget",
}


def write_document(path: Path, results: Iterable[Path]) -> None:
    """Write the document from those results that are there."""
    found = [json.loads(result.read_text()) for result in results if result.exists()]
    parts = [HEAD, _machine(found)]
    for result in found:
        parts.append(_section(result))
    path.write_text("\n".join(parts))


def _machine(results: Sequence[dict[str, Any]]) -> str:
    if not results:
        return "Nothing was measured.\n"
    machine = results[0]["machine"]
    model = machine.get("processor", "processor not named")
    return (
        f"Machine: {model}, {machine['cpus']} cores, {machine['memory'] / 1e9:.0f} GB of memory, Linux {machine['kernel']}, "
        f"Python {machine['python']}; {time.strftime('%Y-%m-%d', time.gmtime())}.\n"
    )


def _section(result: dict[str, Any]) -> str:
    name = result["benchmark"]
    title = next((title for key, title in TITLES.items() if name.startswith(key)), name)
    lines = [f"## {title}", ""]
    if result["goals"]:
        lines += ["| what | vfsd | compared with | unit | ratio | goal | |", "|---|---:|---:|---|---:|---:|---|"]
        for goal in result["goals"]:
            lines.append(
                f"| {goal['name']} | {goal['ours']:.3g} | {goal['peer']:.3g} | {goal['unit']} | {goal['ratio']:.2f} | "
                f"{goal['target']:.3g} | {'met' if goal['met'] else 'not met'} |"
            )
        lines.append("")
    memory = result.get("memory", {})
    if memory.get("samples"):
        lines += [f"The daemon took {memory['own'] / 1e6:.0f} MB at most, without the files that it keeps in RAM.", ""]
    lines += _side_by_side(result["details"].get("side by side", {}))
    lines += _facts(result["details"])
    return "\n".join(lines)


def _side_by_side(table: dict[str, dict[str, float]]) -> list[str]:
    """What each contestant did, one a column, where there were several."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    if not columns:
        return []
    lines = [f"| what | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for what, row in table.items():
        lines.append(f"| {what} | " + " | ".join(f"{row[name]:.3g}" if name in row else "" for name in columns) + " |")
    return [*lines, ""]


# Of the details those that explain a table, by their name; lists of rounds stay in the JSON.
SHOWN = (
    "bytes read by passthrough",
    "bytes moved by the daemon meanwhile",
    "planes",
    "planes a shard",
    "bytes",
    "stored bytes",
    "plate",
    "files",
    "size",
    "GB",
    "s a GB",
    "prefetch",
)


def _facts(details: dict[str, Any]) -> list[str]:
    facts = [f"{name}: {_short(details[name])}" for name in SHOWN if name in details]
    return ["; ".join(facts) + ".", ""] if facts else []


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name} {_short(part)}" for name, part in value.items()) + ")"
    if isinstance(value, list):
        return ", ".join(map(_short, value))
    return str(value)
