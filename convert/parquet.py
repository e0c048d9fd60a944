"""Write examples as Parquet: bounded row groups, one page an image, readable by anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pico_banana.schema import arrow_schema, columns

from .options import ROW_GROUP_BYTES
from .store import HashingFile

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ParquetFile"]


class ParquetFile:
    """One Parquet file that is being written; rows are held until a row group is full.

    Image bytes lie uncompressed (PNG and JPEG are compressed already), without dictionary or
    statistics, one page an image, so that the offset index addresses each. Other columns are
    zstd. A file without a row has no row group: an empty one breaks loading in `datasets`.

    Args:
        file: where to write.
        config: whose columns the rows have.
        images: bytes or none; with none there are no image columns.

    A context manager: a failure inside leaves the file unfinished.
    """

    def __init__(self, file: HashingFile, config: str, images: str) -> None:
        self._file = file
        self._schema = arrow_schema(config, images=images)
        kinds = {column.name: column.kind for column in columns(config, images=images)}
        self._image_columns = [name for name, kind in kinds.items() if kind == "image"]
        self._image_lists = [name for name, kind in kinds.items() if kind == "images"]
        self._rows: list[dict[str, Any]] = []
        self._held_bytes = 0
        self.rows = 0
        bare = {f"{name}.bytes" for name in self._image_columns}
        bare |= {f"{name}.list.element.bytes" for name in self._image_lists}
        others = [path for path in self._leaves() if path not in bare]
        # No dictionary for lists: with one row a page, pyarrow 26 writes a list leaf with a
        # dictionary such that a row group of a single row cannot be read again. Nor would one
        # help: URLs, names and hashes hardly repeat.
        singles = [path for path in others if ".list." not in path]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression={path: "NONE" if path in bare else "ZSTD" for path in self._leaves()},
            use_dictionary=singles,
            write_statistics=others,
            write_page_index=True,
            # One row a page: small images would share pages by any larger batch.
            write_batch_size=1,
            data_page_size=1,
        )

    def _leaves(self) -> list[str]:
        """The dotted paths of the leaf columns, as Parquet names them."""
        return [path for field in self._schema for path in _leaf_paths(field.name, field.type)]

    def add(self, row: dict[str, Any]) -> None:
        """Add a row: a value for each column."""
        size = sum(len(row[name]["bytes"]) for name in self._image_columns if row[name])
        size += sum(
            len(image["bytes"]) for name in self._image_lists for image in row[name] if image
        )
        if self._rows and self._held_bytes + size > ROW_GROUP_BYTES:
            self._flush()
        self._rows.append(row)
        self._held_bytes += size
        self.rows += 1

    def _flush(self) -> None:
        arrays = [
            pa.array([row[field.name] for row in self._rows], field.type) for field in self._schema
        ]
        # The rows' image bytes are in the arrays now: two copies at once are enough.
        count = len(self._rows)
        self._rows, self._held_bytes = [], 0
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=count)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is held and the footer; after a failure write nothing more."""
        if kind is None:
            if self._rows:
                self._flush()
        else:
            self._file.abandon()
        self._writer.close()


def _leaf_paths(name: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_list(kind):
        return _leaf_paths(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [path for field in kind for path in _leaf_paths(f"{name}.{field.name}", field.type)]
    return [name]
