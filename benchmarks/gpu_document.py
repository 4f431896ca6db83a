"""The report of `benchmarks.gpu` as a table for the terminal, and as the figures of docs/gpu.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN = "<!-- figures: begin -->"
END = "<!-- figures: end -->"


def as_table(report: dict[str, Any]) -> str:
    """Goals first, then every figure; plain text that is Markdown too."""
    machine = report["machine"]
    lines = [f"{machine['gpu']}, {report['cores']} CPU cores, seed {report['seed']}, {report['seconds']:.0f} s"]
    lines += [f"note: {note}" for note in report.get("notes", [])]
    lines += [f"left out for want of time: {name}" for name in report["left_out"]]
    lines += [f"FAILED: {name}: {reason}" for name, reason in report["failed"].items()]
    sections = report["sections"]
    if report["goals"]:
        lines += ["", "| goal | measured | wanted | |", "|---|---|---|---|"]
        for goal in report["goals"]:
            sign, verdict = "≤" if goal["most"] else "≥", "met" if goal["met"] else "not met"
            wanted = f"{sign} {goal['target']:g} {goal['unit']}"
            lines.append(f"| {goal['name']} | {goal['value']:.3g} {goal['unit']} | {wanted} | {verdict} |")
    if "ceilings" in sections:
        lines += ["", "| ceiling | GB/s |", "|---|---|"]
        names = {
            "upload": "pinned host to device",
            "device_copy": "device to device",
            "pread": "pread to pinned memory",
        }
        lines += [f"| {names[name]} | {sections['ceilings'][name]['gb_per_s']:.4g} |" for name in names]
    if "kernels" in sections:
        lines += [
            "",
            "| engine | planes | GB/s | ms | million sequences/s | of the device copy |",
            "|---|---|---|---|---|---|",
        ]
        for kind in ("demo", "poisson"):
            for name, row in sections["kernels"][kind].items():
                if isinstance(row, dict):
                    lines.append(
                        f"| {name} | {kind} | {row['gb_per_s']:.4g} | {1e3 * row['seconds']:.4g} | "
                        f"{row['sequences_per_s'] / 1e6:.4g} | {100 * row['of_device_copy']:.3g} % |"
                    )
        chosen = sections["kernels"]
        lines += ["", f"All other figures are of `{chosen['taken']}`; the fastest is `{chosen['best']}`, vfsd takes "]
        lines[-1] += f"`{chosen['default']}`."
        if "nvcomp" in sections["kernels"]:
            lines += ["", f"nvCOMP: {sections['kernels']['nvcomp']}."]
    if "store" in sections:
        lines += ["", "| store of demo planes to an array | GB/s | ms |", "|---|---|---|"]
        for name, row in sections["store"].items():
            if isinstance(row, dict):
                lines.append(f"| {name.replace('_', ' ')} | {row['gb_per_s']:.4g} | {1e3 * row['seconds']:.4g} |")
        lines.append(f"| the limit | | {1e3 * sections['store']['limit_seconds']:.4g} |")
    if "parameters" in sections:
        lines += [
            "",
            "| planes | shuffle | block | ratio | GPU GB/s | CPU GB/s, one thread |",
            "|---|---|---|---|---|---|",
        ]
        for row in sections["parameters"]:
            lines.append(
                f"| {row['planes']} | {row['shuffle']} | {row['blocksize']} | {row['ratio']:.3f} | "
                f"{row['gpu_gb_per_s']:.4g} | {row['cpu_gb_per_s']:.3g} |"
            )
    return "\n".join(lines)


def replace_figures(document: Path, report: dict[str, Any]) -> None:
    """Put the table between the document's marks, and take back that it was not run on a GPU."""
    text = document.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{document} has no place for figures")
    lines = head.splitlines(keepends=True)
    if lines and lines[0].startswith("**Not run on a GPU"):
        lines = lines[1:]
        while lines and not lines[0].strip():
            lines = lines[1:]
    document.write_text("".join(lines) + f"{BEGIN}\n\n{as_table(report)}\n\n{END}" + tail, encoding="utf-8")
