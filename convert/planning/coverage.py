"""Tell which input photos Open Images' image list knows, and write an index of those alone."""

from __future__ import annotations

import itertools
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pico_banana.errors import OutputError, SettingError, bare_url
from pico_banana.open_images.index import Index, Rows, is_image_id, open_index
from pico_banana.release.columns import parsed, split_blocks
from pico_banana.release.files import Release
from pico_banana.release.records import BadRecord, parse_line
from pico_banana.settings import Settings
from pico_banana.storage.cache import replacing
from pico_banana.storage.remote import RemoteFile
from pico_banana.urls import path_of, photo_of

from ..screen import Shown
from ..text import printable

__all__ = ["Coverage", "IndexReport", "report_index", "show_index"]

_MOST_EXAMPLES = 5


@dataclass(frozen=True)
class Coverage:
    """What the image list knows of the input photos of a config, or of all that were asked for.

    Attributes:
        name: the config, or "all".
        records: good records.
        bad: lines that are no records.
        inputs: distinct input URLs.
        exact: how many of these are listed.
        by_name: how many are listed with another spelling of their host.
        unmatched: how many are not listed.
        examples: the first of these, each with the number of its first line; none for "all".
        tars: distinct photos by the tar of Open Images that holds them (`train_0`, ...).
    """

    name: str
    records: int
    bad: int
    inputs: int
    exact: int
    by_name: int
    unmatched: int
    examples: tuple[tuple[str, int], ...]
    tars: Mapping[str, int]


@dataclass(frozen=True)
class IndexReport:
    """An index, what it knows, and what was written of it.

    Attributes:
        path: where the index lies.
        place: the image list or index that was asked for, as it may be shown.
        photos: how many photos it holds.
        coverages: one a config, then one of all where there are several.
        output: the index that was written, None where none was asked for.
        output_photos: how many photos that one holds.
    """

    path: str
    place: str
    photos: int
    coverages: tuple[Coverage, ...]
    output: str | None
    output_photos: int


@dataclass
class _Inputs:
    """The records of a config, and its distinct input URLs with the numbers of their first lines.

    Of all configs together there is no such number: it is 0.
    """

    name: str
    records: int = 0
    bad: int = 0
    lines: dict[str, int] = field(default_factory=dict)

    def add(self, urls: Sequence[str], number: int) -> None:
        """Add the input URLs of lines that follow each other, from this number on."""
        self.records += len(urls)
        for url, line in zip(urls, itertools.count(number), strict=False):
            self.lines.setdefault(url, line)


def report_index(
    configs: Sequence[str], settings: Settings, shown: Shown, output: str | None = None
) -> IndexReport:
    """Find or make the index of the image list, and look up the inputs of configs in it.

    The records are read while the index is made, for neither needs the other.

    Args:
        configs: any of sft, preference and multi_turn; none reports on the index alone.
        settings: name the release and its image list.
        shown: told what is fetched.
        output: a local path to write an index to: of all photos, or where there are configs, of
            those that they need.

    Raises:
        SettingError: the image list is `none`.
        ReleaseError: the release or its image list cannot be read.
        OutputError: the output cannot be written; it is then as it was.
    """
    place = settings.open_images_metadata
    if place == "none":
        way_out = "; leave it out to take the published one"
        raise SettingError("open_images_metadata", place, "must be an image list here", way_out)
    release = Release(settings)
    with _replaced(output) as temporary:
        copies = {config: _copy(config, release, shown) for config in configs}
        with _reading(copies, release) as inputs_of:
            with shown.bytes_bar("indexing Open Images' image list") as progress:
                index = open_index(release.mirror(place), settings.storage_options, progress)
            assert index is not None  # it is of `none` only
            inputs = inputs_of()
        if len(inputs) > 1:
            inputs.append(_all_of(inputs))
        coverages = tuple(_coverage(given, index) for given in inputs)
        output_photos = 0
        if output is not None and temporary is not None:
            _check_another(output, index.path)
            output_photos = _write(temporary, index, [*inputs[-1].lines] if inputs else None)
    return IndexReport(
        path=index.path,
        place=bare_url(place),
        photos=len(index),
        coverages=coverages,
        output=None if output is None else os.path.abspath(output),
        output_photos=output_photos,
    )


def _copy(config: str, release: Release, shown: Shown) -> RemoteFile:
    """A config's JSONL file, in a folder of this machine."""
    file = release.jsonl(config)
    with shown.bytes_bar(f"fetching records of {config}") as progress:
        return RemoteFile(file.kept("jsonl", progress), {})


@contextmanager
def _reading(
    copies: Mapping[str, RemoteFile], release: Release
) -> Iterator[Callable[[], list[_Inputs]]]:
    """Read the records in a thread; gives a function that waits for it and returns their inputs.

    Where the context is left before, reading ends.
    """
    is_left = threading.Event()

    def read(config: str, copy: RemoteFile) -> _Inputs:
        inputs = _Inputs(config)
        resolve = release.manifest(config).resolve
        with copy.reading() as read_on:
            for block in split_blocks(read_on):
                for part, usual in parsed(config, block):
                    if usual is not None:
                        inputs.add(usual.records["input_url"].to_pylist(), part.number)
                        continue
                    for line in part.lines():
                        if line.raw is not None and not line.raw.strip():
                            continue
                        record = parse_line(config, line, resolve)
                        if isinstance(record, BadRecord):
                            inputs.bad += 1
                        else:
                            inputs.add([record.input_url], line.number or 0)
                if is_left.is_set():
                    break
        return inputs

    with ThreadPoolExecutor(1, thread_name_prefix="pico-banana-records") as pool:
        made = [pool.submit(read, config, copy) for config, copy in copies.items()]
        try:
            yield lambda: [future.result() for future in made]
        finally:
            is_left.set()


def _all_of(inputs: Sequence[_Inputs]) -> _Inputs:
    lines = dict.fromkeys((url for given in inputs for url in given.lines), 0)
    records, bad = sum(given.records for given in inputs), sum(given.bad for given in inputs)
    return _Inputs("all", records, bad, lines)


def _coverage(inputs: _Inputs, index: Index) -> Coverage:
    rows, is_exact = index.matches([*inputs.lines])
    unmatched, exact = int((rows < 0).sum()), int(is_exact.sum())
    first = itertools.islice(itertools.compress(inputs.lines.items(), rows < 0), _MOST_EXAMPLES)
    # A tar's name ends with the first digit of its photos' ImageIDs.
    image_ids = index.image_ids(_distinct(rows, index))
    tars = Counter([image_id[0] for image_id in image_ids if image_id and is_image_id(image_id)])
    return Coverage(
        name=inputs.name,
        records=inputs.records,
        bad=inputs.bad,
        inputs=len(rows),
        exact=exact,
        by_name=len(rows) - unmatched - exact,
        unmatched=unmatched,
        examples=tuple((url, line) for url, line in first if line),
        tars={f"train_{digit}": tars[digit] for digit in sorted(tars)},
    )


def _distinct(rows: Rows, index: Index) -> Rows:
    """Rows that are there, ascending, each once."""
    is_there = np.zeros(len(index), np.bool_)
    is_there[rows[rows >= 0]] = True
    return np.flatnonzero(is_there)


@contextmanager
def _replaced(output: str | None) -> Iterator[str | None]:
    """Give a temporary path whose file becomes the output if all goes well; None for None."""
    if output is None:
        yield None
        return
    path = path_of(output, is_new=True)
    if path is None:
        raise OutputError(
            f"--output must be a path of this machine, but got {bare_url(output)}; write the index "
            "to a folder and copy it there",
            bare_url(output),
        )
    path = os.path.abspath(path)
    try:
        _check_replaceable(path)
        with replacing(path) as temporary:
            # What cannot be written shows now, and not after half an hour of fetching.
            with open(temporary, "xb"):
                pass
            yield temporary
    except OSError as error:
        raise OutputError(
            f"--output {path} cannot be written: {error}; give another --output", path
        ) from None


def _check_replaceable(path: str) -> None:
    """Refuse to replace a file that is no index: it may be the image list itself."""
    if not os.path.lexists(path):
        return
    if os.path.isfile(path):
        with open(path, "rb") as file:
            if file.read(6) == b"ARROW1":
                return
    raise OutputError(
        f"--output {path} is there already and no index; give another --output, or move it away",
        path,
    )


def _check_another(output: str, path: str) -> None:
    """Refuse to replace the index itself, which may be the one that is kept for other runs."""
    if os.path.realpath(output) == os.path.realpath(path):
        raise OutputError(
            f"--output must be another file than the index itself, but is {path}", path
        )


def _write(path: str, index: Index, urls: Sequence[str] | None) -> int:
    """Write the index: all of it, or what these URLs need; return how many photos."""
    if urls is None:
        shutil.copyfile(index.path, path)
        return len(index)
    rows, _ = index.matches(urls)
    # The first photo of the same name too: other spellings of the URL lead to it.
    same_name, _ = index.matches([photo_of(url) for url in urls])
    needed = _distinct(np.concatenate([rows, same_name]), index)
    index.write_rows(needed, path)
    return len(needed)


def show_index(report: IndexReport, console: Console) -> None:
    """Show where an index lies, and what it knows of each config."""
    _say(console, f"index of {report.place}: {report.path}, {report.photos:,} photos")
    if report.coverages:
        console.print(_table(report.coverages))
    for coverage in report.coverages:
        for url, line in coverage.examples:
            _say(console, f"unmatched: {coverage.name}, line {line}: {bare_url(url)}")
        more = coverage.unmatched - len(coverage.examples)
        if coverage.examples and more:
            _say(console, f"... and {more:,} of {coverage.name} more")
    if report.output:
        _say(
            console,
            f"written: {report.output}, {report.output_photos:,} photos; use it with "
            f"--open-images-metadata {report.output}",
        )


def _say(console: Console, text: str) -> None:
    console.print(escape(printable(text)), highlight=False, soft_wrap=True)


def _table(coverages: Sequence[Coverage]) -> Table:
    table = Table("", box=None, pad_edge=False)
    for coverage in coverages:
        table.add_column(coverage.name, justify="right")
    told = {
        "records": "records",
        "bad": "bad lines",
        "inputs": "distinct inputs",
        "exact": "matched exactly",
        "by_name": "matched by file name, the host is spelled differently",
        "unmatched": "unmatched",
    }
    for name, shown in told.items():
        table.add_row(shown, *[f"{getattr(coverage, name):,}" for coverage in coverages])
    for tar in sorted({tar for coverage in coverages for tar in coverage.tars}):
        table.add_row(f"photos in {tar}", *[f"{found.tars.get(tar, 0):,}" for found in coverages])
    return table
