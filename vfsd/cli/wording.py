"""Numbers, times and results in words, for terminals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vfsd.daemon.sizes import format_count, format_size
from vfsd.errors import shown_path

# What was done with what was written before anything was given up for it.
VERIFIED = {
    "full": "each rebuilt from there and compared",
    "digest": "read back from there, but not rebuilt",
    "off": "not verified",
}


def format_duration(seconds: float) -> str:
    """ "0.4 s", "34 s", "5 min 10 s", "2 h 5 min", "3 days"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 2 * 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} days"


def receipt_lines(outcome: Mapping[str, Any]) -> list[str]:
    """The two lines that say what a flush did: how much went where, and what the receipt is good for."""
    flush = outcome.get("flush")
    if outcome.get("read_only"):
        return ["The mount was read-only: there was nothing to store."] if outcome["exit_code"] == 0 else []
    store = shown_path(outcome["store"]) if outcome.get("store") else "the store"
    if not isinstance(flush, Mapping) or not (flush["files"] or flush["receipts"]):
        return [f"Nothing new to store in {store}."] if outcome["exit_code"] == 0 else []
    size, stored = flush["bytes"], flush["stored_bytes"]
    ratio = f" (ratio {size / stored:.1f})" if stored else ""
    files = format_count(flush["files"], "file")
    first = (
        f"{files}, {format_size(size)}, stored as {format_size(stored)}{ratio} "
        f"in {store} in {format_duration(flush['seconds'])}; {VERIFIED[flush.get('verify', 'full')]}."
    )
    if not flush["files"]:
        first = f"No new bytes; the changed names and attributes are in {store}."
    receipts = ", ".join(shown_path(receipt) for receipt in flush["receipts"]) or "none"
    return [first, f"Receipt: {receipts}. {_verdict(flush)}"]


def _verdict(flush: Mapping[str, Any]) -> str:
    if flush["kept_files"]:
        return f"{format_count(flush['kept_files'], 'file')} did not reach the store."
    if flush["source_replaceable"]:
        return "The store can replace the source."
    if flush["source_replaceable"] is None:
        return "The source is unchanged and still needed."
    obstacles = flush.get("obstacles") or []
    reason = f": {shown_path(obstacles[0]['path'])}: {obstacles[0]['reason']}" if obstacles else ""
    more = f" (and {len(obstacles) - 1:,} more, in the receipt)" if len(obstacles) > 1 else ""
    return f"The source is still needed{reason}{more}."
