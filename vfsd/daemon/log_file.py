"""The daemon's log: one line an event, `time level=… logger=… event key=value …`, rotated by size.

Rooms below log through `logging.getLogger("vfsd.<room>")`. Line breaks and control characters are escaped, so
that no file name can forge a line. Logging never raises: a full disk loses log lines, not files.
"""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import time
import traceback
from pathlib import Path

from vfsd.errors import shown_path

# Weeks of events at INFO; with one older file kept the log stays under 8 MiB a mount.
LARGEST_LOG = 4 << 20
OLD_LOGS = 1
ROOT_LOGGER = "vfsd"


class OneLineFormatter(logging.Formatter):
    """Times in UTC; a traceback becomes one field, its line breaks escaped."""

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        level = record.levelname.lower()
        text = f"{stamp}.{int(record.msecs):03d}Z level={level} logger={record.name} {record.getMessage()}"
        if record.exc_info:
            text += f" traceback={''.join(traceback.format_exception(*record.exc_info))!r}"
        return shown_path(text)


class QuietRotatingFileHandler(logging.handlers.RotatingFileHandler):
    """Rotates by size; says nothing on a terminal that is not there when its file cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:
        """A log line that cannot be written is lost; nothing else is."""


def log_to_file(path: Path) -> None:
    """Send everything under "vfsd" to `path` (appended, mode 0600), and crashes of the interpreter too."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    faulthandler.enable(file=descriptor)
    handler = QuietRotatingFileHandler(
        path, maxBytes=LARGEST_LOG, backupCount=OLD_LOGS, encoding="utf-8", errors="backslashreplace"
    )
    _install(handler)


def log_to_stderr() -> None:
    """Send everything under "vfsd" to standard error."""
    _install(logging.StreamHandler())


def _install(handler: logging.Handler) -> None:
    handler.setFormatter(OneLineFormatter())
    logger = logging.getLogger(ROOT_LOGGER)
    for old in logger.handlers[:]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if os.environ.get("VFSD_DEBUG") else logging.INFO)
    logger.propagate = False
    logging.raiseExceptions = False


def fields(**values: object) -> str:
    """`key=value` pairs for a log line; text with blanks or quotes is quoted, None left out."""
    return " ".join(f"{key}={_field(value)}" for key, value in values.items() if value is not None)


def _field(value: object) -> str:
    if isinstance(value, bytes | Path):
        value = os.fsdecode(value)
    text = str(value)
    plain = text != "" and not any(character in ' "=\\' or not character.isprintable() for character in text)
    return text if plain else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
