"""Draw sft examples on one sheet: input, arrow and edited image, edit type and prompt below."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps

__all__ = ["draw_contact_sheet"]

_BOX = (216, 176)  # the most that one image takes, in px
_ARROW_WIDTH = 36
_PADDING = 16
_GAP = 16
_TITLE_SIZE = 15
_PROMPT_SIZE = 14
_LEADING = 1.35
_CELL_WIDTH = 2 * _BOX[0] + _ARROW_WIDTH + 2 * _PADDING
_TEXT_WIDTH = _CELL_WIDTH - 2 * _PADDING

_PAPER = (238, 240, 243)
_CARD = (255, 255, 255)
_BORDER = (214, 218, 224)
_TITLE = (28, 64, 110)
_PROMPT = (60, 64, 70)
_ARROW = (130, 138, 148)

# Pillow's built-in font has ASCII and a few marks only: it would draw boxes for these.
_SPELLED = str.maketrans({"↔": "<->", "→": "->", "–": "-", "—": "-", "×": "x", "ß": "ss"})  # noqa: RUF001  # the point


@dataclass(frozen=True)
class _Cell:
    """One example, its images made to fit and its text wrapped."""

    pictures: tuple[Image.Image, Image.Image]
    title: list[str]
    prompt: list[str]

    @property
    def picture_height(self) -> int:
        return max(picture.height for picture in self.pictures)

    @property
    def text_height(self) -> int:
        return _height(self.title, _TITLE_SIZE) + _height(self.prompt, _PROMPT_SIZE)


def draw_contact_sheet(rows: Iterable[Mapping[str, Any]], path: Path, *, columns: int = 3) -> None:
    """Write a PNG that shows sft examples side by side, in the order given.

    Args:
        rows: examples with decoded PIL images in `input_image` and `edited_image`; the text is
            `short_edit_prompt` or, where that is null or absent, `edit_prompt`. A missing image is
            drawn as an empty box. All of them are kept in memory, made small.
        path: the PNG to write; its folder is made where it is absent.
        columns: number of examples beside each other, at least 1.

    Raises:
        ValueError: `columns` is below 1, or there is no row.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, but got {columns}")
    cells = [_cell(row) for row in rows]
    if not cells:
        raise ValueError("rows must hold at least one example, but got none")
    columns = min(columns, len(cells))
    lines = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    heights = [_line_height(line) for line in lines]
    width = columns * (_CELL_WIDTH + _GAP) + _GAP
    sheet = Image.new("RGB", (width, sum(heights) + (len(lines) + 1) * _GAP), _PAPER)
    tops = itertools.accumulate(heights, lambda top, height: top + height + _GAP, initial=_GAP)
    for line, height, top in zip(lines, heights, tops, strict=False):
        for column, cell in enumerate(line):
            left = _GAP + column * (_CELL_WIDTH + _GAP)
            _draw_cell(sheet, cell, (left, top, height), _picture_height(line))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def _cell(row: Mapping[str, Any]) -> _Cell:
    prompt = row.get("short_edit_prompt") or row.get("edit_prompt") or ""
    return _Cell(
        (_fitted(row.get("input_image")), _fitted(row.get("edited_image"))),
        _wrapped(row.get("edit_type") or "(no edit type)", _TITLE_SIZE),
        _wrapped(prompt, _PROMPT_SIZE),
    )


def _fitted(picture: Image.Image | None) -> Image.Image:
    if picture is None:
        empty = Image.new("RGB", (_BOX[0], _BOX[1] * 3 // 4), _PAPER)
        middle = (empty.width / 2, empty.height / 2)
        ImageDraw.Draw(empty).text(middle, "missing", _ARROW, _font(_PROMPT_SIZE), anchor="mm")
        return empty
    return ImageOps.contain(picture.convert("RGB"), _BOX, Image.Resampling.LANCZOS)


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrapped(text: str, size: int) -> list[str]:
    """Return the text as lines that fit into a cell; a word that is too long is cut in pieces."""
    plain = unicodedata.normalize("NFKD", text.translate(_SPELLED))
    plain = "".join(mark for mark in plain if not unicodedata.combining(mark))
    plain = "".join(mark if mark.isspace() or _is_drawable(mark) else "?" for mark in plain)
    lines = [""]
    for word in plain.split():
        rest = word
        if lines[-1] and not _fits(f"{lines[-1]} {rest}", size):
            lines.append("")
        while not _fits(rest, size):
            cut = next(n for n in range(len(rest) - 1, 0, -1) if n == 1 or _fits(rest[:n], size))
            lines[-1], rest = rest[:cut], rest[cut:]
            lines.append("")
        lines[-1] = f"{lines[-1]} {rest}".lstrip()
    return lines


def _is_drawable(mark: str) -> bool:
    return " " <= mark <= "~" or mark in "‘’“”…"  # noqa: RUF001  # the marks the font has


def _fits(text: str, size: int) -> bool:
    return _font(size).getlength(text) <= _TEXT_WIDTH


def _height(lines: Sequence[str], size: int) -> int:
    return round(len(lines) * size * _LEADING)


def _picture_height(line: Sequence[_Cell]) -> int:
    return max(cell.picture_height for cell in line)


def _line_height(line: Sequence[_Cell]) -> int:
    text = max(cell.text_height for cell in line)
    return _picture_height(line) + text + 3 * _PADDING


def _draw_cell(
    sheet: Image.Image, cell: _Cell, place: tuple[int, int, int], picture_height: int
) -> None:
    """Draw a cell at `place` (left, top, height in px); its images share a middle line."""
    draw, (left, top, height) = ImageDraw.Draw(sheet), place
    card = (left, top, left + _CELL_WIDTH - 1, top + height - 1)
    draw.rounded_rectangle(card, 8, _CARD, _BORDER)
    middle = top + _PADDING + picture_height // 2
    edge = left + _PADDING
    for picture, box_left in zip(cell.pictures, (edge, edge + _BOX[0] + _ARROW_WIDTH), strict=True):
        corner = (box_left + (_BOX[0] - picture.width) // 2, middle - picture.height // 2)
        sheet.paste(picture, corner)
    tip = edge + _BOX[0] + _ARROW_WIDTH - 8
    draw.line((tip - 20, middle, tip - 8, middle), _ARROW, 3)
    draw.polygon(((tip, middle), (tip - 9, middle - 6), (tip - 9, middle + 6)), _ARROW)
    y = float(top + 2 * _PADDING + picture_height)
    for lines, size, color in (
        (cell.title, _TITLE_SIZE, _TITLE),
        (cell.prompt, _PROMPT_SIZE, _PROMPT),
    ):
        for text in lines:
            draw.text((edge, y), text, color, _font(size), anchor="la")
            y += size * _LEADING
