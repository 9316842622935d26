"""PNG files: the chunks around the pixels, and a writer for every kind of pixels.

Pillow writes no 16-bit colour; OpenCV writes neither grey with alpha nor metadata.
Format: https://www.w3.org/TR/png-3/
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import numpy as np

SIGNATURE = b'\x89PNG\r\n\x1a\n'
COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}  # by number of channels: grey, grey and alpha, RGB, RGBA
PAETH = 4
BLOCK_BYTES = 1 << 18  # filtered at a time: fits a processor's cache


class Chunk(NamedTuple):
    """One chunk of a PNG file."""

    kind: bytes  # four letters
    body: bytes
    raw: bytes  # the whole chunk as it stands in the file, with its length, kind and checksum
    intact: bool  # whether it is complete and its checksum is right


def read_chunks(content: bytes) -> Iterator[Chunk]:
    """Split a PNG file; the last chunk of a truncated file is cut short and not intact."""
    start = len(SIGNATURE)
    while start < len(content):
        length = int.from_bytes(content[start : start + 4], 'big')
        raw = content[start : start + length + 12]
        start += length + 12
        kind, body, checksum = raw[4:8], raw[8 : 8 + length], raw[8 + length :]
        yield Chunk(kind, body, raw, checksum == zlib.crc32(kind + body).to_bytes(4, 'big'))


def make_chunk(kind: bytes, body: bytes) -> bytes:
    """The bytes of a chunk."""
    return len(body).to_bytes(4, 'big') + kind + body + zlib.crc32(kind + body).to_bytes(4, 'big')


def write_png(file: BinaryIO, pixels: np.ndarray, chunks: bytes = b'') -> None:
    """Write a PNG file without needing much memory beside the pixels.

    Args:
        file: Opened for binary writing.
        pixels: (H, W, C), uint8 or uint16; C = 1 grey, 2 grey and alpha, 3 RGB, 4 RGBA.
        chunks: What stands before the pixels, of :func:`make_chunk`.
    """
    height, width, channels = pixels.shape
    sample = pixels.dtype.itemsize
    header = struct.pack('>IIBBBBB', width, height, 8 * sample, COLOUR_TYPES[channels], 0, 0, 0)
    file.write(SIGNATURE + make_chunk(b'IHDR', header) + chunks)
    stride = width * channels * sample
    count = max(1, BLOCK_BYTES // stride)
    above = np.zeros((1, stride), np.uint8)
    compressor = zlib.compressobj()
    for start in range(0, height, count):
        block = np.ascontiguousarray(pixels[start : start + count], f'>u{sample}').view(np.uint8).reshape(-1, stride)
        rows = np.concatenate((above, block))
        above = rows[-1:]
        if data := compressor.compress(_paeth_filtered(rows, channels * sample)):
            file.write(make_chunk(b'IDAT', data))
    file.write(make_chunk(b'IDAT', compressor.flush()) + make_chunk(b'IEND', b''))


def _paeth_filtered(rows: np.ndarray, pixel: int) -> bytes:
    """Differences of all rows but the first to their Paeth predictions, each row after its filter's number."""
    left = np.zeros_like(rows)
    left[:, pixel:] = rows[:, :-pixel]
    a, b, c = (array.astype(np.int16) for array in (left[1:], rows[:-1], left[:-1]))
    to_a, to_b, to_c = np.abs(b - c), np.abs(a - c), np.abs(a + b - 2 * c)  # distances from a + b - c
    prediction = np.where((to_a <= to_b) & (to_a <= to_c), a, np.where(to_b <= to_c, b, c))
    filtered = np.empty((len(rows) - 1, rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = PAETH
    filtered[:, 1:] = rows[1:] - prediction.astype(np.uint8)
    return filtered.tobytes()
