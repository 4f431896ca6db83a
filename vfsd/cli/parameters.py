"""What several commands take: paths as they are, and settings of a mount as options of a command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from vfsd.daemon.settings import BY_NAME, Kind, Setting
from vfsd.errors import UsageProblem

Command = TypeVar("Command", bound=Callable[..., Any])


def path(text: str) -> Path:
    """A path made absolute, its symbolic links left alone; nothing on disk is looked at."""
    if text == "" or "\0" in text:
        raise UsageProblem("a path cannot be empty")
    return Path.cwd() / text


PATH = path


def setting_options(*names: str) -> Callable[[Command], Command]:
    """Give a command the options of these settings; each comes as its text (a flag as a truth), None if not given."""

    def add(command: Command) -> Command:
        for name in reversed(names):
            command = _option(BY_NAME[name])(command)
        return command

    return add


def _option(setting: Setting) -> Callable[[Command], Command]:
    if setting.kind is Kind.FLAG:
        opposite = setting.option.replace("--", "--no-", 1)
        return click.option(f"{setting.option}/{opposite}", setting.name, default=None, help=setting.help)
    text = f"{setting.help} [default: {setting.default}]"
    if setting.choices:
        return click.option(setting.option, setting.name, type=click.Choice(setting.choices), help=text)
    return click.option(setting.option, setting.name, metavar=setting.metavar, help=text)
