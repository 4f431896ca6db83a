"""The codecs of this process, and how another one joins them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from vfsd.client.codecs import arrays, packaged, plain, tiff
from vfsd.client.codecs.codec import Codec, CodecTable, Part, refuse_options
from vfsd.errors import UsageProblem

CODECS: Final = CodecTable([*arrays.CODECS, *tiff.CODECS, *packaged.CODECS, *plain.CODECS])


def register_codec(
    kind: type,
    suffixes: str | Sequence[str] = (),
    *,
    encode: Callable[[Any], bytes],
    decode: Callable[[bytes], Any],
    name: str | None = None,
) -> None:
    """Save and load objects of a type of one's own.

    Parameters
    ----------
    kind : type
        Objects of it, and of types derived from it.
    suffixes : str or sequence of str
        Such as ".track". Without one, names with unknown suffixes or none: such files are marked.
    encode, decode : callable
        The object to bytes, and bytes to the object. `decode` raises ValueError for bytes that are damaged.
    name : str, optional
        By default the type's full name.

    Example
    -------
    >>> from fractions import Fraction
    >>> register_codec(Fraction, ".ratio", encode=lambda f: str(f).encode(), decode=lambda b: Fraction(b.decode()))
    """
    chosen = (suffixes,) if isinstance(suffixes, str) else tuple(suffixes)
    if any(not suffix.startswith(".") or "/" in suffix for suffix in chosen):
        raise UsageProblem(f"a suffix begins with a dot: {chosen}")

    def encoded(data: Any, **options: Any) -> Sequence[Part]:
        refuse_options(options)
        return [bytes(encode(data))]

    CODECS.add(
        Codec(
            name or f"{kind.__module__}.{kind.__qualname__}",
            tuple(suffix.lower() for suffix in chosen),
            lambda data: isinstance(data, kind),
            encoded,
            lambda data: decode(bytes(data)),
            unnamed=True,
        )
    )
