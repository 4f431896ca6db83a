"""Text, JSON, CSV, bytes, and pickles where they are allowed.

Text is UTF-8 with its line ends as they are. A CSV is rows of text; tables of pandas are written as `to_csv` does it, without
the index.
"""

from __future__ import annotations

import csv
import io
import json
import pickle
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vfsd.client.codecs.arrays import is_frame
from vfsd.client.codecs.codec import PICKLE, Codec, Part, refuse_options
from vfsd.errors import DamagedFile, UnfitData

_JSON_TYPES: Final = (dict, list, tuple, str, int, float, bool, type(None))


def _encode_text(data: str, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    try:
        return [data.encode("utf-8")]
    except UnicodeEncodeError as error:
        raise UnfitData(f"is text that UTF-8 has no bytes for ({error.reason})") from error


def _decode_text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise DamagedFile(f"is no UTF-8 text ({error.reason} at byte {error.start})") from error


def _encode_json(data: Any, *, indent: int | None = 1, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    try:
        return [json.dumps(data, indent=indent, allow_nan=True).encode("utf-8")]
    except (TypeError, ValueError, RecursionError) as error:
        raise UnfitData(f"cannot be written as JSON ({error})") from error


def _decode_json(data: memoryview) -> Any:
    try:
        return json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"is no JSON ({error})") from error


def _is_table(data: Any) -> bool:
    if is_frame(data):
        return hasattr(data, "to_csv")
    return isinstance(data, (list, tuple)) and all(isinstance(row, (list, tuple, Mapping)) for row in data)


def _encode_csv(data: Any, **options: Any) -> Sequence[Part]:
    if is_frame(data):
        return [data.to_csv(**{"index": False, **options}).encode("utf-8")]
    refuse_options(options)
    target = io.StringIO(newline="")
    if data and all(isinstance(row, Mapping) for row in data):
        by_name = csv.DictWriter(target, list(data[0]), lineterminator="\n")
        by_name.writeheader()
        try:
            by_name.writerows(data)
        except ValueError as error:
            raise UnfitData(f"its rows have different columns ({error})") from error
    elif any(isinstance(row, Mapping) for row in data):
        raise UnfitData("has rows with names and rows without")
    else:
        csv.writer(target, lineterminator="\n").writerows(data)
    return [target.getvalue().encode("utf-8")]


def _decode_csv(data: memoryview) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(_decode_text(data), newline="")))
    except csv.Error as error:
        raise DamagedFile(f"is no CSV ({error})") from error


def _encode_bytes(data: Any, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    return [memoryview(data).cast("B") if memoryview(data).c_contiguous else bytes(data)]


def _encode_pickle(data: Any, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    try:
        return [pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)]
    except Exception as error:  # an object's own methods run
        raise UnfitData(f"cannot be pickled ({error})") from error


def _decode_pickle(data: memoryview) -> Any:
    try:
        return pickle.loads(data)
    except Exception as error:
        raise DamagedFile(f"cannot be unpickled ({error})") from error


CODECS: Final = (
    Codec("json", (".json",), lambda data: isinstance(data, _JSON_TYPES), _encode_json, _decode_json),
    Codec("text", (".txt",), lambda data: isinstance(data, str), _encode_text, _decode_text, unnamed=True),
    Codec("csv", (".csv",), _is_table, _encode_csv, _decode_csv),
    Codec(
        "bytes",
        (".bin",),
        lambda data: isinstance(data, (bytes, bytearray, memoryview)),
        _encode_bytes,
        bytes,
        unnamed=True,
    ),
    Codec(
        "named-json",
        (),
        lambda data: isinstance(data, (dict, list)) and _is_json(data),
        _encode_json,
        _decode_json,
        unnamed=True,
    ),
    Codec(PICKLE, (".pkl", ".pickle"), lambda data: True, _encode_pickle, _decode_pickle),
)


def _is_json(data: Any) -> bool:
    """Whether JSON gives back what it was given: no tuples, no keys that are not text."""
    try:
        return bool(json.loads(json.dumps(data)) == data)
    except (TypeError, ValueError, RecursionError):
        return False
