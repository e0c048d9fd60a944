"""Hold what the user asked for, validated and frozen: defaults, then a file, then arguments."""

from __future__ import annotations

import fnmatch
import functools
import re
from collections.abc import Mapping
from importlib import resources
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pico_banana.errors import SettingError, UsageError, bare_url, holds_password, near
from pico_banana.input_sources import SOURCES
from pico_banana.schema import CONFIGS
from pico_banana.setting_types import (
    Base,
    EditCategories,
    EditTypes,
    ExcludedIds,
    Ids,
    MetadataPlace,
    Mirrors,
    PathOrUrl,
    SourceNames,
)
from pico_banana.urls import METADATA_CSV, PUBLISHED_BASE, where_asked

__all__ = [
    "ConfigSpec",
    "FetchPolicy",
    "HostBudget",
    "Settings",
    "build_settings",
    "config_spec",
    "read_settings_file",
    "setting_error",
]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ConfigSpec(_Frozen):
    """What `configs/<config>.yaml` says of a config: its files, counts and defaults."""

    jsonl: str
    manifest: str
    records: int
    records_per_shard: int
    images_per_record: float
    edited_bytes: int
    input_bytes: int


_AMOUNTS = ("connections", "requests_per_second")
"""Of a budget, what runs share, and what a wider glob may make less; None is no limit."""


class HostBudget(_Frozen):
    """What one host is asked at most: connections at once, requests a second (None: no limit).

    What a budget leaves unsaid is said by that of the next wider glob, see
    `FetchPolicy.budget_of`.
    """

    connections: int = Field(64, ge=1)
    requests_per_second: float | None = Field(None, gt=0)

    @property
    def said(self) -> dict[str, Any]:
        """The fields that were given, by name."""
        return {name: getattr(self, name) for name in sorted(self.model_fields_set)}

    def or_else(self, wider: HostBudget) -> HostBudget:
        """Return this budget, with what it leaves unsaid as a wider glob's says it."""
        return self.model_copy(update={**wider.said, **self.said})

    def tightened(self, wider: HostBudget) -> HostBudget:
        """Return this budget, its amounts no more than a wider glob's."""
        said = wider.said
        limits = {name: said[name] for name in _AMOUNTS if said.get(name) is not None}
        stricter = {
            name: limits[name] if value is None else min(value, limits[name])
            for name, value in self.said.items()
            if name in limits
        }
        return self.model_copy(update=stricter)

    def shared(self, runs: int) -> HostBudget:
        """Return what each of so many runs may ask, of what is said; a connection at least."""
        shares = {
            name: max(1, value // runs) if isinstance(value, int) else value / runs
            for name, value in self.said.items()
            if name in _AMOUNTS and value is not None
        }
        return self.model_copy(update=shares)


class FetchPolicy(_Frozen):
    """How images are fetched; the keys and the reasons for their values are in fetch.yaml."""

    hosts: dict[str, HostBudget]
    retries: int = Field(ge=0)
    backoff_s: float = Field(ge=0)
    backoff_max_s: float = Field(ge=0)
    retry_after_max_s: float = Field(ge=0)
    recovery_s: float = Field(gt=0)
    breaker_failures: int = Field(ge=1)
    breaker_pause_s: float = Field(ge=0)
    breaker_pauses: int = Field(ge=0)
    connect_timeout_s: float = Field(gt=0)
    read_timeout_s: float = Field(gt=0)
    total_timeout_s: float = Field(gt=0)
    max_image_bytes: int = Field(gt=0)
    max_pixels: int = Field(gt=0)
    held_bytes: int = Field(gt=0)
    max_redirects: int = Field(ge=0)
    placeholder_sha256s: tuple[str, ...] = ()

    def budget_of(self, name: str) -> HostBudget:
        """Return the budget of a host's name: each field as the narrowest glob says it."""
        globs = [glob for glob in self.hosts if fnmatch.fnmatchcase(name, glob)]
        budgets = [self.hosts[glob] for glob in sorted(globs, key=_width)]
        return functools.reduce(lambda one, wider: one.or_else(wider), [*budgets, HostBudget()])

    def shared(self, runs: int) -> FetchPolicy:
        """Return the policy of one of so many runs that share every host's budget."""
        everybody = HostBudget(connections=HostBudget().connections)  # said, so that it is shared
        usual = self.hosts.get("*", HostBudget()).or_else(everybody)
        hosts = {glob: budget.shared(runs) for glob, budget in {**self.hosts, "*": usual}.items()}
        return self.model_copy(update={"hosts": hosts})


def _width(glob: str) -> tuple[bool, int]:
    """What orders globs that match one name, the narrowest first: none, then few stand-ins."""
    bare = re.sub(r"\[[^]]*\]", "?", glob)
    return "*" in bare or "?" in bare, -len(bare.replace("*", ""))


def _merged_hosts(
    ours: Mapping[str, HostBudget], users: Mapping[str, HostBudget]
) -> dict[str, HostBudget]:
    """Budgets by glob: the user's, and ours, which a wider one of the user's never loosens."""
    hosts = users = {glob.lower(): budget for glob, budget in users.items()}
    for glob, budget in ours.items():
        wider = [
            users[other] for other in users if other != glob and fnmatch.fnmatchcase(glob, other)
        ]
        tightened = functools.reduce(HostBudget.tightened, wider, budget)
        mine = users[glob].or_else(tightened) if glob in users else tightened
        hosts = {**hosts, glob: mine}
    return hosts


def _read_config(name: str) -> Any:
    text = (resources.files("pico_banana") / "configs" / name).read_text(encoding="utf-8")
    return yaml.safe_load(text)


@functools.cache
def config_spec(config: str) -> ConfigSpec:
    """Return what `configs/<config>.yaml` says; `SettingError` for an unknown config."""
    if config not in CONFIGS:
        raise SettingError(
            "config", config, f"must be one of {', '.join(CONFIGS)}", near(config, CONFIGS)
        )
    return ConfigSpec.model_validate(_read_config(f"{config}.yaml"))


class Settings(_Frozen):
    """All that decides which examples there are and how their images are had.

    Every field is a keyword argument of the loader and a flag of the converter.
    """

    cdn: Base = Field(
        PUBLISHED_BASE.rstrip("/"),
        description="The release's base: http(s) URL, fsspec URL, or a folder holding jsonl/, "
        "manifest/ and images/.",
    )
    open_images: PathOrUrl | None = Field(
        None,
        description="Folder with Open Images photos: train_0/<ImageID>.jpg, ..., or the tars as "
        "they are, train_0.tar.gz, ...",
    )
    open_images_metadata: MetadataPlace = Field(
        METADATA_CSV,
        description="Open Images' image list (CSV: URL or path), or `none`: no ImageIDs and no "
        "attribution, only with `flickr` named as a source.",
    )
    input_sources: SourceNames | None = Field(
        None,
        description=f"Where to try for an input image, in order: {', '.join(SOURCES)}. "
        "[default: folder and tar where --open-images is given, then bucket]",
    )
    edit_types: EditTypes | None = Field(
        None, description="Keep these edit types only: exact strings or slugs."
    )
    edit_categories: EditCategories | None = Field(
        None, description="Keep these edit categories only: exact strings or slugs."
    )
    ids: Ids | None = Field(
        None, description="Keep only these ids or ImageIDs; @FILE has one a line."
    )
    exclude_ids: ExcludedIds = Field(
        None, description="Leave out these ids or ImageIDs, after the cut; @FILE has one a line."
    )
    offset: int = Field(0, ge=0, description="Leave out the first so many good records.")
    limit: int | None = Field(None, ge=1, description="Take at most so many, per config.")
    validation: float = Field(
        0.0, ge=0, lt=1, description="Share of photos that goes to a validation split."
    )
    on_missing: Literal["skip", "null", "fail"] = Field(
        "skip",
        description="What becomes of an example whose image is missing: skip leaves it out, null "
        "keeps it, fail stops.",
    )
    images: Literal["bytes", "url", "none"] = Field(
        "bytes",
        description="Image columns with bytes, with addresses only (url), or none at all; but for "
        "bytes no image is fetched.",
    )
    mirrors: Mirrors = Field(
        {}, description="GLOB=BASE: another base URL for hosts; it may hold {host}."
    )
    concurrency: int = Field(64, ge=1, description="Fetches under way at once in one process.")
    storage_options: dict[str, Any] = Field(
        {}, repr=False, description="fsspec storage options; in a settings file only."
    )
    fetch: FetchPolicy = Field(repr=False)

    @property
    def sources(self) -> tuple[str, ...]:
        """The sources of input images in the order in which they are tried."""
        if self.input_sources is not None:
            return self.input_sources
        return tuple(
            name
            for name, source in SOURCES.items()
            if source.is_usual and (self.open_images or not source.needs_folder)
        )

    def for_config(self, config: str) -> ConfigSpec:
        """Return the config's spec, or raise a `SettingError` for what does not go with it."""
        spec = config_spec(config)
        for name in ("edit_types", "edit_categories"):
            if config == "multi_turn" and getattr(self, name) is not None:
                raise SettingError(
                    name, list(getattr(self, name)), "must be left out with multi_turn: it has none"
                )
        return spec


AnySettings = TypeVar("AnySettings", bound=Settings)


# What PyYAML raises besides its own errors, of a date like 2001-99-99 or deep nesting, say.
_ODD_YAML = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


def read_settings_file(path: str) -> dict[str, Any]:
    """Return the arguments in a YAML settings file; `UsageError` where it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the settings file {path} cannot be read: {error}") from None
    except (yaml.YAMLError, *_ODD_YAML) as error:  # not shown: a part of it may be a password
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "its text"
        raise UsageError(
            f"the settings file {path} must be YAML, but {where} is not; values with odd "
            "characters need quotes"
        ) from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UsageError(f"the settings file {path} must hold `name: value` lines")
    values = {str(name).replace("-", "_"): value for name, value in values.items()}
    # YAML reads a bare null as nothing; here it is a word, and must not fall back to "skip".
    if "on_missing" in values and values["on_missing"] is None:
        values["on_missing"] = "null"
    return values


def build_settings(
    model: type[AnySettings],
    arguments: Mapping[str, Any],
    file: Mapping[str, Any] | None = None,
) -> AnySettings:
    """Return validated settings: defaults, then what a file says, then arguments.

    An argument that is None counts as unset. Raises `SettingError` that names the argument, what
    is allowed, and the nearest allowed word.
    """
    values = {name: value for name, value in (file or {}).items() if value is not None}
    values |= {name: value for name, value in arguments.items() if value is not None}
    for name in values:
        if name not in model.model_fields:
            known = [*model.model_fields]
            # The value is not shown: it may be a secret under a misspelt name.
            raise SettingError(name, "…", "must be a setting", near(name, known))
    policy = dict(_read_config("fetch.yaml"))
    user_policy = values.get("fetch", {})
    if not isinstance(user_policy, Mapping):
        raise SettingError("fetch", user_policy, "must be a mapping like configs/fetch.yaml")
    user_hosts = user_policy.get("hosts") or {}
    if not isinstance(user_hosts, Mapping):
        raise SettingError("fetch.hosts", user_hosts, "must be a mapping like configs/fetch.yaml")
    ours = {glob: HostBudget.model_validate(given) for glob, given in policy["hosts"].items()}
    try:
        settings = model.model_validate(
            {**values, "fetch": {**policy, **user_policy, "hosts": user_hosts}}
        )
    except ValidationError as error:
        raise setting_error(error) from None
    hosts = _merged_hosts(ours, settings.fetch.hosts)
    fetch = settings.fetch.model_copy(update={"hosts": hosts})
    return _checked(settings.model_copy(update={"fetch": fetch}))


def setting_error(error: ValidationError) -> SettingError:
    """Return what is said of the first value that a model refused."""
    first = error.errors()[0]
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, SettingError):  # by a validator
        return raised
    # An entry of a list goes by the list's name.
    parts = [part for part in first["loc"] if isinstance(part, str)]
    name = ".".join(part for part in parts if not part.startswith("function"))
    if first["type"] == "literal_error":
        allowed = [
            word.strip(" '") for word in first["ctx"]["expected"].replace(" or ", ",").split(",")
        ]
        given = first["input"]
        return SettingError(
            name, given, f"must be one of {', '.join(allowed)}", near(str(given), allowed)
        )
    if first["type"] == "extra_forbidden":
        return SettingError(name, "…", "must be a setting")
    if name == "storage_options":  # whatever was given may be a secret
        return SettingError(name, "…", "must be a mapping")
    message = first["msg"]
    message = message[0].lower() + message[1:]
    made = SettingError(name, _shown(name, first["input"]), message.replace("input should", "must"))
    if first["type"] in ("word", "file"):
        made.args = (f"{name} {message}",)
    return made


def _shown(name: str, given: Any) -> Any:
    """What a message may show of a value: a place may hold a password or a signature."""
    if name.partition(".")[0] not in ("cdn", "mirrors", "open_images", "open_images_metadata"):
        return given
    if isinstance(given, str) and not holds_password(given):
        return bare_url(given)
    return given if isinstance(given, (int, float)) else "…"


def _checked(settings: AnySettings) -> AnySettings:
    """Refuse combinations that cannot work; single values are the fields' own business."""
    sources = settings.sources
    if len(set(sources)) != len(sources) or not sources:
        raise SettingError("input_sources", list(sources), "must name each source once")
    for name in sources:
        if SOURCES[name].needs_folder and not settings.open_images:
            raise SettingError(
                "input_sources", list(sources), f"names `{name}`, which needs `open_images`"
            )
    if settings.open_images_metadata == "none" and any(
        SOURCES[name].needs_image_id for name in sources
    ):
        others = [name for name, source in SOURCES.items() if not source.needs_image_id]
        raise SettingError(
            "open_images_metadata",
            "none",
            f"leaves {', '.join(others)} as the only source: without ImageIDs no other can be "
            f"asked; say input_sources={','.join(others)} with it",
        )
    if settings.images == "url":
        _check_links(settings)
    return settings


def _check_links(settings: Settings) -> None:
    """Refuse a link edition whose links would be nothing that its readers can ask for."""
    asked = [("cdn", settings.cdn)]
    for source in [SOURCES[SOURCES[name].link] for name in settings.sources]:
        asked += [(source.title, base) for base in source.bases]
    for what, url in asked:
        address = where_asked(url, settings.mirrors).address
        # Readers of links take "::" for one file system behind another.
        if address.startswith(("http://", "https://")) and "::" not in address:
            continue
        name = "cdn" if address == url else "mirrors"
        way_out = (
            "; give the http(s) URL of the release, or leave images=url out: bytes can be read "
            "from any place"
            if name == "cdn"
            else f" for {what}; leave that mirror or images=url out"
        )
        raise SettingError(
            name,
            bare_url(address),
            'must be an http(s) URL without "::" where images is url',
            way_out,
        )
