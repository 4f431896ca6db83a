"""Objects to the bytes of files and back: one codec a file type, chosen by the name's suffix, else by the object's type.

- `codec`: what a codec is, and how one is chosen; `known`: those that there are
- `arrays`: `.npy`, `.npz`; `tiff`: `.tif`; `plain`: text, JSON, CSV, bytes, pickles; `packaged`: `.png`, `.pt`, `.safetensors`

A codec gets bytes and gives bytes: nothing here knows files. Decoding hostile bytes raises `DamagedFile`; nothing is ever
unpickled but by the pickle codec, which `allow_pickle` alone reaches.
"""

from __future__ import annotations

from vfsd.client.codecs.codec import Codec, CodecTable
from vfsd.client.codecs.known import CODECS, register_codec

__all__ = ["CODECS", "Codec", "CodecTable", "register_codec"]
