"""Which names are those of label images (masks), and of which image: of the usual forms, or a pattern of the user's own.

    P_B02_s1_w1_mask.tif    P_B02_s1_w1_nuclei_labels.tif    P_B02_s1_w1_cp_masks.tif      beside the image
    masks/P_B02_s1_w1.tif   masks/P_B02_s1_w1_nuclei.tif     nuclei_masks/P_B02_s1_w1.tif  in a folder so named

A name alone is never enough: what is left of it has to be the name of an image of a plate (`labels`), and for a folder's
name to count that image has to be there. Pure functions of paths; a path gives a few candidates, the likeliest first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

from vfsd.errors import UsageProblem, shown_path
from vfsd.plates.naming import join_path, split_path, text_of

_ENDING = re.compile(rb"(?:\.ome)?\.tiff?$", re.IGNORECASE)
_WORDS = rb"(?:masks?|labels?|segs?|segmentations?|objects?|instances?)"
_SAYS_LABEL = re.compile(rb"(?:.*[^a-z0-9])?" + _WORDS + rb"(?:[^a-z].*)?", re.IGNORECASE | re.DOTALL)
# Stricter than in names: people call a folder of images `labels_test` as well.
_FOLDER = re.compile(rb"(?:.+[^a-z0-9])?(?:masks?|labels?|segmentations?)", re.IGNORECASE | re.DOTALL)
_SEPARATORS = b"_-. "

# `_cp_masks`, `_nuclei_cyto_mask`: names of labels have a few words, and each further one costs a look.
MOST_WORDS = 4
# A label's name becomes a folder's.
LONGEST_NAME = 64
# The longest name that Linux file systems have.
_MAX_NAME = 255

_TOKEN = re.compile(r"\{([^{}]*)\}")
_PARTS = {"image": b"", "label": rb"[^/]+?", "any": rb"[^/]*?"}

# Stands for the image's name among the pieces of a pattern; no piece of text has a NUL.
_IMAGE = b"\0image"

NONE = "none"


@dataclass(frozen=True, slots=True)
class LabelCandidate:
    """What a path may be: a label called `label` of an image.

    Parameters
    ----------
    images : tuple of bytes
        Paths of that image, with each ending that it may have, the likeliest first.
    checked : bool
        Only if one of them is there.
    """

    images: tuple[bytes, ...]
    label: str
    checked: bool = False


@final
class LabelNames:
    """Reads names of label images.

    Parameters
    ----------
    pattern : str, optional
        `{image}_{label}.tif`, perhaps with folders: `cells/{image}.tif`. `{image}` is the image's name without its ending;
        `{label}` names the label, otherwise the pattern's own words do; `{any}` is anything. The image lies above the
        folders of the pattern. "none": nothing is a label image. By default the usual forms.

    Raises
    ------
    UsageProblem
        The pattern cannot be understood, or does not say the image.
    """

    __slots__ = ("_depth", "_label", "_nothing", "_pieces")

    def __init__(self, pattern: str | None = None) -> None:
        self._nothing = pattern == NONE
        self._pieces: list[bytes] = []
        self._depth = 0
        self._label = ""
        if pattern is not None and not self._nothing:
            self._compile(pattern)

    def _compile(self, pattern: str) -> None:
        text, place, pieces = pattern.strip("/"), 0, self._pieces
        seen: list[str] = []
        for token in _TOKEN.finditer(text):
            if token[1] not in _PARTS:
                raise UsageProblem(
                    f"the label pattern {shown_path(pattern)!r} has an unknown part {{{shown_path(token[1])}}}; "
                    "known are {image}, {label}, {any}"
                )
            if token[1] in seen:
                raise UsageProblem(f"the label pattern {shown_path(pattern)!r} has {{{token[1]}}} twice")
            seen.append(token[1])
            pieces.append(re.escape(_encoded(text[place : token.start()])))
            expression = _PARTS[token[1]]
            if token[1] == "image":
                pieces.append(_IMAGE)
            else:
                pieces.append(b"(?P<label>%s)" % expression if token[1] == "label" else expression)
            place = token.end()
        rest = _TOKEN.sub("", text)
        if "{" in rest or "}" in rest:
            raise UsageProblem(f"the label pattern {shown_path(pattern)!r} has a brace without its partner")
        if "image" not in seen:
            raise UsageProblem(
                f"the label pattern {shown_path(pattern)!r} does not say where the image's name is: {{image}}"
            )
        pieces.append(re.escape(_encoded(text[place:])))
        self._depth = text.count("/")
        self._label = label_name(_ENDING.sub(b"", _encoded(rest)))

    def candidates(self, path: bytes) -> Iterator[LabelCandidate]:
        """What a path may be a label of; nothing for most paths."""
        ending = _ENDING.search(path)
        if ending is None or self._nothing:
            return
        endings = _endings(ending[0])
        if self._pieces:
            yield from self._by_pattern(path, endings)
            return
        directory, name = split_path(path)
        stem = name[: -len(ending[0])]
        for begin, tail in _splits(stem):
            if _SAYS_LABEL.fullmatch(tail):
                yield LabelCandidate(_images(directory, begin, endings), label_name(tail))
        without, folder = _without_label_folder(directory)
        if folder is None:
            return
        yield LabelCandidate(_images(without, stem, endings), label_name(folder), checked=True)
        for begin, tail in _splits(stem):
            yield LabelCandidate(_images(without, begin, endings), label_name(tail), checked=True)

    def _by_pattern(self, path: bytes, endings: tuple[bytes, ...]) -> Iterator[LabelCandidate]:
        parts = path.split(b"/")
        if len(parts) <= self._depth:
            return
        above, end = parts[: -self._depth - 1], b"/".join(parts[-self._depth - 1 :])
        longest = len(end) if len(end) <= _MAX_NAME * (self._depth + 1) else 0
        for _ in range(MOST_WORDS):
            match = self._expression(longest).fullmatch(end) if longest > 0 else None
            if match is None:
                return
            groups = match.groupdict()
            label = label_name(groups["label"]) if "label" in groups else self._label
            yield LabelCandidate(_images(b"/".join(above), groups["image"], endings), label)
            longest = len(groups["image"]) - 1

    def _expression(self, longest: int) -> re.Pattern[bytes]:
        """The pattern with an image's name of at most so many bytes, and of as many as there can be."""
        pieces = [b"(?P<image>[^/]{1,%d})" % longest if piece == _IMAGE else piece for piece in self._pieces]
        return re.compile(b"".join(pieces), re.IGNORECASE | re.DOTALL)


def label_name(words: bytes) -> str:
    """A label's name out of a part of a path: letters, digits, `_` and `-`, in lower case."""
    name = re.sub(r"[^a-z0-9_-]+", "_", text_of(words).lower()).strip("_-")[:LONGEST_NAME].strip("_-")
    return name or "label"


def _endings(own: bytes) -> tuple[bytes, ...]:
    """The endings that the image may have: the label's own first."""
    other = own[:-1] if own.lower().endswith(b"tiff") else own + b"f"
    both = (own, other, b".ome.tif") if b"." not in own[1:] else (own, other)
    return tuple(dict.fromkeys((*both, *(end.upper() for end in both), *(end.lower() for end in both))))


def _images(directory: bytes, stem: bytes, endings: tuple[bytes, ...]) -> tuple[bytes, ...]:
    return tuple(join_path(directory, stem + ending) for ending in endings)


def _splits(stem: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A name without its last word, without its last two, …; and these words."""
    end = len(stem)
    for _ in range(MOST_WORDS):
        end = max(stem.rfind(bytes((separator,)), 0, end) for separator in _SEPARATORS)
        if end <= 0:
            return
        if end + 1 < len(stem):
            yield stem[:end], stem[end + 1 :]


def _without_label_folder(directory: bytes) -> tuple[bytes, bytes | None]:
    """A directory without the innermost folder that is named after labels, and that folder."""
    parts = directory.split(b"/") if directory else []
    for number in range(len(parts) - 1, -1, -1):
        if _FOLDER.fullmatch(parts[number]):
            return b"/".join(parts[:number] + parts[number + 1 :]), parts[number]
    return directory, None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
