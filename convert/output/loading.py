"""Write code that loads an output, as a person pastes it into Python."""

from __future__ import annotations

from collections.abc import Sequence

from ..text import is_loadable
from .card import data_files
from .finished import ConfigReport

__all__ = ["load_code"]


def load_code(place: str, config: str, reports: Sequence[ConfigReport]) -> str:
    """Return a line of Python that loads a config from a place: a whole path, or a repository.

    `datasets` finds no file in a folder of an odd name, escaped or not, so such a one is read
    through a link of a plain name.
    """
    if is_loadable(place):
        return f"load_dataset({_literal(place)}, {_literal(config)})"
    [report] = [report for report in reports if report.config == config]
    found = {split: data_files(report, split, made) for split, made in report.splits.items()}
    splits = []
    for split, paths in found.items():
        listed = [paths] if isinstance(paths, str) else paths
        files = ", ".join(f"link + {_literal('/' + path)}" for path in listed)
        splits.append(f"{_literal(split)}: [{files}]")
    return (
        'import os, tempfile; link = os.path.join(tempfile.mkdtemp(), "link"); '
        f"os.symlink({_literal(place)}, link); "
        f'load_dataset("parquet", data_files={{{", ".join(splits)}}})'
    )


def _literal(text: str) -> str:
    is_plain = text.isprintable() and not set(text) & {'"', "\\"}
    return f'"{text}"' if is_plain else repr(text)
