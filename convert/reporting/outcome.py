"""Hold what a conversion came to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..output.finished import ConfigReport

if TYPE_CHECKING:  # its library is slow to import
    from ..publishing.publication import Publication

__all__ = ["Outcome"]


@dataclass
class Outcome:
    """What a conversion came to.

    Attributes:
        reports: every finished config of the output.
        made: shards made in this run.
        kept: shards that were finished before.
        missing: examples with a missing image, of the configs converted, kept shards too.
        is_within: whether that is within `--max-missing`.
        publication: what a repository holds of it, None where nothing is published.
    """

    reports: list[ConfigReport] = field(default_factory=list)
    made: int = 0
    kept: int = 0
    missing: int = 0
    is_within: bool = True
    publication: Publication | None = None
