"""What mount(8) runs for `mount -t fuse.vfsd SOURCE MOUNTPOINT` and for lines of fstab of that type.

    /data/plate1  /mnt/plate1  fuse.vfsd  ram=8G,allow_other,nofail  0  0

It returns when the mount answers, with mount(8)'s exit codes. `setuid=USER` (or `user=USER`) has root start the
daemon as that user. It is installed under the name that mount(8) looks for; see `vfsd install-helpers`.
"""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

from vfsd.cli.helper_arguments import (
    FAILED,
    SYSTEM_ERROR,
    WRONG_INVOCATION,
    HelperArguments,
    enter_namespace,
    read_arguments,
)
from vfsd.cli.mount_options import parse_mount_options, split_options
from vfsd.errors import UnfitError, UsageProblem, shown_path

# mount(8)'s own code for "the user interrupted it" is ours for the same.
INTERRUPTED = 8
USER_OPTIONS = ("setuid", "user")
# What a daemon that changes its user must not keep of root's environment.
OF_ANOTHER_USER = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "XDG_DATA_HOME")


def main(arguments: Sequence[str] | None = None) -> int:
    """One call by mount(8); returns its exit code."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        asked = read_arguments(given, "sfnvwr")
        if asked.namespace is not None:
            enter_namespace(asked.namespace, "vfsd.cli.mount_helper", given)
        return _mount(asked)
    except KeyboardInterrupt:
        print("mount.fuse.vfsd: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        return _explain(error)


def _mount(asked: HelperArguments) -> int:
    from vfsd.cli.mount import start_mount
    from vfsd.daemon.configuration import choose, make_mount_options, standing_layers

    if len(asked.operands) != 2:
        raise UsageProblem("expected: mount.fuse.vfsd SOURCE MOUNTPOINT [-sfnvrw] [-N NAMESPACE] [-o OPTIONS]")
    source, mountpoint = (Path.cwd() / operand for operand in asked.operands)
    options = [option for argument in asked.options for option in split_options(argument)]
    if "remount" in options:
        raise UnfitError(
            "a mount's options cannot be changed while it is mounted",
            path=mountpoint,
            remedy=f"Unmount it first: umount {shown_path(mountpoint)}",
        )
    user = _user(options)
    kept = [option for option in options if option.partition("=")[0] != "setuid"]
    given = parse_mount_options([*kept, *(["ro"] if "r" in asked.flags else [])], sloppy="s" in asked.flags)
    if "f" in asked.flags:
        return 0
    if user is not None:
        _become(user)
    chosen = choose([*standing_layers(), given.settings])
    made = make_mount_options(source, mountpoint, chosen, foreground=False, fuse_options=given.kernel)
    if "v" in asked.flags:
        print(f"mount.fuse.vfsd: {shown_path(source)} at {shown_path(mountpoint)}", file=sys.stderr)
    code = start_mount(made)
    return {0: 0, 1: WRONG_INVOCATION, INTERRUPTED: INTERRUPTED}.get(code, FAILED)


def _user(options: Sequence[str]) -> pwd.struct_passwd | None:
    """Who is to run the daemon; None for whoever runs us.

    Raises
    ------
    UsageProblem
        If there is no such user.
    UnfitError
        If we may not become that user.
    """
    name = None
    for option in options:
        key, has_value, value = option.partition("=")
        if key in USER_OPTIONS and has_value:
            name = value
    if name is None:
        return None
    try:
        user = pwd.getpwuid(int(name)) if name.isascii() and name.isdigit() else pwd.getpwnam(name)
    except (KeyError, ValueError, OverflowError):
        raise UsageProblem(f"there is no user {shown_path(name)!r}") from None
    if user.pw_uid == os.geteuid():
        return None
    if os.geteuid() != 0:
        raise UnfitError(f"only root can mount as the user {shown_path(name)!r}")
    return user


def _become(user: pwd.struct_passwd) -> None:
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ.update(HOME=user.pw_dir, USER=user.pw_name, LOGNAME=user.pw_name)
    for name in OF_ANOTHER_USER:
        os.environ.pop(name, None)


def _explain(error: Exception) -> int:
    from vfsd.daemon.reporter import describe_error

    code, text = describe_error(error)
    print(f"mount.fuse.vfsd: {text}", file=sys.stderr)
    if code == 1:
        return WRONG_INVOCATION
    return SYSTEM_ERROR if isinstance(error, OSError) else FAILED


if __name__ == "__main__":
    sys.exit(main())
