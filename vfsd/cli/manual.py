"""Manual pages and shell completion, made from the commands themselves, so that they never say anything else."""

from __future__ import annotations

from collections.abc import Iterator

import click
from click.shell_completion import get_completion_class

from vfsd.cli.commands import vfsd as group

EXIT_CODES = (
    ("0", "done"),
    ("1", "the command was not understood"),
    ("2", "this machine or these paths do not allow it"),
    ("3", "the flush is incomplete; everything is kept"),
    ("4", "verification found a difference"),
    ("5", "busy: open files, or a store that another mount writes to"),
    ("8", "interrupted"),
)
# Where each shell looks, below a prefix.
COMPLETION_PLACES = {
    "bash": "share/bash-completion/completions/vfsd",
    "zsh": "share/zsh/site-functions/_vfsd",
    "fish": "share/fish/vendor_completions.d/vfsd.fish",
}


def manual_pages() -> Iterator[tuple[str, str]]:
    """Names ("vfsd-mount.1") and texts (roff) of all pages."""
    context = click.Context(group, info_name="vfsd")
    names = group.list_commands(context)
    yield "vfsd.1", _page(context, [f"vfsd-{name}(1)" for name in names])
    for name in names:
        command = group.get_command(context, name)
        assert command is not None
        with click.Context(command, info_name=f"vfsd {name}", parent=None) as inner:
            yield f"vfsd-{name}.1", _page(inner, ["vfsd(1)"])


def completions() -> Iterator[tuple[str, str]]:
    """Places below a prefix, and the scripts that belong there."""
    for shell, place in COMPLETION_PLACES.items():
        kind = get_completion_class(shell)
        assert kind is not None
        yield place, kind(group, {}, "vfsd", "_VFSD_COMPLETE").source() + "\n"


def _page(context: click.Context, see_also: list[str]) -> str:
    command = context.command
    name = (context.info_name or "").replace(" ", "-")
    from vfsd import __version__

    lines = [
        f'.TH "{name.upper()}" "1" "" "vfsd {__version__}" "vfsd"',
        ".SH NAME",
        f"{_roff(name)} \\- {_roff(command.get_short_help_str(200).rstrip('.'))}",
        ".SH SYNOPSIS",
        f".B {_roff(context.info_name or '')}",
        _roff(" ".join(command.collect_usage_pieces(context))),
        ".SH DESCRIPTION",
    ]
    for paragraph in (command.help or "").split("\n\n"):
        if paragraph.startswith("\b"):
            lines += [".PP", ".nf", *(_roff(line) for line in paragraph.splitlines()[1:]), ".fi"]
        else:
            lines += [".PP", _roff(" ".join(paragraph.split()))]
    options = [record for p in command.get_params(context) if (record := p.get_help_record(context)) is not None]
    if options:
        lines.append(".SH OPTIONS")
    for option, text in options:
        lines += [".TP", f".B {_roff(option)}", _roff(" ".join(text.split()))]
    if isinstance(command, click.Group):
        lines.append(".SH COMMANDS")
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            lines += [".TP", f".B {_roff(inner)}", _roff(found.get_short_help_str(200))]
    lines.append(".SH EXIT STATUS")
    for code, meaning in EXIT_CODES:
        lines += [".TP", f".B {code}", _roff(meaning)]
    return "\n".join([*lines, ".SH SEE ALSO", _roff(", ".join(see_also)), ""])


def _roff(text: str) -> str:
    """Text that roff takes as it is: its escapes escaped, and no line that begins like a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("→", "->")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
