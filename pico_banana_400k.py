"""Load Pico-Banana-400K with `datasets`: importing this registers its name with `load_dataset`.

    import pico_banana_400k
    from datasets import load_dataset
    ds = load_dataset("pico_banana_400k", "sft", split="train", streaming=True)

Edits and texts are CC BY-NC-ND 4.0 (non-commercial, no derivatives), the photos CC BY 2.0.
"""
# `datasets` 2.x and 3.x can also run this file as a script. Their scan of it understands no
# `import a, b`, and the builder class must be defined here.

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

import datasets
import datasets.load
from datasets.exceptions import DatasetGenerationError

from pico_banana.errors import PicoBananaError, SettingError, near
from pico_banana.schema import CONFIGS, SCHEMA_VERSION, features

if TYPE_CHECKING:
    from pico_banana.reading.reader import Range, Reader
    from pico_banana.reading.stream import ExamplesStream
    from pico_banana.settings import Settings
    from pico_banana.storage.cache import Fetching

# What fetches and reads is imported where it is used: many import this for its name alone.

__all__ = ["PicoBanana400K", "PicoBananaConfig", "load", "unregister"]

NAME = "pico_banana_400k"
_VERSION = datasets.Version("1.0.0")
_LARGE_BYTES = 20_000_000_000
_ASKED_BYTES = 1_000_000_000  # of less than so much, by averages, nobody asks what it takes
_BYTES_PER_HOUR = 120_000_000 * 3600  # what a line of 1 Gbit/s carries
_IMAGES_PER_HOUR = 400 * 3600  # what a host is asked at most, as configs/fetch.yaml has it
_LINKED_BYTES = 2000  # of a row without bytes, in the library's cache: texts and addresses
_SEMAPHORES = 16  # more than a pool and its queues have
_log = logging.getLogger("pico_banana")


@dataclass
class PicoBananaConfig(datasets.BuilderConfig):  # type: ignore[misc]  # datasets has no types
    """The arguments of `load_dataset("pico_banana_400k", config, …)`; None means the default.

    They are `pico_banana.settings.Settings`, which documents and validates them. Fields that are
    not compared say how bytes are had, not which: they are no part of the cache's identity.
    """

    cdn: str | None = None
    open_images: str | None = field(default=None, compare=False)
    open_images_metadata: str | None = None
    input_sources: list[str] | None = None
    edit_types: list[str] | None = None
    edit_categories: list[str] | None = None
    ids: list[str] | str | None = None
    exclude_ids: list[str] | str | None = None
    offset: int | None = None
    limit: int | None = None
    validation: float | None = None
    on_missing: str | None = None
    images: str | None = None
    mirrors: dict[str, str] | None = field(default=None, compare=False)
    concurrency: int | None = field(default=None, compare=False)
    fetch: dict[str, Any] | None = field(default=None, compare=False)

    def settings(self, storage_options: dict[str, Any] | None = None) -> Settings:
        """Return the validated settings; `SettingError`, a ValueError, for what is not allowed."""
        from pico_banana.settings import Settings, build_settings

        given = {name: getattr(self, name) for name in _ARGUMENTS}
        made = build_settings(Settings, {**given, "storage_options": storage_options})
        made.for_config(self.name)
        return made

    def create_config_id(
        self, config_kwargs: dict[str, Any], custom_features: Any = None, **_: Any
    ) -> str:
        """Return the cache's name for these arguments: equal for equal examples.

        Transport (mirrors, concurrency, where Open Images lies) does not change it, but mirrors do
        where images are links; files of ids count by their content.
        """
        from pico_banana.fetching.links import Links
        from pico_banana.release.files import Release

        del config_kwargs  # they are this config's fields by now
        settings = self.settings()
        identity: dict[str, Any] = Release(settings).identity(self.name)
        if settings.images == "url":  # where images lie is what the rows say
            identity["addresses"] = Links(settings).addresses()
        if custom_features is not None:
            identity["features"] = repr(custom_features)
        if not identity:
            return str(self.name)
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:16]}"


_OF_LIBRARY = {entry.name for entry in fields(datasets.BuilderConfig)}
_ARGUMENTS = [entry.name for entry in fields(PicoBananaConfig) if entry.name not in _OF_LIBRARY]


class PicoBanana400K(datasets.GeneratorBasedBuilder):  # type: ignore[misc]  # datasets has no types
    """Pico-Banana-400K, with the configs sft (default), preference and multi_turn."""

    VERSION = _VERSION
    BUILDER_CONFIG_CLASS = PicoBananaConfig
    BUILDER_CONFIGS = [  # noqa: RUF012  (the library's own way)
        PicoBananaConfig(name=config, version=_VERSION) for config in CONFIGS
    ]
    DEFAULT_CONFIG_NAME = CONFIGS[0]

    _reports: str | None = None

    def _create_builder_config(
        self, config_name: str | None = None, *args: Any, **given: Any
    ) -> Any:
        """Refuse unknown configs and arguments with the near match, before the library does."""
        if config_name is not None and config_name not in CONFIGS:
            raise SettingError(
                "config",
                config_name,
                f"must be one of {', '.join(CONFIGS)}",
                near(config_name, CONFIGS),
            )
        for name in ("data_dir", "data_files"):
            if given.get(name) is not None:
                # Values are not shown: they may hold a secret.
                raise SettingError(name, "…", "must be left out; a release is named by cdn")
        known = {*_ARGUMENTS, *_OF_LIBRARY, "custom_features", "config_id"}
        for name in given:
            if name not in known:
                must = f"must be one of the arguments {', '.join(_ARGUMENTS)}"
                raise SettingError(name, "…", must, near(name, _ARGUMENTS))
        return super()._create_builder_config(config_name, *args, **given)

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(
            description="Examples of text-guided image editing, by Apple",
            homepage="https://github.com/apple/pico-banana-400k",
            license="CC BY-NC-ND 4.0 (edits and texts), CC BY 2.0 (photos)",
            features=features(self.config.name, images=self.config.images or "bytes"),
        )

    def _settings(self) -> Settings:
        made: Settings = self.config.settings(self.storage_options)
        return made

    def _split_generators(self, dl_manager: Any) -> list[datasets.SplitGenerator]:
        from pico_banana.reading.reader import Reader

        settings = self._settings()
        streaming = bool(dl_manager.is_streaming)
        reader = Reader(self.config.name, settings, local=not streaming, progress=_bar)
        splits = ["train", "validation"] if settings.validation else ["train"]
        ranges = reader.ranges()
        return [
            datasets.SplitGenerator(
                name=split,
                # Lists are what the library shares out; the rest goes to everybody.
                gen_kwargs={
                    "ranges": ranges,
                    "reader": reader,
                    "split": split,
                    "strict": not streaming,
                },
            )
            for split in splits
        ]

    def _generate_examples(
        self, ranges: list[Range], reader: Reader, split: str, *, strict: bool
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        from pico_banana.reading.load_report import LoadReport

        report = LoadReport()
        yield from reader.examples(ranges, split, report, strict=strict)
        if self._reports is not None:
            report.write(self._reports)  # a file, for several processes may load

    def _get_examples_iterable_for_split(self, split_generator: Any) -> ExamplesStream:
        """Stream by an iterable of our own; the base class has one for each range."""
        from pico_banana.reading.stream import ExamplesStream

        given = split_generator.gen_kwargs
        return ExamplesStream(given["reader"], given["split"], given["ranges"])

    def download_and_prepare(self, *args: Any, **given: Any) -> None:
        """Load into the cache, after a look at what that takes; see the base class.

        Raises:
            SettingError: several processes cannot be had here.
            OSError: the disk is too small, before any image is fetched.
            MissingImageError: an image is missing for a reason that may pass, no example is left,
                or a host gave nothing.
        """
        from pico_banana.reading.load_report import LoadReport
        from pico_banana.reading.stream import warn_of_paces

        if not self._is_prepared(*args, **given):
            num_proc = given.get("num_proc") or 1
            _check_semaphores(num_proc)
            warn_of_paces(self._settings(), num_proc)
            self._estimate()
            self._warn_of_unmatched()
        with tempfile.TemporaryDirectory(prefix="pico-banana-") as reports:
            self._reports = reports
            try:
                super().download_and_prepare(*args, **given)
            except DatasetGenerationError as error:
                if isinstance(error.__cause__, PicoBananaError):
                    raise error.__cause__ from None
                raise
            finally:
                self._reports = None
            report = LoadReport.read(reports)
        if report.missing:
            warnings.warn(
                f"{NAME} {self.config.name}: images are missing for good: {report.counted}; "
                f"on_missing is {self._settings().on_missing!r}. That is cached: to look again, "
                f"delete {self.cache_dir}",
                stacklevel=2,
            )

    def _download_and_prepare(self, *args: Any, **given: Any) -> None:
        """Make all splits; raise where they must not be kept, and the library keeps nothing."""
        from pico_banana.reading.load_report import LoadReport

        super()._download_and_prepare(*args, **given)
        if self._reports is not None:
            LoadReport.read(self._reports).refuse()

    def _is_prepared(self, output_dir: Any = None, *_: Any, **given: Any) -> bool:
        folder = os.fspath(output_dir or given.get("output_dir") or self.cache_dir)
        mode = datasets.DownloadMode(given.get("download_mode") or "reuse_dataset_if_exists")
        reuses = mode is datasets.DownloadMode.REUSE_DATASET_IF_EXISTS
        return reuses and os.path.exists(os.path.join(folder, "dataset_info.json"))

    def _warn_of_unmatched(self) -> None:
        """Name the ids that match nothing: a list of takedowns may have a typing error."""
        from pico_banana.reading.reader import Reader

        reader = Reader(self.config.name, self._settings(), local=True, progress=_bar)
        for told in reader.unmatched().told(self.config.name):
            warnings.warn(f"{NAME}: {told}", stacklevel=4)

    def _estimate(self) -> None:
        """Tell the library, which looks at the disk, and the user what the load will take."""
        from pico_banana.reading.estimate import SampleMeans
        from pico_banana.reading.reader import Reader

        settings = self._settings()
        spec = settings.for_config(self.config.name)
        if settings.images != "bytes":
            # Nothing is fetched, and what it takes is no reason to read all records twice.
            self.info.size_in_bytes = (
                min(settings.limit or spec.records, spec.records) * _LINKED_BYTES
            )
            return
        counted = Reader(self.config.name, settings, local=True, progress=_bar).count()
        means, images = SampleMeans(), counted.images.total()
        if means.size_bytes(counted.images, spec) > _ASKED_BYTES:
            (means,) = SampleMeans.ask([counted.sample], settings)
        size = int(means.size_bytes(counted.images, spec)) + counted.records * _LINKED_BYTES
        self.info.size_in_bytes = size
        if size > _LARGE_BYTES:
            warnings.warn(
                f"loading {NAME} {self.config.name} takes about {size / 1e9:,.0f} GB of disk, "
                f"reckoned {means.told(counted.images)}, {images:,} requests and "
                f"{max(size / _BYTES_PER_HOUR, images / _IMAGES_PER_HOUR):,.1f} hours at 1 Gbit/s; "
                "a load that is interrupted starts from zero. Ways out: limit=…, streaming=True, "
                "or `pico-banana convert`, which continues",
                stacklevel=4,
            )


def _check_semaphores(num_proc: int) -> None:
    """Refuse several processes where the library's pool cannot have what its queues need."""
    if num_proc == 1 or "fork" not in multiprocessing.get_all_start_methods():
        return
    try:
        # Not those of "spawn", which start a process that looks after them.
        fork = multiprocessing.get_context("fork")
        _held = [fork.Lock() for _ in range(_SEMAPHORES)]
    except OSError as error:
        raise SettingError(
            "num_proc",
            num_proc,
            f"must be left out where processes can share no semaphores ({error.strerror})",
            "; on Linux /dev/shm must be there, writable and with room: `docker run "
            "--shm-size=64m` gives a container one",
        ) from None


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Fetching]:
    """Show a bar of the library's for what is fetched or indexed, none for what is there."""
    bar = None

    def told(done: int, total: int | None) -> None:
        nonlocal bar
        if bar is None:
            # The library's bar needs somewhere to write.
            is_deaf = sys.stderr is None
            bar = datasets.utils.tqdm(desc=what, unit="B", unit_scale=True, disable=is_deaf)
        bar.total = total
        bar.update(done - bar.n)

    try:
        yield told
    finally:
        if bar is not None:
            bar.close()


def load(
    config: str = CONFIGS[0], *, split: str | None = None, streaming: bool = False, **given: Any
) -> Any:
    """Return what `load_dataset("pico_banana_400k", config, …)` returns, without the registration.

    Args:
        config: sft, preference or multi_turn.
        split: train, validation, or for map-style a slice like `train[:100]`; None: all.
        streaming: return an iterable dataset, which fetches as it is read.
        given: arguments of `PicoBananaConfig`, and `cache_dir`, `num_proc`, `download_mode`.
    """
    if streaming and (wrong := {"num_proc", "download_mode"} & set(given)):
        name = min(wrong)
        raise SettingError(name, given[name], "must be left out with streaming=True")
    preparing = {name: given.pop(name) for name in ("num_proc", "download_mode") if name in given}
    # The same names as the registered way, so that both share one cache.
    builder = PicoBanana400K(config_name=config, dataset_name=NAME, hash=_HASH, **given)
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare(**preparing)
    return builder.as_dataset(split=split)


_HASH = f"schema{SCHEMA_VERSION}"
"""The last part of the cache's path: raise it and nothing of before is served."""


def _wrap(factory: Any) -> Any:
    """A `dataset_module_factory` that knows this dataset's name, and asks `factory` for others."""

    @functools.wraps(factory)
    def dataset_module_factory(path: Any, *args: Any, **given: Any) -> Any:
        if path != NAME:
            return factory(path, *args, **given)
        return datasets.load.DatasetModule(NAME, _HASH, {"dataset_name": NAME})

    dataset_module_factory._pico_banana_wraps = factory  # type: ignore[attr-defined]  # noqa: SLF001
    return dataset_module_factory


def _replace(old: Any, new: Any) -> None:
    """Put `new` wherever a loaded module of `datasets` holds `old`: some import it by name."""
    for name, module in list(sys.modules.items()):
        of_library = name.partition(".")[0] == "datasets"
        if of_library and getattr(module, "dataset_module_factory", None) is old:
            module.dataset_module_factory = new  # type: ignore[attr-defined]


def _register() -> None:
    """Make the name known to `load_dataset`; warn and change nothing where that cannot be done."""
    factory: Any = getattr(datasets.load, "dataset_module_factory", None)
    if hasattr(factory, "_pico_banana_wraps"):
        unregister()  # this module was reloaded
        factory = datasets.load.dataset_module_factory
    module: Any = getattr(datasets.load, "DatasetModule", None)
    try:
        takes_path = next(iter(inspect.signature(factory).parameters)) == "path"
        makes = [*inspect.signature(module).parameters][:3]
    except (TypeError, ValueError, StopIteration):
        takes_path, makes = False, []
    if not takes_path or makes != ["module_path", "hash", "builder_kwargs"]:
        warnings.warn(
            f'datasets {datasets.__version__} cannot be told of {NAME}: load_dataset("{NAME}") '
            f"will not work, {NAME}.load(...) does",
            stacklevel=2,
        )
        return
    _replace(factory, _wrap(factory))


def unregister() -> None:
    """Undo the registration: `load_dataset` is again as it was before the import."""
    factory = getattr(datasets.load, "dataset_module_factory", None)
    original = getattr(factory, "_pico_banana_wraps", None)
    if original is not None:
        _replace(factory, original)


# Run as a script, or copied by `datasets` 2.x and 3.x to run from there, there is nothing to tell.
if __name__ == NAME:
    _register()
