"""File types that belong to other packages: `.png`, `.pt` (torch, weights only) and `.safetensors`; imported when used."""

from __future__ import annotations

import importlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from vfsd.client.codecs.arrays import host_array, is_array
from vfsd.client.codecs.codec import Codec, Part, refuse_options
from vfsd.errors import DamagedFile, MissingPackage, UnfitData


def imported(name: str, why: str) -> Any:
    """A module of a package that may not be installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise MissingPackage(f"{why} needs the package {package}", remedy=f"pip install {package}") from error


def _encode_png(data: Any, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    array = host_array(data)
    colour = array.ndim == 3 and array.shape[-1] in (2, 3, 4)
    if not (array.ndim == 2 or colour) or array.dtype.name not in ("uint8", "uint16") or array.size == 0:
        raise UnfitData(
            f"an array of shape {array.shape} and type {array.dtype} is no PNG", remedy="Save it as .tif or .npy"
        )
    native = array.astype(array.dtype.newbyteorder("="), order="C", copy=False)
    return [bytes(imported("imagecodecs", "a PNG").png_encode(native))]


def _decode_png(data: memoryview) -> Any:
    codecs = imported("imagecodecs", "a PNG")
    try:
        found = codecs.png_decode(bytes(data))
    except Exception as error:  # the decoder's own class, or MemoryError of a size that is a lie
        raise DamagedFile(f"is no PNG that can be read ({error})") from error
    found.flags.writeable = False
    return found


def _encode_pt(data: Any, **options: Any) -> Sequence[Part]:
    refuse_options(options)
    target = io.BytesIO()
    imported("torch", "a .pt file").save(data, target)
    return [target.getbuffer()]


def _decode_pt(data: memoryview) -> Any:
    torch = imported("torch", "a .pt file")
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # pickles that hold more than weights are refused by many classes
        raise DamagedFile(f"is no file of weights that torch loads ({error})") from error


def _of_torch(data: Any) -> bool:
    values = data.values() if isinstance(data, Mapping) and data else [data]
    return all(type(value).__module__.partition(".")[0] == "torch" for value in values)


def _encode_safetensors(data: Mapping[str, Any], **options: Any) -> Sequence[Part]:
    refuse_options(options)
    arrays = {name: host_array(value).copy(order="C") for name, value in data.items()}
    return [imported("safetensors.numpy", "a .safetensors file").save(arrays)]


def _decode_safetensors(data: memoryview) -> Any:
    loaded = imported("safetensors.numpy", "a .safetensors file")
    try:
        return loaded.load(bytes(data))
    except Exception as error:
        raise DamagedFile(f"is no .safetensors file ({error})") from error


def _named_arrays(data: Any) -> bool:
    return (
        isinstance(data, Mapping) and bool(data) and all(isinstance(key, str) and is_array(data[key]) for key in data)
    )


CODECS: Final = (
    Codec("png", (".png",), is_array, _encode_png, _decode_png),
    Codec("pt", (".pt", ".pth"), _of_torch, _encode_pt, _decode_pt),
    Codec("safetensors", (".safetensors",), _named_arrays, _encode_safetensors, _decode_safetensors),
)
