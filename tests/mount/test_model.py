"""Random operations on the mount and on a plain directory; both show the same after every step.

Each starting layer has its run. `make soak` goes on for as long as one likes.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from model.bench import LAYERS, bench_on
from model.machine import TwinMachine

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(600)]


@pytest.mark.parametrize("layer", LAYERS)
def test_mount_behaves_as_a_plain_directory(layer: str, transport: str, tmp_path: Path) -> None:
    chosen = settings(
        max_examples=10,
        stateful_step_count=60,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state"), "VFSD_TRANSPORT": transport}
    with bench_on(layer, tmp_path, environment) as bench:
        run_state_machine_as_test(lambda: TwinMachine(bench), settings=chosen)
