"""The command line as a whole: exit codes, one JSON object, no traceback, no terminal escapes, quick to start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import vfsd.cli
from vfsd.cli import main
from vfsd.cli.commands import NAMES, LazyGroup
from vfsd.cli.commands import vfsd as group
from vfsd.errors import (
    BusyError,
    FlushIncomplete,
    Interrupted,
    StoredDataDamaged,
    UnfitError,
    UsageProblem,
    VerificationFailed,
)


def run(*arguments: str | bytes, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """The real command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "vfsd", *arguments],
        capture_output=True,
        check=False,
        env={**os.environ, **environment},
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["--no-such-option"],
        ["mount"],
        ["mount", "a"],
        ["mount", "a", "b", "c"],
        ["mount", "a", "b", "--ram", "lots"],
        ["mount", "a", "b", "--ram", "-5"],
        ["mount", "a", "b", "-o", "no_such_option"],
        ["mount", "a", "b", "-o", "transport=pigeon"],
        ["mount", "a", "b", "--transport", "pigeon"],
        ["mount", "a", "b", "--read-only", "--ingest"],
        ["mount", "", "b"],
        ["umount"],
        ["umount", "a", "--timeout", "-1"],
        ["umount", "a", "--timeout", "soon"],
        ["stats", "a", "--interval", "0"],
        ["convert", "a"],
        ["demo-plate", "--wells", "none", "a"],
    ],
    ids=" ".join,
)
def test_misuse_is_exit_code_1(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.strip()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageProblem("x"), 1),
        (UnfitError("x"), 2),
        (FlushIncomplete("x"), 3),
        (VerificationFailed("x"), 4),
        (StoredDataDamaged("x"), 4),
        (BusyError("x"), 5),
        (Interrupted("x"), 8),
        (KeyboardInterrupt(), 8),
        (OSError(28, "No space left on device", "/x"), 2),
        (ExceptionGroup("g", [BusyError("x")]), 5),
        (ValueError("strange"), 2),
    ],
)
def test_errors_become_exit_codes_and_one_sentence(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command("doctor")
    def broken() -> None:
        raise error

    monkeypatch.setattr(LazyGroup, "get_command", lambda self, ctx, name: broken)
    assert main(["doctor"]) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.strip().splitlines()[0].startswith("vfsd: ")


def test_unexpected_error_says_how_to_see_more(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(arguments: object) -> int:
        raise ValueError("strange")

    monkeypatch.setattr(vfsd.cli, "_run", broken)
    monkeypatch.delenv("VFSD_DEBUG", raising=False)
    assert main([]) == 2
    assert "VFSD_DEBUG=1" in capsys.readouterr().err
    monkeypatch.setenv("VFSD_DEBUG", "1")
    with pytest.raises(ValueError, match="strange"):
        main([])


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert name in shown
        assert main([name, "--help"]) == 0
        assert "Usage: vfsd" in capsys.readouterr().out
    with click.Context(group) as context:
        assert group.list_commands(context) == list(NAMES)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("vfsd ")
    assert "kernel" in shown
    assert "pyfuse3" in shown


def test_hostile_names_do_not_reach_the_terminal_as_they_are(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/\x1b[31mred\n\xff"
    os.mkdir(name)
    for command in ([b"status", name], [b"umount", name], [b"verify", name], [b"info", name]):
        done = run(*command)
        assert done.returncode == 2, done
        assert b"\x1b" not in done.stderr
        assert b"\\x1b[31mred\\n\\udcff" in done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_json_is_one_object_and_alone_on_standard_output(tmp_path: Path) -> None:
    for arguments in (["status", "--json"], ["recover", "--list", "--json"], ["doctor", "--json"]):
        done = run(*arguments, XDG_STATE_HOME=str(tmp_path))
        assert isinstance(json.loads(done.stdout), dict)
        assert done.stdout.count(b"\n") == 1


def test_refusal_with_json_leaves_standard_output_empty(tmp_path: Path) -> None:
    for command in ("status", "umount", "info", "flush"):
        done = run(command, os.fspath(tmp_path), "--json")
        assert done.returncode == 2
        assert done.stdout == b""
        assert os.fsencode(tmp_path) in done.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["status", "--help"], ["mount", "--help"]], ids=" ".join)
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "import sys; from vfsd.cli import main; code = main(sys.argv[1:]);"
        "heavy = {'numpy', 'trio', 'zarr', 'rich', 'pyfuse3', 'starlette', 'psutil', 'tifffile'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr


def test_status_imports_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys; from vfsd.cli import main; code = main(['status']);"
        "heavy = {'numpy', 'trio', 'zarr', 'rich', 'pyfuse3', 'starlette', 'psutil', 'tifffile'} & set(sys.modules);"
        "sys.exit(f'imported: {heavy}' if heavy else code)"
    )
    environment = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True, env=environment)
    assert done.returncode == 0, done.stderr
