"""Let enough files be open at once, or say before any work that they may not."""

from __future__ import annotations

import contextlib
import resource

from pico_banana.errors import UsageError

__all__ = ["check_open_files", "raise_open_files"]

_MOST = 65_536  # where there is no limit, or one so high that counting up to it takes long
_OTHERS = 64  # files, pipes and sockets of a process besides those that images come by


def raise_open_files() -> None:
    """Raise this process' soft limit of open files to its hard one, as any process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(ValueError, OSError):  # macOS has another limit besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def check_open_files(concurrency: int, workers: int) -> None:
    """Raise `UsageError` where a run of so many workers needs more open files than may be."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = max(concurrency, 4 * workers) + _OTHERS
    if soft != resource.RLIM_INFINITY and soft < needed:
        raise UsageError(
            f"the limit of open files (ulimit -n) must be at least {needed:,} for --concurrency "
            f"{concurrency} and {workers} workers, but is {soft:,}; raise it, or ask for fewer"
        )
