"""What Pico-Banana-400K is, and how to read it: records, sources, fetching, examples."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("pico-banana-400k")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"

__all__ = ["__version__"]
