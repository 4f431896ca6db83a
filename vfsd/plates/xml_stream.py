"""Vendors' XML as a stream of elements, safe with any bytes and in bounded memory.

A document type is refused where it begins, so there are no entities but XML's own five: no bomb, no external
file. Depth, single tokens and texts are bounded; nothing is kept but the open elements' names. Namespaces are
dropped, since vendors change them with each version. Encodings: UTF-8 and UTF-16 with or without mark, Latin-1
and ASCII where declared, or `encoding` for vendors that write Latin-1 and do not say so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import final
from xml.parsers import expat

# The vendors' documents are less than ten deep.
MAX_DEPTH = 64

# A tag, comment or attribute beyond this is damage; a real one has a few hundred bytes, correction matrices some kB.
MAX_TOKEN = 4 << 20

# 300 MB of a real index have about seven million elements; reading so many takes half a minute, and more is no plate.
MAX_ELEMENTS = 20_000_000

# The text of one element beyond this is cut: what we read are numbers and names.
MAX_TEXT = 1 << 16

Start = Callable[[str, Mapping[str, str]], None]
End = Callable[[str, str], None]


class XmlError(ValueError):
    """The bytes are no XML, or such as no instrument writes; what came before was delivered."""


def read_xml(
    pieces: Iterable[bytes], start: Start, end: End, *, texts: Collection[str], encoding: str | None = None
) -> None:
    """Parse a document, calling `start(name, attributes)` and `end(name, text)` for its elements in order.

    Parameters
    ----------
    texts : collection of str
        Elements whose text is wanted; it is stripped, and what stands directly in the element. "" for others.

    Raises
    ------
    XmlError
        Not well-formed, a document type, too deep, it ends too early, or the pieces cannot be read (OSError).
    """
    stream = _Stream(start, end, frozenset(texts), encoding)
    fed = 0
    try:
        for piece in pieces:
            stream.parser.Parse(piece, False)
            fed += len(piece)
            if fed - stream.parser.CurrentByteIndex > MAX_TOKEN:
                raise XmlError("it has a tag or text without end")
        if not fed:
            raise XmlError("it is empty")
        stream.parser.Parse(b"", True)
    except expat.ExpatError as error:
        reason = expat.errors.messages.get(error.code, str(error))
        raise XmlError(f"it is no well-formed XML: {reason}, in line {error.lineno}") from error
    except OSError as error:
        raise XmlError(f"it cannot be read: {error.strerror or error}") from error
    except (UnicodeError, LookupError) as error:
        raise XmlError(f"it is no XML in a known encoding: {error}") from error


@final
class _Stream:
    """The handlers of one document."""

    def __init__(self, start: Start, end: End, texts: frozenset[str], encoding: str | None) -> None:
        self._start = start
        self._end = end
        self._texts = texts
        self._local: dict[str, str] = {}
        self._depth = 0
        self._elements = 0
        self._text: list[str] = []
        self._length = 0
        self.parser = parser = expat.ParserCreate(encoding, "}")
        parser.buffer_text = True
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        parser.StartDoctypeDeclHandler = self._on_doctype

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > MAX_DEPTH:
            raise XmlError(f"its elements are more than {MAX_DEPTH} deep")
        if self._elements > MAX_ELEMENTS:
            raise XmlError(f"it has more than {MAX_ELEMENTS} elements")
        local = self._local_name(name)
        self._text.clear()
        self._length = 0
        self.parser.CharacterDataHandler = self._on_text if local in self._texts else None
        self._start(local, {self._local_name(key): value for key, value in attributes.items()} if attributes else {})

    def _on_text(self, text: str) -> None:
        if self._length < MAX_TEXT:
            self._text.append(text[: MAX_TEXT - self._length])
            self._length += len(text)

    def _on_end(self, name: str) -> None:
        self._depth -= 1
        text = "".join(self._text).strip() if self._text else ""
        self._text.clear()
        self.parser.CharacterDataHandler = None
        self._end(self._local_name(name), text)

    def _on_doctype(self, *_: object) -> None:
        raise XmlError("it has a document type, which no instrument writes and which may hide entities")

    def _local_name(self, name: str) -> str:
        local = self._local.get(name)
        if local is None:
            local = name.rpartition("}")[2]
            if len(self._local) < MAX_TEXT:  # names are few, unless somebody made them up
                self._local[name] = local
        return local
