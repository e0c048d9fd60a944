"""Make an example, the row that a user sees, from a record and its fetched images, or links."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pico_banana.errors import MissingImageError
from pico_banana.fetching.inspect import Fetched
from pico_banana.fetching.links import Links
from pico_banana.fetching.sources import ImageRef, Sources
from pico_banana.input_sources import SOURCES
from pico_banana.missing import Missing, MissingReason
from pico_banana.open_images.index import Photo
from pico_banana.release.columns import below, quoted
from pico_banana.release.records import Record
from pico_banana.schema import ATTRIBUTION_FIELDS, MEASURES, arrow_schema, category_of, columns
from pico_banana.urls import PUBLISHED_BASE

__all__ = [
    "Example",
    "borne",
    "image_columns",
    "image_refs",
    "images_of",
    "linked",
    "make_example",
]

Found = Fetched | Missing

_ROW_BYTES = 2**31 - 2**20
"""Of a row's images: Arrow's offsets and Parquet's pages count in 31 bits, lengths too."""


class Example(NamedTuple):
    """What became of a record.

    Attributes:
        row: the columns' values by name, or None where the example is left out.
        missing: the images that are missing, each with the column it belongs to.
        way: by which way the input image came, None where it is missing.
    """

    row: dict[str, Any] | None
    missing: tuple[tuple[str, Missing], ...]
    way: str | None


def image_refs(record: Record, photo: Photo | None, sources: Sources) -> list[ImageRef]:
    """Return the references of a record's images: input, then edited ones, then rejected ones."""
    paths = record.edited + record.rejected
    return [sources.input(record, photo), *[sources.edited(path) for path in paths]]


def image_columns(config: str, record: Record) -> list[str]:
    """Return the column of each of a record's images, in the order of `image_refs`."""
    column = {"sft": "edited_image", "preference": "chosen_image", "multi_turn": "edited_images"}
    edited = [column[config]] * len(record.edited)
    return ["input_image", *edited, *["rejected_images"] * len(record.rejected)]


def borne(found: Sequence[Found]) -> list[Found]:
    """Return a record's images, those missing as too large that no file could hold in one row.

    They are counted in the order of `image_refs`.
    """
    kept: list[Found] = []
    room = _ROW_BYTES
    for image in found:
        if isinstance(image, Fetched) and len(image.data) > room:
            detail = f"{len(image.data):,} bytes, where {room:,} are left of a row's 2 GiB"
            kept.append(Missing(image.url, MissingReason.TOO_LARGE, image.tries, None, detail))
            continue
        kept.append(image)
        room -= len(image.data) if isinstance(image, Fetched) else 0
    return kept


def make_example(
    config: str,
    record: Record,
    photo: Photo | None,
    found: Sequence[Found],
    on_missing: str,
) -> Example:
    """Return the example of a record.

    Args:
        config: sft, preference or multi_turn.
        record: the record.
        photo: what Open Images says of its input.
        found: an entry for each of `image_refs`, in that order.
        on_missing: skip, null or fail.

    With `skip`, an example without its input or any edited image is left out; a missing rejected
    image leaves its parallel lists, and the example only when none is left. With `null` the image,
    its size and its hash are null at their place, and its URL is kept.

    Raises:
        MissingImageError: an image is missing and `on_missing` is "fail".
    """
    input_image, edited, rejected = (
        found[0],
        found[1 : len(record.edited) + 1],
        found[len(record.edited) + 1 :],
    )
    named = zip(image_columns(config, record), found, strict=True)
    missing = tuple((column, hole) for column, hole in named if isinstance(hole, Missing))
    if missing and on_missing == "fail":
        raise _error(record, *missing[0])
    way = input_image.way if isinstance(input_image, Fetched) else None
    if on_missing == "skip":
        rejected = [image for image in rejected if isinstance(image, Fetched)]
        needed = [input_image, *edited]
        if any(isinstance(need, Missing) for need in needed) or (record.rejected and not rejected):
            return Example(None, missing, way)
    row = {
        "id": record.id,
        "image_id": photo.image_id if photo else None,
        "input_source": None if way is None else SOURCES[way].input_source,
        "attribution": photo.attribution() if photo else None,
        **_one("input", input_image, _input_name(input_image, photo)),
    }
    if config == "multi_turn":
        row |= {"edit_prompts": list(record.prompts), "num_turns": len(edited)}
        row |= _many("edited", edited)
    else:
        row |= {
            "edit_prompt": record.prompts[0],
            "short_edit_prompt": record.short_prompt,
            "edit_type": record.edit_type,
            "edit_category": category_of(record.edit_type),
            **_one("chosen" if config == "preference" else "edited", edited[0]),
        }
    if config == "preference":
        row |= _many("rejected", rejected)
    return Example(row, missing, way)


def _input_name(found: Found, photo: Photo | None) -> str | None:
    """The base name of the file that was published as the bytes are, where it is not the URL's."""
    if isinstance(found, Fetched) and photo and SOURCES[found.way].needs_image_id:
        return f"{photo.image_id}.jpg"
    return None


def _image(found: Found, name: str | None = None) -> dict[str, Any] | None:
    """An image column's value; a missing image is null, never a struct that names a file."""
    return {"bytes": found.data, "path": name or found.name} if isinstance(found, Fetched) else None


def _one(prefix: str, found: Found, name: str | None = None) -> dict[str, Any]:
    measures = [measure.name for measure in MEASURES]
    known = found.measures if isinstance(found, Fetched) else dict.fromkeys(measures)
    known = {**known, "url": found.url}
    return {
        f"{prefix}_image": _image(found, name),
        **{f"{prefix}_{measure}": known[measure] for measure in measures},
    }


def _many(prefix: str, found: Sequence[Found]) -> dict[str, Any]:
    singles = [_one(prefix, image) for image in found]
    names = ("image", *[measure.name for measure in MEASURES])
    return {f"{prefix}_{name}s": [row[f"{prefix}_{name}"] for row in singles] for name in names}


def images_of(
    row: Mapping[str, Any], config: str, *, images: str = "bytes"
) -> Iterator[tuple[str, dict[str, Any] | None, dict[str, Any]]]:
    """Yield a row's images in the order of `image_refs`: column, value, and measures by name.

    Args:
        row: the columns' values by name.
        config: sft, preference or multi_turn.
        images: what the image columns hold; with none there are no images.
    """
    names = [measure.name for measure in MEASURES]
    for column in columns(config, images=images):
        if column.kind in ("image", "images"):
            plural = "s" if column.kind == "images" else ""
            prefix = column.name.removesuffix(f"image{plural}")
            values = [row[f"{prefix}{name}{plural}"] for name in ("image", *names)]
            for image, *measures in zip(*values, strict=True) if plural else [values]:
                yield column.name, image, dict(zip(names, measures, strict=True))


def _error(record: Record, column: str, missing: Missing) -> MissingImageError:
    where = f" ({record.line.where})" if record.line else ""
    return MissingImageError(
        f"{column} of {record.id}{where} is missing, and on_missing is fail: {missing.url} is "
        f"{missing.reason.value} ({missing.detail}); use on_missing=skip or null to go on without",
        missing.url,
        missing.reason.value,
    )


def linked(
    config: str, records: pa.RecordBatch, photos: pa.RecordBatch, links: Links
) -> pa.RecordBatch:
    """Return the examples of records as they are without any image's bytes, in this order.

    Sizes and hashes are null. An image is an address, `{bytes: null, path: URL}`, or null where it
    has none; with `images="none"` there are no image columns. No example is left out.

    Args:
        config: sft, preference or multi_turn.
        records: the records, at least one, as `pico_banana.release.columns.RECORD_COLUMNS`; their
            texts together must have less than 2 GiB.
        photos: what Open Images says of the input of each, as `photo_columns`.
        links: the addresses of images.
    """
    addresses, sources = links.inputs(records["input_url"], photos["image_id"])
    made: dict[str, Any] = {
        "id": records["id"],
        "image_id": photos["image_id"],
        "input_source": sources,
        "input_url": records["input_url"],
        "input_image": _addressed(addresses),
        "attribution": pa.StructArray.from_arrays(
            [photos[name] for name in ATTRIBUTION_FIELDS],
            ATTRIBUTION_FIELDS,
            mask=photos["image_id"].is_null(),
        ),
    }
    if config == "multi_turn":
        made |= {
            "edit_prompts": records["prompts"],
            "num_turns": pc.list_value_length(records["edited"]),
            **_many_linked("edited", records["edited"], links),
        }
    else:
        types = records["edit_type"].dictionary_encode()
        categories = [category_of(name) for name in types.dictionary.to_pylist()]
        made |= {
            "edit_prompt": records["prompts"].flatten(),
            "short_edit_prompt": records["short_prompt"],
            "edit_type": records["edit_type"],
            "edit_category": pa.array(categories, pa.string()).take(types.indices),
        }
        edited = _linked_images(records["edited"].flatten(), links)
        prefix = "chosen" if config == "preference" else "edited"
        made |= {f"{prefix}_{name}": edited[name] for name in ("image", "url")}
    if config == "preference":
        made |= _many_linked("rejected", records["rejected"], links)
    schema = arrow_schema(config, images=links.images)
    count = records.num_rows
    arrays = [made.get(field.name, pa.nulls(count, field.type)) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _addressed(paths: pa.StringArray) -> pa.StructArray:
    """An image column's values; an address that names a file is a fault of ours."""
    if not pc.all(pc.match_substring_regex(paths, "^https?://"), min_count=0).as_py():
        raise AssertionError("an image's path must be an http(s) URL")
    fields = [pa.nulls(len(paths), pa.binary()), paths]
    return pa.StructArray.from_arrays(fields, ["bytes", "path"], mask=paths.is_null())


def _linked_images(paths: pa.StringArray, links: Links) -> dict[str, pa.Array]:
    names = quoted(paths)
    kinds = {"string": pa.string(), "int32": pa.int32()}
    unknown = {measure.name: pa.nulls(len(paths), kinds[measure.kind]) for measure in MEASURES}
    images = _addressed(links.edited(paths, names))
    return {"image": images, **unknown, "url": below(PUBLISHED_BASE, names)}


def _many_linked(prefix: str, paths: pa.ListArray, links: Links) -> dict[str, pa.Array]:
    """The columns of lists of images; the lists of what is not known keep their length."""
    flat = _linked_images(paths.flatten(), links)
    edges = pc.subtract(paths.offsets, paths.offsets[0])
    return {f"{prefix}_{n}s": pa.ListArray.from_arrays(edges, values) for n, values in flat.items()}
