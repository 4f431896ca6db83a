"""CUDA decode of compressed chunks: compressed on disk, compressed over PCIe, an array on the GPU.

What it is for: `load` and `iterate` read planes and Zarr arrays whose chunks are Blosc-LZ4 (ours, or anybody's) into GPU memory,
and decode them there; `save` writes such arrays, compressed on the GPU where they are there. Without a GPU the same calls work on
the CPU. docs/gpu.md says how, and how fast.

What it promises: the bytes are those that the CPU decoder gives, or an error that names the chunk; nothing on the GPU or
here is read or written outside what a call was given, whatever the files say; device and pinned memory are bounded.

What it never does: import cupy before a GPU is asked for, or take part in a mount.

The ways in: `vfsd.gpu.load` (what scripts use), `vfsd.gpu.loader.Loader` (jobs → array), `vfsd.gpu.decoder.BatchDecoder`
(frames in device memory → bytes), `vfsd.gpu.encoder` (bytes → frames). kernels/ has the CUDA source. `Device` is all that
these need of a GPU; only `vfsd.gpu.cuda` knows cupy.

Threads: loads take turns (one lock, held for the whole load); a `Loader`, a `BatchDecoder` and a `Device` belong to one
thread at a time. Reads run on threads of the loader's own, which get paths and buffers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vfsd.gpu.device import NoDeviceError

if TYPE_CHECKING:
    from vfsd.gpu.loader import ChunksDamaged
    from vfsd.gpu.loading import CpuPathWarning, iterate, load
    from vfsd.gpu.saving import save

__all__ = ["ChunksDamaged", "CpuPathWarning", "NoDeviceError", "iterate", "load", "save"]


def __getattr__(name: str) -> Any:
    """The rest when somebody asks: `loading` brings the store, which `make gpu` does without."""
    if name not in __all__:
        raise AttributeError(f"module 'vfsd.gpu' has no attribute {name!r}")
    from vfsd.gpu import loader, loading, saving

    return getattr({"ChunksDamaged": loader, "save": saving}.get(name, loading), name)
