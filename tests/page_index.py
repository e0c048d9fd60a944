"""Read a Parquet file's offset indexes, which pyarrow writes but does not show."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

# Field numbers of parquet.thrift (apache/parquet-format).
_ROW_GROUPS, _COLUMNS, _META_DATA, _PATH, _OFFSET_INDEX = 4, 1, 3, 3, 4


class Page(NamedTuple):
    """One page: offset in the file, size in bytes with its header, and its first row."""

    offset: int
    size_bytes: int
    first_row: int


class _Compact:
    """A reader of Thrift's compact protocol: structs as dicts by field number."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    def integer(self) -> int:
        value = self.varint()
        return (value >> 1) ^ -(value & 1)

    def binary(self) -> bytes:
        size = self.varint()
        self.at += size
        return self.data[self.at - size : self.at]

    def items(self) -> list[Any]:
        head = self.byte()
        size = head >> 4
        size = self.varint() if size == 15 else size
        return [self.value(head & 15, in_list=True) for _ in range(size)]

    def value(self, kind: int, *, in_list: bool = False) -> Any:
        if kind in (1, 2):
            return self.byte() == 1 if in_list else kind == 1
        if kind == 3:
            return self.byte()
        if kind in (4, 5, 6):
            return self.integer()
        if kind == 7:
            self.at += 8
            return struct.unpack_from("<d", self.data, self.at - 8)[0]
        readers = {8: self.binary, 9: self.items, 10: self.items, 12: self.struct}
        return readers[kind]()

    def struct(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        number = 0
        while head := self.byte():
            number = number + (head >> 4) if head >> 4 else self.integer()
            found[number] = self.value(head & 15)
        return found


def pages(path: Path) -> Iterator[tuple[int, str, list[Page]]]:
    """Yield row group, dotted column path and pages of every column chunk of a Parquet file."""
    data = path.read_bytes()
    (size,) = struct.unpack_from("<I", data, len(data) - 8)
    footer = _Compact(data[-8 - size : -8]).struct()
    for number, group in enumerate(footer[_ROW_GROUPS]):
        for column in group[_COLUMNS]:
            name = ".".join(part.decode() for part in column[_META_DATA][_PATH])
            index = _Compact(data[column[_OFFSET_INDEX] :]).struct()
            yield number, name, [Page(one[1], one[2], one[3]) for one in index[1]]
