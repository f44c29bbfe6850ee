"""Blosc decompression of Zarr chunks that does not read beyond the end of a chunk that was cut off.

The Blosc library takes the length of a chunk from the chunk's own header. Where a chunk was cut off, it reads on in the
memory behind and returns whatever lies there. `use_checked_blosc` makes zarr compare the lengths first, in this
process, for stores of both versions.
"""

from typing import Any

import numcodecs
import zarr
from numcodecs.compat import ensure_bytes
from zarr.codecs.blosc import BloscCodec
from zarr.registry import register_codec

__all__ = ["use_checked_blosc"]

_HEADER = 16


def _check_length(chunk: bytes) -> None:
    """Raise ValueError unless a chunk is as long as its header says (bytes 12 to 15, little endian)."""
    stated = int.from_bytes(chunk[12:_HEADER], "little")
    if len(chunk) < _HEADER or stated != len(chunk):
        raise ValueError(f"a chunk compressed by Blosc has {len(chunk)} bytes, and its header states {stated}")


class CheckedBlosc(numcodecs.Blosc):
    """Decode chunks of Zarr 2."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Return the decompressed bytes, as `numcodecs.Blosc.decode` does, or raise ValueError for a cut chunk."""
        _check_length(ensure_bytes(buf))
        return super().decode(buf, out)


class CheckedBloscCodec(BloscCodec):
    """Decode chunks of Zarr 3."""

    def _decode_sync(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        _check_length(chunk_bytes.to_bytes())
        return super()._decode_sync(chunk_bytes, chunk_spec)


def use_checked_blosc() -> None:
    """Make zarr decode Blosc with the classes of this module."""
    numcodecs.register_codec(CheckedBlosc)
    register_codec("blosc", CheckedBloscCodec)
    zarr.config.set({"codecs.blosc": f"{CheckedBloscCodec.__module__}.{CheckedBloscCodec.__qualname__}"})
