"""What Pico-Banana-400K is, and how to read it: records, sources, fetching, examples."""

from __future__ import annotations

from typing import Any

__all__ = ["__version__"]


def __getattr__(name: str) -> Any:
    """Return `__version__`, looked up when asked for: that imports much, and Ctrl-C may come."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("pico-banana-400k")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
