"""Turn numpy's numbers, texts and flags into Arrow's and back, without importing pandas.

`pa.array` and `to_numpy` import it to see whether values are of its types, which takes a quarter of
a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["Flags", "flags_of", "numbers_of", "strings_of", "values_of"]

Flags = np.ndarray[Any, np.dtype[np.bool_]]


def numbers_of(numbers: np.ndarray[Any, Any]) -> pa.Array:
    """Return an Arrow array of these numbers, which it shares."""
    kind = pa.from_numpy_dtype(numbers.dtype)
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


def values_of(array: pa.Array) -> np.ndarray[Any, Any]:
    """Return the numbers of an Arrow array, which it shares; a null has any value."""
    kind = array.type.to_pandas_dtype()
    return np.frombuffer(array.buffers()[1] or b"", kind)[array.offset : array.offset + len(array)]


def strings_of(texts: Sequence[str]) -> pa.StringArray:
    """Return an Arrow array of these texts, of at most 2 GiB in all."""
    encoded = [text.encode() for text in texts]
    edges = np.zeros(len(texts) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, encoded), np.int32, len(texts)), out=edges[1:])
    buffers = [None, pa.py_buffer(edges), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(texts), buffers)


def flags_of(flags: pa.BooleanArray) -> Flags:
    """Return the values of an Arrow array that has no nulls."""
    packed = np.frombuffer(flags.buffers()[1], np.uint8)
    bits = np.unpackbits(packed, count=flags.offset + len(flags), bitorder="little")
    return bits[flags.offset :].view(np.bool_)
