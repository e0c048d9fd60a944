"""Show the whole way on an embedded sample release: serve, convert, verify, load, look."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pico_banana.errors import UsageError
from pico_banana.schema import CONFIGS

from ..text import in_shell, is_loadable, printable
from .contact_sheet import draw_contact_sheet
from .sample_release import make_sample_release

__all__ = ["run_demo", "serving"]

_SHOWN_ROWS = 6
_MARK = ".pico-banana-demo"


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing: the demo's own lines are what is read."""


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP on loopback, on a free port; give its URL."""
    handler = functools.partial(_QuietHandler, directory=os.fspath(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def run_demo(run: typer.Typer, folder: str, console: Console) -> None:
    """Convert the sample release into `folder`, and show what came of it.

    Args:
        run: the command line, which the demo uses as a user would.
        folder: where the sample release, the output and the contact sheet go.
        console: where to show it.
    """
    root = Path(folder).resolve()
    if root.is_dir() and any(root.iterdir()) and not (root / _MARK).exists():
        raise UsageError(f"--output must be a new folder or an earlier demo's, but is {root}")
    if not is_loadable(os.fspath(root)):
        raise UsageError(
            "--output must be a folder that load_dataset finds, so without [ ] * ? $ and :: in its "
            f"path, but is {root}"
        )
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / _MARK).touch()
    except OSError as error:
        raise UsageError(f"--output must be a folder that can be written, but: {error}") from None
    # Own caches: a sample release must never be served for the real one later.
    os.environ["HF_HOME"] = os.fspath(root / "cache" / "huggingface")
    for name in ("HF_DATASETS_CACHE", "HF_HUB_CACHE", "HF_MODULES_CACHE"):
        os.environ.pop(name, None)  # each would win over HF_HOME
    os.environ["PICO_BANANA_CACHE"] = os.fspath(root / "cache" / "pico_banana_400k")

    console.print(
        f"making a sample release in {escape(printable(str(root / 'release')))}", highlight=False
    )
    release = make_sample_release(root / "release")
    output = os.fspath(root / "parquet")
    with serving(release.cdn) as url:
        arguments = [
            "convert",
            "all",
            "--cdn",
            url,
            "--open-images",
            os.fspath(release.open_images),
        ]
        arguments += ["--open-images-metadata", os.fspath(release.metadata_csv), "--output", output]
        _command(run, arguments, console)
    _command(run, ["verify", output, "--check", "decode"], console)
    _show(output, root / "contact-sheet.png", console)


def _command(run: typer.Typer, arguments: Sequence[str], console: Console) -> None:
    shown = " ".join(word if word.startswith("--") else in_shell(word) for word in arguments)
    console.print(
        f"\n$ pico-banana {escape(shown)}",
        style="bold",
        soft_wrap=True,
    )
    try:
        run(list(arguments))
    except SystemExit as ended:
        if ended.code:
            raise


def _show(output: str, sheet: Path, console: Console) -> None:
    """Load the output with plain `load_dataset`; show the first rows and draw the pictures."""
    # Imported late, since these read HF_HOME when they are imported.
    import datasets  # noqa: PLC0415

    datasets.disable_progress_bars()
    for config in CONFIGS:
        console.print(
            f'\n>>> load_dataset("{escape(output)}", "{config}", split="train")',
            style="bold",
            soft_wrap=True,
        )
        loaded = datasets.load_dataset(output, config, split="train")
        _table(config, loaded, console)
        if config == "sft":
            draw_contact_sheet(loaded, sheet)
    console.print(
        f"\nThe pictures: {escape(printable(str(sheet)))}", highlight=False, soft_wrap=True
    )


def _table(config: str, loaded: Any, console: Console) -> None:
    table = Table("id", "input", "edited", "prompt", box=None, pad_edge=False)
    for row in loaded.select(range(min(_SHOWN_ROWS, len(loaded)))):
        edited = row.get("edited_images") or [row.get("edited_image") or row.get("chosen_image")]
        extra = f" (+{len(row['rejected_images'])} rejected)" if config == "preference" else ""
        table.add_row(
            escape(row["id"]),
            _size(row["input_image"]),
            ", ".join(_size(image) for image in edited) + extra,
            escape(
                row.get("short_edit_prompt")
                or row.get("edit_prompt")
                or " → ".join(row["edit_prompts"])
            ),
        )
    console.print(table)
    if len(loaded) > _SHOWN_ROWS:
        console.print(f"... {len(loaded):,} rows in all", highlight=False)


def _size(image: Any) -> str:
    return f"{image.width}x{image.height}"
