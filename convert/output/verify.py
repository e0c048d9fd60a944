"""Check an output against its ledgers: every file whole, every record accounted for."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pico_banana.errors import OutputError
from pico_banana.fetching.inspect import FlawError, inspect
from pico_banana.reading.examples import images_of
from pico_banana.schema import CONFIGS, arrow_schema

from .card import CARD_NAME
from .ledger import Ledger, ShardLedger, line_numbers
from .store import Store, sha256_of

__all__ = ["Accounts", "file_faults", "verify"]


class Accounts:
    """How many lines of a config ended in which way; they add up, or `verify` says so."""

    def __init__(self, config: str, plan: dict[str, Any]) -> None:
        self.config = config
        self.lines: int = plan["lines"]
        self.bad = len(plan["bad"])
        self.filtered = sum(1 for _ in line_numbers(plan["filtered"]))
        self.left_out = sum(1 for _ in line_numbers(plan["left_out"]))
        self.missing = 0
        self.written = 0


def verify(store: Store, *, decode: bool) -> tuple[list[Accounts], Iterator[str]]:
    """Return the accounts of each config, and an iterator of faults, each in words.

    The accounts are complete once the faults have been read to their end. Reads every Parquet
    file once, and with `decode` every picture in it. Of a file on the Hub it reads the end alone:
    the Hub tells the sha256.
    """
    accounts: list[Accounts] = []
    if store.is_hub:
        store.names("")  # one error for all, where it cannot be read
    return accounts, _faults(store, accounts, decode)


def _faults(store: Store, accounts: list[Accounts], decode: bool) -> Iterator[str]:
    for config in CONFIGS:
        ledger = Ledger(store, config)
        try:
            plan = ledger.read_plan()
        except OutputError as error:
            yield f"{config}: {error}"
            continue
        if plan is None:
            if store.names(config):
                yield f"{config}: there are files, but no plan ({ledger.folder}/plan.json)"
            continue
        account = Accounts(config, plan)
        accounts.append(account)
        yield from _config_faults(store, ledger, plan, account, decode)
    if not accounts:
        yield f"{store.root}: no plan in _ledger/, so this is no output of `pico-banana convert`"
    elif store.size_bytes(CARD_NAME) is None:
        yield (
            f"{CARD_NAME}: the card is missing; run convert again to have it written, or after "
            "slices `pico-banana finish`"
        )


def _config_faults(
    store: Store, ledger: Ledger, plan: dict[str, Any], account: Accounts, decode: bool
) -> Iterator[str]:
    yield from _line_faults(ledger.config, plan, account)
    expected = {f"{shard['name']}.parquet" for shard in plan["shards"]}
    for name in store.names(ledger.config):
        if name not in expected and name.endswith(".parquet"):
            yield f"{ledger.config}/{name}: not in the plan; delete it unless you put it there"
    for shard in plan["shards"]:
        try:
            made = ledger.read_shard(shard["name"])
        except OutputError as error:
            yield f"{ledger.config}/{shard['name']}: {error}"
            continue
        if made is None:
            yield f"{ledger.config}/{shard['name']}: not finished (no ledger); run convert again"
            continue
        account.written += sum(1 for _ in line_numbers(made.written))
        account.missing += sum(1 for _ in line_numbers(made.missing_lines))
        yield from _shard_faults(store, ledger, shard, made, plan["settings"]["images"])
        if decode and store.size_bytes(ledger.parquet_name(shard["name"])) is not None:
            yield from _image_faults(store, ledger, shard["name"], plan)


def _line_faults(config: str, plan: dict[str, Any], account: Accounts) -> Iterator[str]:
    """Every line number must have exactly one fate in the plan."""
    fates: dict[int, str] = {}
    groups = [
        ("blank", plan["blank"]),
        ("bad", [[bad["line"], bad["line"]] for bad in plan["bad"]]),
        ("filtered", plan["filtered"]),
        ("left out", plan["left_out"]),
        *[(shard["name"], shard["lines"]) for shard in plan["shards"]],
    ]
    for fate, lines in groups:
        for number in line_numbers(lines):
            if number in fates:
                yield f"{config}: line {number} is accounted for twice: {fates[number]} and {fate}"
            fates[number] = fate
    blank = sum(1 for _ in line_numbers(plan["blank"]))
    nowhere = [n for n in range(1, account.lines + blank + 1) if n not in fates]
    if nowhere:
        yield f"{config}: line {_few(nowhere)} of the JSONL file is nowhere in plan.json"
    beyond = [n for n in fates if n > account.lines + blank]
    if beyond:
        yield f"{config}: line {_few(beyond)} in plan.json is not in the JSONL file"


def _shard_faults(
    store: Store, ledger: Ledger, shard: dict[str, Any], made: ShardLedger, images: str
) -> Iterator[str]:
    name = ledger.parquet_name(shard["name"])
    if made.digest != shard["digest"]:
        yield (
            f"{name}: its ledger is of other settings or records than the plan "
            f"(digest {made.digest[:12]}, planned {shard['digest'][:12]}); run convert again"
        )
    ledger_lines = [*line_numbers(made.written), *line_numbers(made.missing_lines)]
    planned_lines = [*line_numbers(shard["lines"])]
    if lost := sorted(set(planned_lines) - set(ledger_lines)):
        yield f"{name}: line {_few(lost)} is planned here, but nowhere in its ledger"
    if strange := sorted(set(ledger_lines) - set(planned_lines)):
        yield f"{name}: line {_few(strange)} is in its ledger, but not planned here"
    if len(ledger_lines) != len(set(ledger_lines)):
        yield f"{name}: its ledger has a line both as written and as missing"
    unexplained = set(line_numbers(made.missing_lines)) - {entry.line for entry in made.missing}
    if unexplained:
        yield f"{name}: line {_few(sorted(unexplained))} is missing without a reason"
    if made.rows != sum(1 for _ in line_numbers(made.written)):
        yield f"{name}: its ledger counts {made.rows} rows, but lists other lines as written"
    for what in ("ways", "matches"):
        if (told := sum(count for _, count in getattr(made, what))) != made.rows:
            yield f"{name}: its ledger counts {made.rows} rows, but tells the {what} of {told}"
    if store.size_bytes(name) is None:
        yield f"{name}: the file is missing; run convert again to have it made"
        return
    yield from file_faults(store, name, made, arrow_schema(ledger.config, images=images))


def file_faults(store: Store, name: str, made: ShardLedger, expected: pa.Schema) -> Iterator[str]:
    """Yield in words what a Parquet file is not of what its ledger and our columns say."""
    try:
        size, sha256 = _measured(store, name)
    except (OutputError, OSError) as error:
        yield f"{name}: {error}"
        return
    if size != made.size_bytes:
        yield f"{name}: has {size} bytes, but its ledger says {made.size_bytes}"
    if sha256 != made.sha256:
        yield f"{name}: its bytes are not those that were written (sha256 differs from the ledger)"
    try:
        with store.open(name) as file:
            parquet = pq.ParquetFile(file)
            rows, schema = parquet.metadata.num_rows, parquet.schema_arrow
    except (pa.ArrowException, OSError) as error:
        yield f"{name}: is no readable Parquet file: {error}"
        return
    if rows != made.rows:
        yield f"{name}: has {rows} rows, but its ledger says {made.rows}"
    if not schema.equals(expected):
        yield f"{name}: its columns are not those of {name.partition('/')[0]}"


def _measured(store: Store, name: str) -> tuple[int, str]:
    """A file's size and sha256: read, or as the Hub keeps them of the very bytes it holds."""
    known = store.known_sha256(name)
    if known is not None:
        return store.size_bytes(name) or 0, known
    with store.open(name) as file:
        sha256 = sha256_of(file)
        return file.tell(), sha256


def _image_faults(store: Store, ledger: Ledger, shard: str, plan: dict[str, Any]) -> Iterator[str]:
    """Decode every picture, and hold it against its sha256, width and height columns.

    Where pictures are addresses, none is fetched: they must be addresses, and nothing else.
    """
    name = ledger.parquet_name(shard)
    images = plan["settings"]["images"]
    most = plan["settings"].get("max_pixels", 0)
    try:
        with store.open(name) as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                for row in parquet.read_row_group(group).to_pylist():
                    for _, image, stated in images_of(row, ledger.config, images=images):
                        is_link = images == "url"
                        fault = _link_fault(image) if is_link else _image_fault(image, stated, most)
                        if fault:
                            yield f"{name}: {row['id']}: {fault}"
    except (pa.ArrowException, OutputError, OSError, KeyError) as error:
        yield f"{name}: cannot be read: {error}"


def _link_fault(image: dict[str, Any] | None) -> str | None:
    """A path that is no URL would name a file of whoever reads it."""
    if image is None:
        return None
    if image["bytes"] is None and str(image["path"]).startswith(("http://", "https://")):
        return None
    return f"an image must be an http(s) address alone, but its path is {image['path']!r}"


def _image_fault(
    image: dict[str, Any] | None, stated: dict[str, Any], max_pixels: int
) -> str | None:
    told = {name: value for name, value in stated.items() if name != "url"}
    if image is None:
        known = [name for name, value in told.items() if value is not None]
        return f"an image is null, but not its {known[0]}" if known else None
    if hashlib.sha256(image["bytes"]).hexdigest() != told.pop("sha256"):
        return f"{image['path']} is not what its sha256 column says"
    try:
        measures = inspect(image["bytes"], decode=True, max_pixels=max_pixels).measures()
    except FlawError as flaw:
        return f"{image['path']} does not decode: {flaw.detail}"
    wrong = [
        f"its {name} is {measures[name]}, not {value}"
        for name, value in told.items()
        if measures[name] != value
    ]
    return f"{image['path']}: {'; '.join(wrong)}" if wrong else None


def _few(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:5]))
    return shown if len(numbers) <= 5 else f"{shown} and {len(numbers) - 5} more"  # noqa: PLR2004
