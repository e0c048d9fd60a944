"""The `pico-banana` commands: read flags, call what does the work, say how it ended."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from pydantic import BaseModel, ValidationError
from rich.console import Console
from rich.table import Table

from pico_banana import __version__
from pico_banana.errors import PicoBananaError, SettingError, UsageError, near
from pico_banana.schema import CONFIGS, EDIT_CATEGORIES, EDIT_TYPES
from pico_banana.settings import build_settings, read_settings_file, setting_error

from .open_files import raise_open_files
from .options import ConvertSettings, PublishOptions, RunOptions
from .streams import lost_output
from .text import printable

if TYPE_CHECKING:
    from .output.store import Store

AnyOptions = TypeVar("AnyOptions", bound=BaseModel)

app = typer.Typer(
    name="pico-banana",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Apple's Pico-Banana-400K as sharded Parquet that anybody can load.\n\nThe data are CC "
    "BY-NC-ND 4.0 (non-commercial, no derivatives), their photos CC BY 2.0.",
)
# Where nobody looks on, lines are for programs: no terminal's width breaks them.
out = Console(width=None if sys.stdout.isatty() else 200)
err = Console(stderr=True, width=None if sys.stderr.isatty() else 200)

EXIT_MISSING, EXIT_USAGE = 1, 2
_LISTS = ("input_sources", "edit_types", "edit_categories", "ids", "exclude_ids")
_FILE_ONLY = ("storage_options", "fetch")
"""Settings that only a file can hold: they are nested, and may be secret."""

_MAKING = ("convert", "demo", "finish", "index", "publish")
"""Commands whose work is there though what they say of it is lost."""

_FLAGS = {
    name: field
    for model in (RunOptions, PublishOptions, ConvertSettings)
    for name, field in model.model_fields.items()
    if name not in (*_FILE_ONLY, "repo")
}
_PLAN_FLAGS = tuple(name for name in _FLAGS if name in ConvertSettings.model_fields)
_INDEX_FLAGS = ("cdn", "open_images_metadata", "mirrors")
_PUBLISH_FLAGS = ("public", "accept_license", "replace")


def _flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each of these fields, from the fields' own descriptions.

    The command gets them as `arguments`, a mapping; in its help they stand where this stands.
    """
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if _FLAGS[name].annotation is bool else None,
            annotation=_flag(name),
        )
        for name in names
    ]

    def give(command: Callable[..., None]) -> Callable[..., None]:
        shown: list[inspect.Parameter] = []
        for own in inspect.signature(command, eval_str=True).parameters.values():
            shown += flags if own.name == "arguments" else [own]

        def called(**given: Any) -> None:
            arguments = {name: given.pop(name) for name in names}
            command(**given, arguments=arguments)

        called.__signature__ = inspect.Signature(shown)  # type: ignore[attr-defined]
        called.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
        called.__name__, called.__doc__ = command.__name__, command.__doc__
        return called

    return give


def _flag(name: str) -> Any:
    field = _FLAGS[name]
    text = field.description or ""
    flag = f"--{name.replace('_', '-')}"
    if field.annotation is bool:
        return Annotated[bool, typer.Option(flag, help=text)]
    if field.default not in (None, {}, ()):
        text = f"{text} [default: {field.default}]"
    kind: Any = str
    metavar = "TEXT"
    if name in _LISTS or name == "mirrors":
        kind, metavar = list[str], "GLOB=BASE" if name == "mirrors" else "WORD[,WORD...]"
    elif int in typing.get_args(field.annotation) or field.annotation is int:
        kind, metavar = int, "N"
    elif field.annotation is float:
        kind, metavar = float, "SHARE"
    if isinstance(field.json_schema_extra, dict):
        metavar = str(field.json_schema_extra["metavar"])
    return Annotated[kind | None, typer.Option(flag, help=text, metavar=metavar)]


Config = Annotated[
    list[str], typer.Argument(metavar="CONFIG...", help="sft, preference, multi_turn or all.")
]
SettingsFile = Annotated[
    str | None,
    typer.Option("--settings", metavar="FILE.yaml", help="Settings from a file; flags win."),
]


@app.command()
def types() -> None:
    """List the 35 edit types: slug, string, category, rows in sft."""
    table = Table(box=None, pad_edge=False)
    table.add_column("slug", no_wrap=True, overflow="fold")
    table.add_column("edit type")
    table.add_column("category")
    table.add_column("rows", justify="right")
    for kind in EDIT_TYPES:
        table.add_row(kind.slug, kind.name, kind.category, f"{kind.rows:,}")
    table.add_row("", "", "", f"{sum(kind.rows for kind in EDIT_TYPES):,}")
    out.print(table)


@app.command()
@_flags(*_INDEX_FLAGS)
def index(
    configs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="CONFIG...",
            help="sft, preference, multi_turn or all: tell which of their photos are listed.",
        ),
    ] = None,
    *,
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            metavar="FILE",
            help="Write the index there; with CONFIG only the photos that these need. It then "
            "serves as --open-images-metadata, on other machines too.",
        ),
    ] = None,
    settings_file: SettingsFile = None,
    arguments: dict[str, Any],
) -> None:
    """Make the index of Open Images' image list; tell how many photos of a config it knows."""
    from .planning.coverage import report_index, show_index  # noqa: PLC0415  (--help need not wait for Arrow)
    from .screen import Shown  # noqa: PLC0415

    # No source is asked here, so none may refuse the settings.
    settings = _settings({**arguments, "input_sources": ["flickr"]}, settings_file)
    report = report_index(_configs(configs or []), settings, Shown(err), output)
    show_index(report, out)


@app.command()
@_flags(*_PLAN_FLAGS)
def plan(
    configs: Config,
    *,
    settings_file: SettingsFile = None,
    bandwidth: Annotated[
        str | None,
        typer.Option(
            metavar="RATE", help="Reckon the hours by a line of 1Gbit, 200Mbit, 100MB a second."
        ),
    ] = None,
    nodes: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Reckon the hours of so many machines like this one."
        ),
    ] = None,
    arguments: dict[str, Any],
) -> None:
    """Show what would be converted: records, shards, edit types, bytes, odd and bad records."""
    from .conversion import plan_configs  # noqa: PLC0415  (--help need not wait for Arrow)
    from .planning.estimate import bits_per_s, estimate  # noqa: PLC0415
    from .planning.sizes import reckon_by_sample  # noqa: PLC0415
    from .reporting.tables import show_estimate, show_plan  # noqa: PLC0415
    from .screen import Shown  # noqa: PLC0415

    settings = _settings(arguments, settings_file)
    rate = None if bandwidth is None else bits_per_s(bandwidth)
    plans, index = plan_configs(_configs(configs), settings, Shown(err))
    reckon_by_sample(plans, settings, index, None)
    for planned in plans:
        show_plan(planned, settings, out)
    if bandwidth is not None or nodes is not None:
        show_estimate(estimate(plans, settings, rate, nodes or 1), out)


@app.command()
@_flags(*_FLAGS)
def convert(
    configs: Config,
    *,
    output: Annotated[
        str, typer.Option("--output", metavar="OUT", help="Folder or fsspec URL to write to.")
    ],
    settings_file: SettingsFile = None,
    arguments: dict[str, Any],
) -> None:
    """Fetch and write sharded Parquet; continues what is there."""
    settings = _settings(arguments, settings_file)
    options = _options(RunOptions, {**arguments, "publish": _publishing(arguments)})
    raise_open_files()
    if settings.images == "bytes" and options.runner == "local":
        from .running.processes import load  # noqa: PLC0415

        load()
    from .conversion import convert_configs  # noqa: PLC0415
    from .output.store import Store  # noqa: PLC0415
    from .reporting.tables import show_outcome, show_publication  # noqa: PLC0415
    from .screen import Shown  # noqa: PLC0415

    store = Store(output, settings.storage_options)
    outcome = convert_configs(_configs(configs), settings, options, store, Shown(err))
    show_outcome(outcome, store, out)
    if outcome.publication is not None:
        show_publication(outcome.publication, out)
    if not outcome.is_within:
        raise typer.Exit(EXIT_MISSING)


@app.command()
def finish(
    output: Annotated[str, typer.Argument(metavar="OUT", help="An output that slices wrote.")],
    *,
    settings_file: SettingsFile = None,
) -> None:
    """Look whether slices have made all of an output, and write its card."""
    from .finish import finish as put_together  # noqa: PLC0415
    from .reporting.tables import show_outcome  # noqa: PLC0415
    from .screen import Shown  # noqa: PLC0415

    store = _store(output, settings_file)
    show_outcome(put_together(store, Shown(err)), store, out)


@app.command()
def verify(
    output: Annotated[str, typer.Argument(metavar="OUT", help="An output of convert.")],
    *,
    check: Annotated[
        str,
        typer.Option(
            metavar="LEVEL", help="header: files, rows and accounts; decode: every picture too."
        ),
    ] = "header",
    settings_file: SettingsFile = None,
) -> None:
    """Check every file against its ledger, and that every record is accounted for."""
    from .output.verify import verify as find_faults  # noqa: PLC0415
    from .reporting.tables import counted, show_accounts, show_runs  # noqa: PLC0415

    if check not in ("header", "decode"):
        raise SettingError("check", check, "must be header or decode")
    store = _store(output, settings_file)
    accounts, faults = find_faults(store, decode=check == "decode")
    found = 0
    for fault in faults:
        out.print(printable(fault), markup=False, highlight=False, soft_wrap=True)
        found += 1
    show_accounts(accounts, out)
    show_runs(store, out)
    if found:
        err.print(f"{counted(found, 'fault')} found", highlight=False)
        raise typer.Exit(EXIT_MISSING)
    out.print("no fault found: every file is whole, every record accounted for", highlight=False)


@app.command()
@_flags(*_PUBLISH_FLAGS)
def publish(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="OUT REPO",
            help="A finished output of convert, and a dataset repository of the Hub, OWNER/NAME; "
            "with --card-only REPO alone.",
        ),
    ],
    *,
    arguments: dict[str, Any],
    card_only: Annotated[
        bool,
        typer.Option(
            "--card-only",
            help="Write the card alone, with licences and attribution, of a repository that "
            "push_to_hub made.",
        ),
    ] = False,
    settings_file: SettingsFile = None,
) -> None:
    """Publish an output to the Hub, private by default; continues what is there."""
    from .publishing.publish import publish as publish_output  # noqa: PLC0415
    from .publishing.publish import publish_card  # noqa: PLC0415
    from .reporting.tables import show_publication  # noqa: PLC0415
    from .screen import Shown  # noqa: PLC0415

    if len(places) != (1 if card_only else 2):
        must = "must be REPO alone with --card-only" if card_only else "must be two, OUT and REPO"
        raise SettingError("OUT REPO", " ".join(places), must)
    options = _options(PublishOptions, {**arguments, "repo": places[-1], "keep_local": True})
    if card_only:
        repository = publish_card(options, Shown(err))
        out.print(f"the card of {repository.id} is written", markup=False, highlight=False)
        return
    done = publish_output(options, _store(places[0], settings_file), Shown(err))
    show_publication(done, out)


@app.command()
def demo(
    *,
    output: Annotated[
        str, typer.Option("--output", metavar="DIR", help="Folder for the demo's files.")
    ] = "pico-banana-demo",
) -> None:
    """Convert an embedded sample release, served on loopback, and show the result."""
    from .demo.demo import run_demo  # noqa: PLC0415

    run_demo(app, output, out)


def _version(value: bool) -> None:
    if value:
        out.print(__version__, highlight=False)
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hold what all commands share."""
    del version


common.__doc__ = app.info.help


def _options(model: type[AnyOptions], arguments: Mapping[str, Any]) -> AnyOptions:
    """Those of the arguments that are the model's, validated; None counts as unset."""
    given = {name: arguments.get(name) for name in model.model_fields}
    try:
        return model.model_validate({k: value for k, value in given.items() if value is not None})
    except ValidationError as error:
        raise setting_error(error) from None


def _publishing(arguments: Mapping[str, Any]) -> PublishOptions | None:
    """How `convert` publishes; the flags of it need a repository."""
    if arguments["publish"] is not None:
        return _options(PublishOptions, {**arguments, "repo": arguments["publish"]})
    for name in PublishOptions.model_fields:
        if arguments.get(name):
            raise SettingError(name, arguments[name], "must come with --publish REPO")
    return None


def _store(output: str, settings_file: str | None) -> Store:
    """An output, with the `storage_options` of a settings file."""
    from .output.store import Store  # noqa: PLC0415

    options = read_settings_file(settings_file).get("storage_options") if settings_file else None
    return Store(output, options)


def _configs(words: list[str]) -> list[str]:
    """The configs that were named, each once, in the order of the release."""
    for word in words:
        if word not in (*CONFIGS, "all"):
            known = (*CONFIGS, "all")
            raise SettingError(
                "CONFIG", word, f"must be one of {', '.join(known)}", near(word, known)
            )
    return [config for config in CONFIGS if config in words or "all" in words]


def _settings(arguments: dict[str, Any], file: str | None) -> ConvertSettings:
    given = {
        name: value
        for name, value in arguments.items()
        # A flag that was not given does not undo what a file says.
        if name in ConvertSettings.model_fields and value not in (None, []) and value is not False
    }
    members = {
        "edit_types": {kind.name for kind in EDIT_TYPES},
        "edit_categories": set(EDIT_CATEGORIES),
    }
    for name in set(_LISTS) & set(given):
        given[name] = _words(given[name], members.get(name, set()))
    if "mirrors" in given:
        given["mirrors"] = dict(_mirror(text) for text in given["mirrors"])
    return build_settings(ConvertSettings, given, read_settings_file(file) if file else None)


def _words(values: list[str], members: set[str]) -> list[str]:
    """Split comma lists; a value that is a member as a whole is one word, commas and all."""
    words: list[str] = []
    for value in values:
        whole = value in members or value.startswith("@")
        words += [value] if whole else [word.strip() for word in value.split(",") if word.strip()]
    return words


def _mirror(text: str) -> tuple[str, str]:
    glob, equals, base = text.partition("=")
    if not (glob and equals and base):
        # The value is not shown: it may hold a password.
        raise SettingError("mirrors", "…", "must be GLOB=BASE, like '*.staticflickr.com=http://…'")
    return glob, base


def main() -> None:
    """Run the command line; the exit codes are 0, 1 and 2. Signals are `__main__`'s business."""
    code = _ended()
    if (why := lost_output()) is not None:
        told = f"standard output could not be written: {why}; run the command again to see it all"
        if not code and "".join(sys.argv[1:2]) not in _MAKING:
            told, code = f"error: {told}", EXIT_MISSING
        err.print(printable(told), markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


def _ended() -> int:
    """Run a command; return its exit code."""
    try:
        app()
    except SystemExit as ended:
        return int(ended.code or 0)
    except PicoBananaError as error:
        err.print(f"error: {printable(str(error))}", markup=False, highlight=False, soft_wrap=True)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_MISSING
    return 0
