"""Every benchmark, one after the other: `python -m benchmarks [--quick]`; each prints its ratios."""

from __future__ import annotations

import subprocess
import sys

BENCHMARKS = ("demo_plate", "lzw", "levels", "read_through", "names", "policy", "tiers", "flush")


def main() -> int:
    worst = 0
    for name in BENCHMARKS:
        print(f"== {name}", flush=True)
        worst = max(
            worst, subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *sys.argv[1:]], check=False).returncode
        )
    return worst


if __name__ == "__main__":
    sys.exit(main())
