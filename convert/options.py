"""Hold what a conversion is asked for beyond the loader's arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from pydantic import ByteSize, Field, TypeAdapter, ValidationError

from pico_banana.errors import SettingError
from pico_banana.input_sources import SOURCES, input_sources_of
from pico_banana.schema import SCHEMA_VERSION
from pico_banana.settings import Settings

__all__ = [
    "ConvertSettings",
    "MaxMissing",
    "PublishOptions",
    "RetryScope",
    "RunOptions",
    "RunnerKind",
    "Slice",
]

ROW_GROUP_BYTES = 64 * 1024 * 1024
"""Most image bytes of one row group; the Hub's viewer reads groups of up to about 286 MiB."""

ROW_GROUP_ROWS = 10_000
"""Most rows of one row group where there are no image bytes."""

# About what a row without image bytes takes in a file, for the plan's estimate only.
_LINKED_BYTES = {"sft": 300, "preference": 500, "multi_turn": 600}
_LINKED_PER_SHARD = 50_000

DISK_BUDGET_BYTES = 10 * 10**9
"""Most Parquet bytes on disk at once while publishing, where nothing else is said."""

_SLICE = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")

RetryScope = Literal["transient", "all"]
"""Which missing images are tried again: those of transient reasons, or all."""

RunnerKind = Literal["local", "ray"]
"""What carries shards out: worker processes of this machine, or a Ray cluster."""


class ConvertSettings(Settings):
    """The loader's settings, and those that decide how examples are cut and written."""

    records_per_shard: int | None = Field(
        None,
        ge=1,
        description="Most records of a Parquet file. "
        "[default: 250 sft, 150 preference, 80 multi_turn; 50,000 where images is url or none]",
    )
    check: Literal["header", "decode"] = Field(
        "header",
        description="How far an image is looked into: its structure, or every pixel decoded.",
    )

    def shard_size(self, config: str) -> int:
        """Return how many records a shard of this config has at most."""
        usual = self.for_config(config).records_per_shard
        return self.records_per_shard or (usual if self.images == "bytes" else _LINKED_PER_SHARD)

    def bytes_of_record(self, config: str) -> float:
        """Return about how many bytes a record takes in a file."""
        spec = self.for_config(config)
        if self.images != "bytes":
            return _LINKED_BYTES[config]
        return spec.input_bytes + spec.images_per_record * spec.edited_bytes

    def what_decides_bytes(self) -> dict[str, Any]:
        """Return the settings on which a shard's bytes depend, besides its records.

        No places, but the addresses that the link edition holds.
        """
        if self.images != "bytes":
            from pico_banana.fetching.links import Links  # noqa: PLC0415  (--help need not wait for Arrow)

            return {
                "schema": SCHEMA_VERSION,
                "images": self.images,
                "row_group_bytes": ROW_GROUP_BYTES,
                "row_group_rows": ROW_GROUP_ROWS,
                **({"addresses": Links(self).addresses()} if self.images == "url" else {}),
            }
        return {
            "schema": SCHEMA_VERSION,
            "images": self.images,
            "on_missing": self.on_missing,
            "input_sources": input_sources_of(self.sources),
            "check": self.check,
            "max_image_bytes": self.fetch.max_image_bytes,
            "max_pixels": self.fetch.max_pixels,
            "placeholder_sha256s": sorted(self.fetch.placeholder_sha256s),
            "row_group_bytes": ROW_GROUP_BYTES,
        }


@dataclass(frozen=True)
class MaxMissing:
    """How many examples may have missing images: a count, or a share of the planned ones.

    Attributes:
        text: as the user wrote it.
        count: the count, None where a share was given.
        share: the share, from 0 up to 1, None where a count was given.
    """

    text: str
    count: int | None
    share: float | None

    @classmethod
    def parse(cls, text: str) -> MaxMissing:
        """Return what "25" or "0.01" means; `SettingError` for anything else."""
        if re.fullmatch(r"\d+", text):
            return cls(text, int(text), None)
        if re.fullmatch(r"0?\.\d+", text):
            return cls(text, None, float(text))
        raise SettingError(
            "max_missing", text, "must be a count like 25, or a share below 1 like 0.01"
        )

    def allows(self, missing: int, planned: int) -> bool:
        """Whether so many of the planned examples may have missing images."""
        if self.count is not None:
            return missing <= self.count
        assert self.share is not None
        return missing <= self.share * planned

    def is_judged(self, done: int) -> bool:
        """Whether so many examples are enough to judge: a share is looked at from 200 on."""
        return self.count is not None or done >= 200  # noqa: PLR2004


@dataclass(frozen=True)
class PublishOptions:
    """How an output is published.

    Attributes:
        repo: the repository, OWNER/NAME.
        is_public: whether everybody may see it, once all is there.
        accepts_license: whether the user has read what the licences ask.
        replaces: whether files of another plan go, once all new ones are there.
        keeps_local: whether Parquet files stay in the output when they are uploaded.
        disk_budget_bytes: most Parquet bytes in the output at once; None is 10 GB. Of no meaning
            where they stay.

    Raises:
        SettingError: options that contradict each other.
    """

    repo: str
    is_public: bool = False
    accepts_license: bool = False
    replaces: bool = False
    keeps_local: bool = True
    disk_budget_bytes: int | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.is_public and not self.accepts_license:
            raise SettingError(
                "public",
                self.is_public,
                "must come with --accept-license: edits and texts are CC BY-NC-ND 4.0 (attribution,"
                " no commercial use, no derivatives), photos CC BY 2.0 of their photographers. "
                "Allowed is to pass on the unchanged files for non-commercial use, with both "
                "licences and all attribution, as this command does",
                "; without --public the repository stays private",
            )
        if self.disk_budget_bytes is not None and self.keeps_local:
            raise SettingError(
                "disk_budget",
                self.disk_budget_bytes,
                "must be left out with --keep-local, which keeps every file",
            )

    @staticmethod
    def parse_budget(text: str) -> int:
        """Return the bytes that "10GB" or "500 MiB" means; `SettingError` for anything else."""
        try:
            size = int(TypeAdapter(ByteSize).validate_python(text))
        except ValidationError:
            size = 0
        if size <= 0:
            raise SettingError("disk_budget", text, "must be a size like 10GB or 500MB")
        return size

    @property
    def budget_bytes(self) -> int | None:
        """Most Parquet bytes in the output at once, None where they stay."""
        return None if self.keeps_local else self.disk_budget_bytes or DISK_BUDGET_BYTES


@dataclass(frozen=True)
class Slice:
    """One of several runs that share a conversion.

    Attributes:
        index: which one, from 0.
        count: how many there are.
        at_once: how many run at the same time, and share the budgets of hosts.
    """

    index: int
    count: int
    at_once: int

    @classmethod
    def parse(cls, text: str, at_once: int | None = None) -> Slice:
        """Return what "2/8" means: the third of eight; `SettingError` for anything else."""
        found = _SLICE.fullmatch(text)
        index, count = map(int, found.groups()) if found else (0, 0)
        if not index < count:
            raise SettingError(
                "slice", text, "must be i/n, i from 0 up to n-1, like 0/8 for the first of eight"
            )
        if at_once is not None and not 1 <= at_once <= count:
            raise SettingError(
                "slices_at_once", at_once, f"must be from 1 up to the number of slices, {count}"
            )
        return cls(index, count, at_once or count)

    def __str__(self) -> str:
        """As it is written on the command line."""
        return f"{self.index}/{self.count}"

    def names(self, shards: Sequence[str]) -> set[str]:
        """Return which of a config's shards are this slice's."""
        return set(shards[self.index :: self.count])

    def settings(self, settings: ConvertSettings) -> ConvertSettings:
        """Return the settings with this slice's share of every host's budget."""
        fetch = settings.fetch.shared(self.at_once)
        return settings.model_copy(update={"fetch": fetch})

    def overrun(self, settings: ConvertSettings) -> list[str]:
        """Return the globs of hosts that have fewer connections than slices run at once."""
        unasked = {one.hosts for name, one in SOURCES.items() if name not in settings.sources}
        return [
            glob
            for glob in settings.fetch.hosts
            if settings.fetch.budget_of(glob).connections < self.at_once and glob not in unasked
        ]


@dataclass(frozen=True)
class RunOptions:
    """How a conversion is carried out; nothing here changes a byte of the output.

    Attributes:
        workers: how many processes; None is 2, with Ray one for each CPU of its cluster.
        runner: local processes, or a Ray cluster.
        ray_address: of the cluster, as Ray writes it; None leaves it to Ray.
        overwrite: delete the files that the old plan names, and begin anew.
        max_missing: stop early beyond it; None never stops early.
        retry: which missing images of finished shards are tried again; None leaves such shards
            as they are.
        slice: which part of the shards is this run's; None is all.
        publish: where shards are published while others are made; None publishes nothing.

    Raises:
        SettingError: options that contradict each other.
    """

    workers: int | None = None
    runner: RunnerKind = "local"
    ray_address: str | None = None
    overwrite: bool = False
    max_missing: MaxMissing | None = None
    retry: RetryScope | None = None
    slice: Slice | None = None
    publish: PublishOptions | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself."""
        if self.runner not in get_args(RunnerKind):
            raise SettingError("runner", self.runner, "must be local or ray")
        if self.ray_address is not None and self.runner != "ray":
            raise SettingError("ray_address", self.ray_address, "must come with --runner ray")
        if self.overwrite and self.retry:
            raise SettingError(
                "retry_missing",
                self.retry,
                "must be left out with overwrite, which deletes the shards that have something "
                "to be tried again",
                "; use one of the two",
            )
        if self.overwrite and self.slice:
            raise SettingError(
                "slice",
                str(self.slice),
                "must be left out with overwrite: each slice would delete what the others made",
                "; delete the old output, or give another",
            )
        if self.publish is None:
            return
        others = {
            "overwrite": (self.overwrite, "; --replace puts another plan in the place of the old"),
            "slice": (self.slice, "; run `pico-banana publish` when all slices are done"),
            "runner": (self.runner == "ray", "; run `pico-banana publish` when it is done"),
        }
        for name, (given, way_out) in others.items():
            if given:
                value = str(getattr(self, name))
                raise SettingError(name, value, "must be left out with --publish", way_out)
