"""What mount(8) and umount(8) may pass to their helpers: in any order, and nothing strange gets through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfsd.cli import mount_helper, umount_helper
from vfsd.cli.helper_arguments import read_arguments
from vfsd.errors import UsageProblem


@pytest.mark.parametrize(
    "arguments",
    [
        ["/a", "/b", "-s", "-n", "-o", "ro,ram=8G", "-t", "fuse.vfsd"],
        ["-o", "ro,ram=8G", "/a", "-sn", "/b"],
        ["-t", "vfsd", "-sno", "ro,ram=8G", "--", "/a", "/b"],
    ],
    ids=" ".join,
)
def test_flags_stand_anywhere(arguments: list[str]) -> None:
    found = read_arguments(arguments, "sfnvwr")
    assert found.operands == ("/a", "/b")
    assert found.flags == {"s", "n"}
    assert found.options == ("ro,ram=8G",)
    assert found.namespace is None


@pytest.mark.parametrize("arguments", [["-z"], ["-o"], ["-t", "ext4", "a"], ["--wrong"], ["-N"]], ids=" ".join)
def test_what_is_not_known_is_refused(arguments: list[str]) -> None:
    with pytest.raises(UsageProblem):
        read_arguments(arguments, "sfnvwr")


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8), max_size=6))
def test_no_arguments_do_harm(arguments: list[str]) -> None:
    with_no_mount = [argument for argument in arguments if not argument.startswith("-N")]
    assert mount_helper.main(["-f", *with_no_mount]) in (0, 1, 32)
    assert umount_helper.main(["-n", *(a for a in with_no_mount if not a.startswith("-"))]) in (0, 32)
