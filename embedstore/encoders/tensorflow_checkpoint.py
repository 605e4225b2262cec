"""Reads a TensorFlow V2 checkpoint ("tensor bundle") without TensorFlow, from bytes.

The index is a LevelDB sorted string table: blocks of prefix-compressed ``key -> value`` entries, an index block that
locates them, a footer of 48 bytes. The empty key holds the bundle's header; every other key is a tensor's name and its
value a small protobuf message: type, shape, place in the data file, sum. The data file is the raw tensors.
(TensorFlow's ``tensor_bundle.proto`` and ``tensor_bundle.cc``; LevelDB's ``table_format.md``.)

Everything is checked before it is used: sums, bounds, the order of the keys. Tensors are views on the bytes given and
may not overlap, so a damaged or hostile file costs no memory.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedstore.errors import WeightsError

__all__ = ["crc32c", "read_checkpoint"]

_MARK = bytes.fromhex("57fb808b247547db")
_FOOTER = 48  # bytes
_TRAILER = 5  # bytes after a block: compression, masked CRC-32C
_MAX_INDEX, _MAX_KEY, _MAX_DIMENSIONS = 2**20, 1000, 32
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # tensorflow/core/framework/types.proto


def read_checkpoint(index: bytes, data: bytes, names: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """Read tensors out of a checkpoint's two files.

    Parameters
    ----------
    index : bytes
        Content of ``<prefix>.index``.
    data : bytes
        Content of ``<prefix>.data-00000-of-00001``.
    names : collection of str, optional
        The tensors that are wanted; None reads all.

    Returns
    -------
    dict of name to array
        Read-only views on `data`, in the types and shapes that were saved.

    Raises
    ------
    WeightsError
        Not a checkpoint, damaged, cut short, in several parts, or without a tensor that is wanted.
    """
    entries = dict(_table(index))
    header, _ = _message(entries.pop("", b""))
    if header.get(1) != 1 or header.get(2, 0) != 0:
        raise WeightsError("this checkpoint index does not describe one little-endian data file")
    wanted = entries if names is None else names
    if missing := set(wanted) - set(entries):
        raise WeightsError(f"the checkpoint has no tensor {min(missing)!r}; it has {len(entries)} others")
    places = {name: _place(name, entries[name], len(data)) for name in wanted}
    if sum(place.size for place in places.values()) > len(data):
        raise WeightsError("damaged checkpoint: its tensors overlap")
    return {name: place.read(name, data) for name, place in places.items()}


@dataclass(frozen=True)
class _Place:
    """Where in the data file a tensor lies, and what it must be."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    masked_sum: int

    def read(self, name: str, data: bytes) -> NDArray[Any]:
        raw = memoryview(data)[self.offset : self.offset + self.size]
        _check_sum(raw, self.masked_sum, f"tensor {name!r}")
        return np.frombuffer(raw, self.dtype).reshape(self.shape)


def _place(name: str, entry: bytes, available: int) -> _Place:
    """Understand one BundleEntryProto, for a data file of `available` bytes."""
    numbers, messages = _message(entry)
    dtype, part, offset, size, masked_sum = (numbers.get(field, 0) for field in (1, 3, 4, 5, 6))
    _, dimensions = _message(messages.get(2, [b""])[0])
    shape = tuple(_message(dimension)[0].get(1, 0) for dimension in dimensions.get(2, []))
    if dtype not in _DTYPES or part != 0 or 7 in messages:
        raise WeightsError(f"tensor {name!r} is of a kind that is not read here (type {dtype}, part {part})")
    if len(shape) > _MAX_DIMENSIONS or math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize != size or size == 0:
        raise WeightsError(f"damaged checkpoint index: tensor {name!r} of shape {shape[:8]} in {size} bytes")
    if offset + size > available:
        raise WeightsError(
            f"the checkpoint is cut short: tensor {name!r} ends at byte {offset + size}, the data at {available}"
        )
    return _Place(_DTYPES[dtype], shape, offset, size, masked_sum)


# -- the sorted string table ---------------------------------------------------------------------------------------


def _table(index: bytes) -> Iterator[tuple[str, bytes]]:
    """Walk through all entries, by rising key."""
    if not _FOOTER <= len(index) <= _MAX_INDEX or not index.endswith(_MARK):
        raise WeightsError(f"these {len(index)} bytes are not a (whole) TensorFlow checkpoint index")
    footer = index[-_FOOTER:]
    _, at = _handle(footer, 0)  # the metaindex, which TensorFlow leaves empty
    last = None
    for _, handle in _block(index, _handle(footer, at)[0]):
        for key, value in _block(index, _handle(handle, 0)[0]):
            if last is not None and key <= last:
                raise WeightsError("damaged checkpoint index: its keys do not rise")
            last = key
            yield key.decode(errors="replace"), value


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    """Read (start, size) of a block; also where the handle ends."""
    start, at = _varint(data, at)
    size, at = _varint(data, at)
    return (start, size), at


def _block(index: bytes, handle: tuple[int, int]) -> Iterator[tuple[bytes, bytes]]:
    """Walk through one block's entries: shared prefix, rest of the key, value."""
    start, size = handle
    if size < 4 or start + size + _TRAILER > len(index):
        raise WeightsError(f"damaged checkpoint index: a block of {size} bytes at {start} of {len(index)}")
    content, trailer = index[start : start + size], index[start + size : start + size + _TRAILER]
    _check_sum(content + trailer[:1], int.from_bytes(trailer[1:], "little"), f"the index block at byte {start}")
    if trailer[0] != 0:
        raise WeightsError("compressed checkpoint indices are not read here (TensorFlow writes them plain)")
    end = size - 4 - 4 * int.from_bytes(content[-4:], "little")  # the restart points are for binary search
    key, at = b"", 0
    while at < end:
        shared, at = _varint(content, at)
        rest, at = _varint(content, at)
        length, at = _varint(content, at)
        if shared > len(key) or shared + rest > _MAX_KEY or at + rest + length > end:
            raise WeightsError(f"damaged checkpoint index: an entry of {rest} + {length} bytes in a block of {size}")
        key = key[:shared] + content[at : at + rest]
        at += rest + length
        yield key, content[at - length : at]


# -- protobuf's wire format ----------------------------------------------------------------------------------------


def _message(data: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """Sort a message's fields by number: the integers, and the byte strings (which may be messages)."""
    integers: dict[int, int] = {}
    strings: dict[int, list[bytes]] = {}
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            integers[field], at = _varint(data, at)
            continue
        if kind == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(kind, len(data))
        value, at = data[at : at + size], at + size
        if at > len(data):
            raise WeightsError("damaged checkpoint index: an entry is not a whole protobuf message")
        if kind == 2:
            strings.setdefault(field, []).append(value)
        else:
            integers[field] = int.from_bytes(value, "little")
    return integers, strings


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Read 7 bits a byte, lowest first; also where the number ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise WeightsError("damaged checkpoint index: a number does not end")


# -- sums ----------------------------------------------------------------------------------------------------------


def crc32c(data: bytes | memoryview) -> int:
    """Compute the CRC-32C (Castagnoli) of some bytes with numpy alone.

    The bytes are cut into about sqrt(n) lanes that run through the byte-wise algorithm side by side. Thirty-two more
    lanes carry one bit each through as many zero bytes: the linear map that moves a remainder past the next lane.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    n = len(data) + len(_TO_ONES)
    lanes = math.isqrt(n)
    length = -(-n // lanes)
    padded = np.zeros(lanes * length, np.uint8)  # zeros in front leave a zero register at zero
    padded[-n:] = np.frombuffer(_TO_ONES + bytes(data), np.uint8)
    columns = np.zeros((length, lanes + 32), np.uint8)
    columns[:, :lanes] = padded.reshape(lanes, length).T
    bits = np.arange(32, dtype=np.uint32)
    state = np.concatenate([np.zeros(lanes, np.uint32), np.uint32(1) << bits])
    table = _crc_table()
    for column in columns:
        state = table[(state ^ column) & 0xFF] ^ (state >> 8)
    past_a_lane = state[lanes:]
    crc = np.uint32(0)
    for remainder in state[:lanes]:
        crc = np.bitwise_xor.reduce(past_a_lane[(crc >> bits) & 1 == 1]) ^ remainder
    return int(crc) ^ 0xFFFFFFFF


_TO_ONES = bytes.fromhex("54641f64")  # brings the register from zero to all ones, where CRC-32C starts


@cache
def _crc_table() -> NDArray[np.uint32]:
    table: NDArray[Any] = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> 1) ^ (np.uint32(0x82F63B78) * (table & np.uint32(1)))
    return table


def _check_sum(content: bytes | memoryview, masked: int, what: str) -> None:
    """Compare with a CRC-32C as LevelDB masks it: rotated by 15 bits, plus a constant."""
    crc = crc32c(content)
    if masked != (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF:
        raise WeightsError(f"damaged checkpoint: the sum of {what} does not agree")
