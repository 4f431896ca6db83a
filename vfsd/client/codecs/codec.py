"""What a codec is, and which one a file has.

A name's suffix decides, if any codec claims it: then what is saved must fit. Else the object's type does, and the file gets a
mark (an extended attribute with the codec's name), so that it is read as what it was saved as. A file with neither is what its
first bytes say (`.npy`, TIFF), else bytes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from vfsd.client.paths import suffix_of
from vfsd.errors import UnfitData, UsageProblem

Part = bytes | memoryview
Encode = Callable[..., Sequence[Part]]
Decode = Callable[[memoryview], Any]

PICKLE: Final = "pickle"


@final
@dataclass(frozen=True, slots=True)
class Codec:
    """One file type.

    Parameters
    ----------
    name : str
        Unique; stands in the mark of files whose suffix does not tell.
    suffixes : tuple of str
        In lower case, with their dots.
    accepts : callable
        Whether an object can become such a file.
    encode : callable
        The object, and options by keyword, to the file's bytes in pieces. Raises `UnfitData`.
    decode : callable
        The file's bytes to the object, which may keep them: they stay as they are. Raises `DamagedFile`.
    magic : tuple of bytes
        How such files begin, where that is proof enough.
    unnamed : bool
        Whether objects go this way under names without a known suffix.
    """

    name: str
    suffixes: tuple[str, ...]
    accepts: Callable[[Any], bool]
    encode: Encode
    decode: Decode
    magic: tuple[bytes, ...] = ()
    unnamed: bool = False


@final
class CodecTable:
    """The codecs of a process; those added last come first."""

    def __init__(self, codecs: Sequence[Codec]) -> None:
        self._codecs = list(codecs)
        self._lock = threading.Lock()

    def add(self, codec: Codec) -> None:
        """One more, before all others; one of the same name goes."""
        with self._lock:
            self._codecs = [codec, *(one for one in self._codecs if one.name != codec.name)]

    def to_save(self, data: Any, path: bytes, *, allow_pickle: bool) -> tuple[Codec, bool]:
        """The codec for an object under a name, and whether the file needs a mark.

        Raises
        ------
        UnfitData
            No codec takes it.
        """
        suffix = suffix_of(path)
        claiming = [codec for codec in self._codecs if suffix in codec.suffixes]
        found = next((codec for codec in claiming if codec.accepts(data)), None)
        if found is None and not claiming:
            found = next((codec for codec in self._codecs if codec.unnamed and codec.accepts(data)), None)
        pickle = next(codec for codec in self._codecs if codec.name == PICKLE)
        if allow_pickle and found is None and (not claiming or pickle in claiming):
            found = pickle
        if found is None or (found is pickle and not allow_pickle):
            kind = type(data)
            remedy = (
                "Convert it, or save it with allow_pickle=True under a name without a suffix that means something else"
            )
            if claiming and pickle not in claiming:
                remedy = "Choose another suffix, or none"
            what = f"a {suffix} file" if claiming else "any file type that is known"
            raise UnfitData(
                f"an object of type {kind.__module__}.{kind.__qualname__} does not fit {what}", path=path, remedy=remedy
            )
        return found, not claiming or found is pickle

    def to_load(self, path: bytes, mark: Callable[[], str | None], data: memoryview, *, allow_pickle: bool) -> Codec:
        """The codec of a file.

        Raises
        ------
        UsageProblem
            It is a pickle, and `allow_pickle` is not set; or its codec is not known here.
        """
        suffix = suffix_of(path)
        claiming = [codec for codec in self._codecs if suffix in codec.suffixes]
        if claiming and claiming[0].name != PICKLE:
            return claiming[0]
        known = mark()
        found = next((codec for codec in self._codecs if codec.name == known), None)
        if found is not None and found.name == PICKLE and not allow_pickle:
            raise UsageProblem(
                "is a pickle, which can run any program when it is loaded",
                path=path,
                remedy="If you saved it yourself, load it with allow_pickle=True",
            )
        if found is not None:
            return found
        if claiming:
            raise UsageProblem(
                "is a pickle that nobody saved through this API: such files are never unpickled",
                path=path,
                remedy="Read its bytes, with as_='bytes'",
            )
        if known is not None:
            raise UsageProblem(f"was saved by the codec {known!r}, which is not registered here", path=path)
        start = bytes(data[:8])
        sniffed = next((codec for codec in self._codecs if codec.magic and start.startswith(codec.magic)), None)
        return sniffed or next(codec for codec in self._codecs if codec.name == "bytes")


def refuse_options(options: Mapping[str, Any]) -> None:
    """Of a file type that has none."""
    if options:
        raise UsageProblem(f"this file type has no option {', '.join(map(repr, options))}")
