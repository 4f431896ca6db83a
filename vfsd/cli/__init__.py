"""The command line: one module a command, holding arguments, wording and progress, and no logic.

`main` is the one place where errors become exit codes: 0 done, 1 usage, 2 unfit, 3 flush incomplete, 4
verification, 5 busy, 8 interrupted. Nothing but click is imported before a command runs. With `--json` a
command prints exactly one object on standard output; messages and progress go to standard error. No traceback
reaches a user, unless the environment has VFSD_DEBUG=1.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

INTERRUPTED = 8
USAGE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        print("vfsd: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if os.environ.get("VFSD_DEBUG"):
            raise
        return _explain(error)


def _run(arguments: Sequence[str] | None) -> int:
    import click

    from vfsd.cli.commands import vfsd

    try:
        code = vfsd.main(None if arguments is None else list(arguments), prog_name="vfsd", standalone_mode=False)
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        error.show()
        return USAGE
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    """One sentence on standard error; the exit code."""
    from vfsd.daemon.reporter import describe_error
    from vfsd.errors import VfsdError

    code, text = describe_error(error)
    print(f"vfsd: {text}", file=sys.stderr)
    if not isinstance(error, VfsdError | OSError | ExceptionGroup):
        print("vfsd: this should not have happened; VFSD_DEBUG=1 shows where it did", file=sys.stderr)
    return code
