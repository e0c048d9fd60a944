"""Hold what a conversion is asked for beyond the loader's arguments."""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from pico_banana.errors import SettingError
from pico_banana.input_sources import SOURCES, input_sources_of
from pico_banana.schema import SCHEMA_VERSION
from pico_banana.settings import Settings
from pico_banana.urls import mirrored

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ConvertSettings",
    "MaxMissing",
    "PublishOptions",
    "RefillScope",
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
# The same of a row with image bytes, but for these: texts, and the index of its pages.
_ROW_BYTES = {"sft": 3100, "preference": 4300, "multi_turn": 3400}
_LINKED_PER_SHARD = 50_000

DISK_BUDGET_BYTES = 10 * 10**9
"""Most Parquet bytes on disk at once while publishing, where nothing else is said."""

_SLICE = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")

RefillScope = Literal["transient", "all"]
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

    no_probe: bool = Field(
        False,
        description="Do not ask for the sizes of some images: reckon bytes by averages of the "
        "whole release.",
    )

    def shard_size(self, config: str) -> int:
        """Return how many records a shard of this config has at most."""
        usual = self.for_config(config).records_per_shard
        return self.records_per_shard or (usual if self.images == "bytes" else _LINKED_PER_SHARD)

    def bytes_of_record(self, config: str) -> float:
        """Return about how many bytes a record takes in a file."""
        spec = self.for_config(config)
        if self.images != "bytes":
            return self.text_bytes(config)
        return spec.input_bytes + spec.images_per_record * spec.edited_bytes

    def text_bytes(self, config: str) -> float:
        """Return about how many bytes a record takes in a file, but for its images."""
        return (_ROW_BYTES if self.images == "bytes" else _LINKED_BYTES)[config]

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


class _Options(BaseModel):
    """What the flags of a command say; a field's description is its flag's."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _flag(metavar: str, description: str) -> Any:
    """A field that is unset by default, and whose flag shows this for its value."""
    return Field(None, description=description, json_schema_extra={"metavar": metavar})


def _size(text: str) -> int:
    """The bytes that "10GB" or "500 MiB" means; `SettingError` for anything else."""
    try:
        size = int(TypeAdapter(ByteSize).validate_python(text))
    except ValidationError:
        size = 0
    if size <= 0:
        raise SettingError("disk_budget", text, "must be a size like 10GB or 500MB")
    return size


class PublishOptions(_Options):
    """How an output is published: to `repo`, OWNER/NAME; a budget is for files that do not stay."""

    repo: str
    disk_budget: Annotated[int, BeforeValidator(_size)] | None = _flag(
        "SIZE",
        "With --publish: most Parquet bytes in OUT at once; writing waits for uploads. [default: "
        "10GB]",
    )
    keep_local: bool = Field(False, description="With --publish: keep the Parquet files in OUT.")
    public: bool = Field(
        False,
        description="Let everybody see the repository, once all is there; with --accept-license. "
        "[default: private]",
    )
    accept_license: bool = Field(
        False,
        description="You have read what CC BY-NC-ND 4.0 (edits, texts) and CC BY 2.0 (photos) ask.",
    )
    replace: bool = Field(
        False,
        description="Where the repository holds another plan: delete its files once all new are "
        "there.",
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself."""
        if self.public and not self.accept_license:
            raise SettingError(
                "public",
                self.public,
                "must come with --accept-license: edits and texts are CC BY-NC-ND 4.0 (attribution,"
                " no commercial use, no derivatives), photos CC BY 2.0 of their photographers. "
                "Allowed is to pass on the unchanged files for non-commercial use, with both "
                "licences and all attribution, as this command does",
                "; without --public the repository stays private",
            )
        if self.disk_budget is not None and self.keep_local:
            raise SettingError(
                "disk_budget",
                self.disk_budget,
                "must be left out with --keep-local, which keeps every file",
            )
        return self

    @property
    def budget_bytes(self) -> int | None:
        """Most Parquet bytes in the output at once, None where they stay."""
        return None if self.keep_local else self.disk_budget or DISK_BUDGET_BYTES


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
        asked = [mirrored(settings.cdn, settings.mirrors)]
        for name in settings.sources:
            asked += SOURCES[name].asked(settings.mirrors)
        names = [urlsplit(place).hostname or "" for place in asked if not os.path.isabs(place)]
        return [
            glob
            for glob in settings.fetch.hosts
            if settings.fetch.budget_of(glob).connections < self.at_once
            and any(fnmatch.fnmatchcase(name, glob) for name in names)
        ]


class RunOptions(_Options):
    """How a conversion is carried out; nothing here changes a byte of the output."""

    workers: int | None = Field(
        None,
        ge=1,
        description="Worker processes. [default: 2; with Ray one for each CPU of its cluster]",
    )
    runner: RunnerKind = Field(
        "local",
        description="Who carries shards out: processes of this machine, or a Ray cluster.",
        json_schema_extra={"metavar": "local|ray"},
    )
    ray_address: str | None = _flag(
        "HOST:PORT",
        "Ray cluster to use, `auto` for the one this machine is a node of. [default: RAY_ADDRESS, "
        "else this machine's, else a new one on this machine]",
    )
    overwrite: bool = Field(
        False, description="Delete the files that the old plan names, begin anew."
    )
    retry_missing: bool = Field(
        False,
        description="Try again the missing images of finished shards whose reason may have passed.",
    )
    retry_missing_all: bool = Field(False, description="The same, whatever the reason.")
    max_missing: Annotated[MaxMissing, BeforeValidator(MaxMissing.parse)] | None = _flag(
        "X",
        "Stop early beyond so many examples with missing images: a count, or a share below 1.",
    )
    slice: Slice | None = _flag(
        "i/n",
        "Carry out every n-th shard, from the i-th on (from 0), for job arrays; takes its share of "
        "every host's budget. `finish` puts the slices together.",
    )
    slices_at_once: int | None = _flag(
        "M", "How many slices run at the same time. [default: all of them]"
    )
    publish: PublishOptions | None = _flag(
        "REPO",
        "Publish each shard to this dataset repository of the Hub, OWNER/NAME, and delete its "
        "Parquet file. Private, unless it is public.",
    )

    @model_validator(mode="before")
    @classmethod
    def _sliced(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Make a slice of its text and of how many run at once."""
        text, at_once = given.get("slice"), given.get("slices_at_once")
        if text is not None:
            return {**given, "slice": Slice.parse(text, at_once)}
        if at_once is not None:
            raise SettingError("slices_at_once", at_once, "must come with --slice")
        return given

    @field_validator("runner", mode="before")
    @classmethod
    def _known(cls, runner: str) -> str:
        if runner not in get_args(RunnerKind):
            raise SettingError("runner", runner, "must be local or ray")
        return runner

    @property
    def refill(self) -> RefillScope | None:
        """Which missing images of finished shards are tried again; None leaves such shards."""
        return "all" if self.retry_missing_all else "transient" if self.retry_missing else None

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        """Refuse what contradicts itself."""
        if self.ray_address is not None and self.runner != "ray":
            raise SettingError("ray_address", self.ray_address, "must come with --runner ray")
        if self.overwrite and self.refill:
            raise SettingError(
                "retry_missing",
                self.refill,
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
            return self
        others = {
            "overwrite": (self.overwrite, "; --replace puts another plan in the place of the old"),
            "slice": (self.slice, "; run `pico-banana publish` when all slices are done"),
            "runner": (self.runner == "ray", "; run `pico-banana publish` when it is done"),
        }
        for name, (given, way_out) in others.items():
            if given:
                value = str(getattr(self, name))
                raise SettingError(name, value, "must be left out with --publish", way_out)
        return self
