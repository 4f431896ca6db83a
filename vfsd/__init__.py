"""vfsd: one tree over a microscope plate; new files in RAM, flushed to verified OME-Zarr, every file back byte for byte."""

__all__ = ["__version__"]

__version__: str


def __getattr__(name: str) -> str:
    """`__version__`, looked up when somebody asks: importing the package's metadata takes 25 ms, a tenth of a mount."""
    if name != "__version__":
        raise AttributeError(f"module 'vfsd' has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("vfsd")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+unknown"
