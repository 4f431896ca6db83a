"""Which transport serves a mount, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransportChoice:
    """A transport's name, and why it was taken, for people."""

    name: str
    why: str


def choose_transport(wanted: str) -> TransportChoice:
    """The transport that serves this mount: what was asked for; `auto` takes pyfuse3, which needs no rights."""
    if wanted != "auto":
        return TransportChoice(wanted, "asked for")
    return TransportChoice("pyfuse3", "the default")
