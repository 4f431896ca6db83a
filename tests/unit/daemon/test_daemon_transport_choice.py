"""Which transport a mount gets, and why."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from vfsd.daemon.transport_choice import choose_transport
from vfsd.fuse.kernel.probe import passthrough_lacks


@pytest.mark.parametrize("name", ["kernel", "pyfuse3"])
def test_what_was_asked_for_is_taken(name: str) -> None:
    choice = choose_transport(name)
    assert (choice.name, choice.why) == (name, "asked for")


def test_by_itself_it_takes_what_this_machine_allows() -> None:
    lacks, choice = passthrough_lacks(), choose_transport("auto")
    assert choice.name == ("kernel" if lacks is None else "pyfuse3")
    assert choice.why == ("the kernel reads files by itself" if lacks is None else lacks.cause)


def test_without_the_right_to_it_the_remedy_is_said() -> None:
    """In a process that gave its rights away; what is asked of the kernel leaves nothing behind."""
    script = (
        "import os\n"
        "from vfsd.fuse.kernel.probe import passthrough_lacks\n"
        "os.geteuid() == 0 and os.setuid(65534)\n"
        "before = len(os.listdir('/proc/self/fd'))\n"
        "lacks = passthrough_lacks()\n"
        "assert lacks is not None and lacks.remedy, lacks\n"
        "assert len(os.listdir('/proc/self/fd')) == before\n"
    )
    subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=True)
