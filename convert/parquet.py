"""Write examples as Parquet: bounded row groups, one page an image, readable by anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pico_banana.schema import arrow_schema, columns

from .options import ROW_GROUP_BYTES, ROW_GROUP_ROWS
from .store import HashingFile

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LinkedFile", "ParquetFile"]


class _Writing:
    """A Parquet file that is being written: a context manager; see `ParquetFile`."""

    _writer: pq.ParquetWriter

    def __init__(self, file: HashingFile) -> None:
        self._file = file
        self.rows = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Write what is held and the footer; after a failure write nothing more."""
        if kind is None:
            self._flush()
        else:
            self._file.abandon()
        self._writer.close()

    def _flush(self) -> None:
        raise NotImplementedError


class ParquetFile(_Writing):
    """One Parquet file with image bytes that is being written; rows are held for a row group.

    Image bytes lie uncompressed (PNG and JPEG are compressed already), without dictionary or
    statistics, one page an image, so that the offset index addresses each. Other columns are
    zstd. A file without a row has no row group: an empty one breaks loading in `datasets`.

    Args:
        file: where to write.
        config: whose columns the rows have.

    A context manager: a failure inside leaves the file unfinished.
    """

    def __init__(self, file: HashingFile, config: str) -> None:
        super().__init__(file)
        self._schema = arrow_schema(config)
        kinds = {column.name: column.kind for column in columns(config)}
        self._image_columns = [name for name, kind in kinds.items() if kind == "image"]
        self._image_lists = [name for name, kind in kinds.items() if kind == "images"]
        self._rows: list[dict[str, Any]] = []
        self._held_bytes = 0
        bare = {f"{name}.bytes" for name in self._image_columns}
        bare |= {f"{name}.list.element.bytes" for name in self._image_lists}
        leaves = _leaves(self._schema)
        others = [path for path in leaves if path not in bare]
        # No dictionary for lists: with one row a page, pyarrow 26 writes a list leaf with a
        # dictionary such that a row group of a single row cannot be read again. Nor would one
        # help: URLs, names and hashes hardly repeat.
        singles = [path for path in others if ".list." not in path]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression={path: "NONE" if path in bare else "ZSTD" for path in leaves},
            use_dictionary=singles,
            write_statistics=others,
            write_page_index=True,
            # One row a page: small images would share pages by any larger batch.
            write_batch_size=1,
            data_page_size=1,
        )

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
        if not self._rows:
            return
        arrays = [
            pa.array([row[field.name] for row in self._rows], field.type) for field in self._schema
        ]
        # The rows' image bytes are in the arrays now: two copies at once are enough.
        count = len(self._rows)
        self._rows, self._held_bytes = [], 0
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=count)


class LinkedFile(_Writing):
    """One Parquet file without image bytes that is being written, batch by batch.

    Row groups and pages are as large as is usual for text; all columns are zstd. Equal batches in
    the same order give equal bytes.

    Args:
        file: where to write.
        config: whose columns the batches have.
        images: url or none; with none there are no image columns.

    A context manager: a failure inside leaves the file unfinished.
    """

    def __init__(self, file: HashingFile, config: str, images: str) -> None:
        super().__init__(file)
        self._schema = arrow_schema(config, images=images)
        self._held: list[pa.RecordBatch] = []
        self._held_rows = self._held_bytes = 0
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="ZSTD",
            # What is told of each row anew is only held up by one.
            use_dictionary=[path for path in _leaves(self._schema) if path in _REPEATED],
            write_page_index=True,
        )

    def add(self, batch: pa.RecordBatch) -> None:
        """Add rows."""
        if self._held and (
            self._held_rows + batch.num_rows > ROW_GROUP_ROWS
            or self._held_bytes + batch.nbytes > ROW_GROUP_BYTES
        ):
            self._flush()
        self._held.append(batch)
        self._held_rows += batch.num_rows
        self._held_bytes += batch.nbytes
        self.rows += batch.num_rows

    def _flush(self) -> None:
        if not self._held:
            return
        table, count = pa.Table.from_batches(self._held, self._schema), self._held_rows
        self._held, self._held_rows, self._held_bytes = [], 0, 0
        # One chunk: where pages end must not depend on how the rows came.
        self._writer.write_table(table.combine_chunks(), row_group_size=count)


_REPEATED = {"edit_type", "edit_category", "input_source", "num_turns", "attribution.license"}


def _leaves(schema: pa.Schema) -> list[str]:
    """The dotted paths of the leaf columns, as Parquet names them."""
    return [path for field in schema for path in _leaf_paths(field.name, field.type)]


def _leaf_paths(name: str, kind: pa.DataType) -> list[str]:
    if pa.types.is_list(kind):
        return _leaf_paths(f"{name}.list.element", kind.value_type)
    if pa.types.is_struct(kind):
        return [path for field in kind for path in _leaf_paths(f"{name}.{field.name}", field.type)]
    return [name]
