"""Which files beside an ONNX file hold its weights, read from the file itself without the package `onnx`.

An ONNX file is a protobuf message (`onnx/onnx.proto`, https://github.com/onnx/onnx). A tensor whose `data_location` is
EXTERNAL names in `external_data` the file that holds its values, relative to the folder of the ONNX file. Such tensors
stand in the graph, in graphs within its nodes, in functions, in attributes and in sparse tensors.
"""

import mmap
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath

from dacycle.common.errors import DacycleError
from dacycle.common.foreign import reading

__all__ = ["ModelFileError", "weight_files"]

_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
"""By message, the numbers of the fields that may lead to a tensor, and their messages."""
_EXTERNAL_DATA, _DATA_LOCATION, _EXTERNAL = 13, 14, 1
_VARINT, _BYTES = 0, 2
_FIXED = {1: 8, 5: 4}
"""By kind of field, its bytes."""

Span = tuple[int, int]
"""First byte of a message and the byte after its last."""


class ModelFileError(DacycleError, ValueError):
    """A model file is missing or damaged, or does not have its contract; names the file and what differs."""


def weight_files(network: Path) -> list[str]:
    """Return the files that hold weights of an ONNX file outside it, sorted, relative to its folder.

    Raises:
        ModelFileError: the file is not ONNX, or a name is absolute, leads out of the folder, or is no file there.
    """
    with (
        reading(f"{network}: damaged or not ONNX", ModelFileError),
        open(network, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        locations = {location for tensor in _tensors(content) if (location := _location(content, tensor))}
    return sorted({_checked(network, location) for location in locations})


def _checked(network: Path, location: str) -> str:
    """Return the shortest form of the name of a file with weights, which must be in the network's folder."""
    name = normpath(location)
    where = f"{network}: its weights are in {location}"
    if PurePosixPath(name).is_absolute() or name.split("/")[0] == "..":
        raise ModelFileError(
            f"{where}, outside its folder; save it with the weights beside it: "
            "onnx.save(model, path, save_as_external_data=True, location='weights.bin')"
        )
    if not (network.parent / name).is_file():
        raise ModelFileError(f"{where}, but there is no file {network.parent / name}; put it there")
    return name


def _tensors(content: mmap.mmap) -> Iterator[Span]:
    """Yield all tensors of a model, in whatever message they are."""
    waiting = [("model", (0, len(content)))]
    while waiting:
        message, span = waiting.pop()
        if message == "tensor":
            yield span
            continue
        for number, value in _fields(content, span):
            if number in _MESSAGES[message] and isinstance(value, tuple):
                waiting.append((_MESSAGES[message][number], value))


def _location(content: mmap.mmap, tensor: Span) -> str:
    """Return the name of the file that holds a tensor's values; empty if they are in the ONNX file."""
    location, external = "", False
    for number, value in _fields(content, tensor):
        if number == _DATA_LOCATION:
            external = value == _EXTERNAL
        elif number == _EXTERNAL_DATA and isinstance(value, tuple):
            entry = {key: content[slice(*text)] for key, text in _fields(content, value) if isinstance(text, tuple)}
            location = entry.get(2, b"").decode() if entry.get(1) == b"location" else location
    if external and not location:
        raise ValueError("a tensor outside the file has no location")
    return location if external else ""


def _fields(content: mmap.mmap, span: Span) -> Iterator[tuple[int, int | Span]]:
    """Yield number and value of the fields of a message; of all but integers, where they are."""
    position, end = span
    while position < end:
        key, position = _varint(content, position)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            value, position = _varint(content, position)
            yield number, value
            continue
        if kind != _BYTES and kind not in _FIXED:
            raise ValueError(f"no field begins before byte {position}")
        length, position = _varint(content, position) if kind == _BYTES else (_FIXED[kind], position)
        if position + length > end:
            raise ValueError(f"a field goes beyond byte {end}, where its message ends")
        yield number, (position, position + length)
        position += length


def _varint(content: mmap.mmap, position: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and the position after it."""
    value = shift = 0
    while shift < 64:
        byte = content[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
    raise ValueError(f"byte {position} belongs to no number")
