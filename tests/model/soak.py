"""Run the model for as long as you like: `make soak`.

SOAK_LAYERS (source,overlay,store), SOAK_STEPS and SOAK_SECONDS (of each layer; without either it goes on until interrupted,
layer after layer), SOAK_SEED choose; SOAK_SHRINK=0 shows a failure as it
was met. Prints the steps and the seed of each layer; the same seed takes the same steps.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
import tempfile
import time
from pathlib import Path

import hypothesis
from hypothesis import HealthCheck, Phase, settings

from model.bench import LAYERS, bench_on
from model.machine import Counter, TwinMachine

EXAMPLES, STEPS = 10, 200
"""Of one round, after which the limits are looked at."""

SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    database=None,
    derandomize=False,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink] if os.environ.get("SOAK_SHRINK", "1") == "1" else [Phase.generate],
)


def run_round(layer: str, seed: int) -> int:
    """One mount's worth of examples; the steps taken."""
    before = Counter.steps
    with tempfile.TemporaryDirectory(prefix="vfsd-soak-") as folder:
        environment = {**os.environ, "XDG_STATE_HOME": f"{folder}/state"}
        with bench_on(layer, Path(folder), environment) as bench:
            machine = hypothesis.seed(seed)(lambda: TwinMachine(bench))
            hypothesis.stateful.run_state_machine_as_test(machine, settings=SETTINGS)
    return Counter.steps - before


def main() -> int:
    layers = os.environ.get("SOAK_LAYERS", ",".join(LAYERS)).split(",")
    if unknown := set(layers) - set(LAYERS):
        sys.exit(f"no such layer: {', '.join(sorted(unknown))} (there are {', '.join(LAYERS)})")
    steps, seconds = (float(os.environ.get(name, "inf")) for name in ("SOAK_STEPS", "SOAK_SECONDS"))
    first_seed = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
    taken, spent = dict.fromkeys(layers, 0), dict.fromkeys(layers, 0.0)
    for number in itertools.count():
        waiting = [layer for layer in layers if taken[layer] < steps and spent[layer] < seconds]
        if not waiting:
            return 0
        for layer in waiting:
            seed, begun = first_seed + number, time.monotonic()
            print(f"{layer}: seed {seed} …", end=" ", flush=True)
            taken[layer] += run_round(layer, seed)
            spent[layer] += time.monotonic() - begun
            print(f"{taken[layer]} steps clean in {spent[layer]:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
