"""What umount(8) runs for a mount of type fuse.vfsd: a plain `umount` waits until everything is in the store.

`-l` detaches the mount at once and leaves the daemon to flush in the background. `-f` is for a daemon that does not
answer: programs that wait for it get an error, and what it had is kept. One that answers is asked as ever, so that
no force is used on it.
umount(8) gets its own exit codes back: 0, 2 for an interruption, 32 for everything else.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vfsd.cli.helper_arguments import FAILED, SYSTEM_ERROR, HelperArguments, enter_namespace, read_arguments
from vfsd.errors import UsageProblem, shown_path

# Long enough for a daemon that lives to say so.
FORCE_PATIENCE_SECONDS = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """One call by umount(8); returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        asked = read_arguments(given, "nlfvrc")
        if asked.namespace is not None:
            enter_namespace(asked.namespace, "vfsd.cli.umount_helper", given)
        if len(asked.operands) != 1:
            raise UsageProblem("expected: umount.fuse.vfsd MOUNTPOINT [-lfnrv] [-N NAMESPACE]")
        return _umount(Path.cwd() / asked.operands[0], asked)
    except KeyboardInterrupt:
        print(
            "umount.fuse.vfsd: the daemon goes on flushing and unmounting; 'vfsd status' shows how far it is",
            file=sys.stderr,
        )
        return SYSTEM_ERROR
    except Exception as error:
        return _explain(error)


def _umount(mountpoint: Path, asked: HelperArguments) -> int:
    if "l" in asked.flags:
        return _detach(mountpoint, ["-l"])
    if "f" in asked.flags and not _answers(mountpoint):
        return _detach(mountpoint, ["-f", "-l"])
    return _ask(mountpoint)


def _ask(mountpoint: Path) -> int:
    """Flush, unmount, flush the rest, and say how it went."""
    from vfsd.cli.progress import ProgressDisplay
    from vfsd.cli.umount import print_outcome
    from vfsd.daemon.unmounting import unmount

    with ProgressDisplay() as display:
        outcome = unmount(mountpoint, None, display.show, display.notice)
    print_outcome(outcome, as_json=False)
    return 0 if outcome["exit_code"] == 0 else FAILED


def _answers(mountpoint: Path) -> bool:
    from vfsd.daemon.dead_mounts import Pulse, probe

    return probe(mountpoint, FORCE_PATIENCE_SECONDS) is Pulse.ANSWERS


def _detach(mountpoint: Path, flags: Sequence[str]) -> int:
    """Let the kernel take the mount away; the daemon, if it lives, notices and flushes."""
    # -i: without it umount(8) would call us again.
    done = subprocess.run(["umount", "-i", *flags, "--", mountpoint], check=False)
    if done.returncode != 0:
        return FAILED
    where = shown_path(mountpoint)
    print(
        f"umount.fuse.vfsd: {where} is detached; what is not yet in the store is being flushed, or kept for the next "
        "mount ('vfsd status' and 'vfsd recover --list' show it)",
        file=sys.stderr,
    )
    return 0


def _explain(error: Exception) -> int:
    from vfsd.daemon.reporter import describe_error

    print(f"umount.fuse.vfsd: {describe_error(error)[1]}", file=sys.stderr)
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
