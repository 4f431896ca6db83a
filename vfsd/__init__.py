"""vfsd: one tree over a microscope plate; new files in RAM, flushed to verified OME-Zarr, every file back byte for byte."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("vfsd")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
