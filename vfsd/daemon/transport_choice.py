"""Which transport serves a mount, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TransportChoice:
    """A transport's name, and why it was taken, for people."""

    name: str
    why: str


def choose_transport(wanted: str) -> TransportChoice:
    """The transport that serves this mount: what was asked for; `auto` takes the kernel's own protocol where the kernel then
    reads files by itself, and pyfuse3 otherwise."""
    from vfsd.fuse.kernel.probe import passthrough_lacks

    if wanted != "auto":
        return TransportChoice(wanted, "asked for")
    lacks = passthrough_lacks()
    if lacks is None:
        return TransportChoice("kernel", "the kernel reads files by itself")
    return TransportChoice("pyfuse3", lacks.cause)
