"""Write examples as Parquet: bounded row groups, one page an image, readable by anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pico_banana.schema import arrow_schema, columns

from ..options import ROW_GROUP_BYTES, ROW_GROUP_ROWS
from .store import HashingFile

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Buffers", "LinkedFile", "ParquetFile"]

Buffers = dict[str, "np.ndarray[Any, np.dtype[np.uint8]]"]
"""Memory for image bytes by column, which one file leaves to the next: the system clears what is
fresh, which took a fifth of the time of writing."""

_FIRST_BYTES = 1024 * 1024
"""Of a buffer, which grows."""
_MOST_BYTES = 2 * ROW_GROUP_BYTES
"""Of a buffer that is kept: what one enormous row needed is given back."""


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

    Nothing is compressed: PNG and JPEG are already, and of other columns a page holds one value.
    Image bytes lie without dictionary or statistics, one page an image, so that the offset index
    addresses each. A file without a row has no row group: an empty one breaks `datasets`.

    Args:
        file: where to write.
        config: whose columns the rows have.
        buffers: what an earlier file has left, and this one leaves to a later one.

    A context manager: a failure inside leaves the file unfinished.
    """

    def __init__(self, file: HashingFile, config: str, buffers: Buffers) -> None:
        super().__init__(file)
        self._schema = arrow_schema(config)
        kinds = {column.name: column.kind for column in columns(config)}
        self._held: dict[str, _Images | _ImageLists | _Values] = {
            name: _held(kind, self._schema.field(name).type, buffers, name)
            for name, kind in kinds.items()
        }
        self._held_rows = self._held_bytes = 0
        bare = {f"{name}.bytes" for name, kind in kinds.items() if kind == "image"}
        bare |= {f"{name}.list.element.bytes" for name, kind in kinds.items() if kind == "images"}
        leaves = _leaves(self._schema)
        others = [path for path in leaves if path not in bare]
        # No dictionary for lists: with one row a page, pyarrow 26 writes a list leaf with a
        # dictionary such that a row group of a single row cannot be read again. Nor would one
        # help: URLs, names and hashes hardly repeat.
        singles = [path for path in others if ".list." not in path]
        self._writer = pq.ParquetWriter(
            file,
            self._schema,
            compression="NONE",
            use_dictionary=singles,
            write_statistics=others,
            write_page_index=True,
            # One row a page: small images would share pages by any larger batch.
            write_batch_size=1,
            data_page_size=1,
        )

    def add(self, row: dict[str, Any]) -> None:
        """Add a row: a value for each column."""
        size = sum(column.size_of(row[name]) for name, column in self._held.items())
        if self._held_rows and self._held_bytes + size > ROW_GROUP_BYTES:
            self._flush()
        for name, column in self._held.items():
            column.add(row[name])
        self._held_rows += 1
        self._held_bytes += size
        self.rows += 1

    def _flush(self) -> None:
        if not self._held_rows:
            return
        arrays = [column.array() for column in self._held.values()]
        table = pa.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=self._held_rows)
        del arrays, table  # what they refer to is used again
        for column in self._held.values():
            column.clear()
        self._held_rows = self._held_bytes = 0


class _Values:
    """The values of a column that are held for a row group."""

    def __init__(self, kind: pa.DataType) -> None:
        self._kind = kind
        self._values: list[Any] = []

    def size_of(self, value: Any) -> int:
        """Return the bytes of a value's images: there are none."""
        del value
        return 0

    def add(self, value: Any) -> None:
        self._values.append(value)

    def array(self) -> pa.Array:
        return pa.array(self._values, self._kind)

    def clear(self) -> None:
        self._values.clear()


class _Images:
    """The images of a column that are held for a row group: their bytes in one buffer.

    It is used again for the next row group: fresh memory of that size costs more than the copy.
    Where they are copied one by one, other threads run between.
    """

    def __init__(self, kind: pa.DataType, buffers: Buffers, name: str) -> None:
        self._kind, self._buffers, self._name = kind, buffers, name
        self._data = buffers.get(name, np.empty(_FIRST_BYTES, np.uint8))
        self._ends = [0]
        self._names: list[str | None] = []
        self._are_null: list[bool] = []

    def size_of(self, value: Any) -> int:
        """Return the bytes of a value's images."""
        return len(value["bytes"]) if value else 0

    def add(self, value: Any) -> None:
        begin = self._ends[-1]
        end = begin + self.size_of(value)
        if end > len(self._data):
            grown = np.empty(max(end, 2 * len(self._data)), np.uint8)
            grown[:begin] = self._data[:begin]
            self._data = grown
            if len(grown) <= _MOST_BYTES:
                self._buffers[self._name] = grown
        if value:
            self._data[begin:end] = np.frombuffer(value["bytes"], np.uint8)
        self._ends.append(end)
        self._names.append(value["path"] if value else None)
        self._are_null.append(value is None)

    def array(self) -> pa.Array:
        """Return all as structs; they refer to the buffer, so only until it is cleared."""
        ends = pa.py_buffer(np.array(self._ends, np.int32))
        data = pa.py_buffer(self._data[: self._ends[-1]])
        images = pa.Array.from_buffers(pa.binary(), len(self._names), [None, ends, data])
        is_null = pa.array(self._are_null, pa.bool_())
        names = pa.array(self._names, pa.string())
        return pa.StructArray.from_arrays([images, names], fields=[*self._kind], mask=is_null)

    def clear(self) -> None:
        self._ends = [0]
        self._names.clear()
        self._are_null.clear()


class _ImageLists:
    """The images of a column of lists, likewise."""

    def __init__(self, kind: pa.ListType, buffers: Buffers, name: str) -> None:
        self._kind, self._images = kind, _Images(kind.value_type, buffers, name)
        self._ends = [0]

    def size_of(self, value: Any) -> int:
        """Return the bytes of a value's images."""
        return sum(map(self._images.size_of, value))

    def add(self, value: Any) -> None:
        for image in value:
            self._images.add(image)
        self._ends.append(self._ends[-1] + len(value))

    def array(self) -> pa.Array:
        """Return all as lists of structs, likewise."""
        ends = pa.array(self._ends, pa.int32())
        return pa.ListArray.from_arrays(ends, self._images.array(), type=self._kind)

    def clear(self) -> None:
        self._images.clear()
        self._ends = [0]


def _held(
    kind: str, arrow: pa.DataType, buffers: Buffers, name: str
) -> _Images | _ImageLists | _Values:
    if kind == "images":
        return _ImageLists(arrow, buffers, name)
    return _Images(arrow, buffers, name) if kind == "image" else _Values(arrow)


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
