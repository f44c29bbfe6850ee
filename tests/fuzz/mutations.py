"""Mutations of inputs: of bytes, of text, and of structure through the library that knows the format."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import eccodes
import h5py
import numpy as np
import onnx
from ruamel.yaml import YAML

from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.models.onnxfile import write_metadata

Random = np.random.Generator

ODD_NUMBERS = (
    "", "-", "0", "-0", "1", "-1", "9999", "-9999", "99999", "1e308", "1e-308", "nan", "inf", "-999.9", "2147483648",
    "18446744073709551616", "1.5.2", "0x10", "1,5", "²", "+", " ",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    "", "x", "days since 1-1-1", "hours since 2024-13-45", "noleap", "K m-2 furlong", -1, 0, 1, 255, 2**31 - 1, 2**40,
    1e300, -1e300, 1e-300, float("nan"), float("inf"), [], [1, 2, 3], {}, None, True,
)  # fmt: skip
SPLICES = (
    b"\0",
    b"\n",
    b"\r\n",
    b"=",
    b"=\n",
    b",",
    b"|",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xc3\xa4",
    b'"',
    b"7777",
    b"BUFR",
    b"GRIB",
)


def mutate_bytes(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return bytes with one to four changes of any kind; `others` are inputs of the same format to splice from."""
    data = bytearray(content)
    for _ in range(int(random.integers(1, 5))):
        if not data:
            break
        at = int(random.integers(len(data)))
        length = int(min(len(data) - at, 2 ** random.integers(0, 11)))
        match int(random.integers(9)):
            case 0:
                data[at] ^= 1 << int(random.integers(8))
            case 1:
                data[at : at + length] = random.bytes(length)
            case 2:
                del data[at:]
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                data[at : at + length] = bytes(length)
            case 6:
                data[at : at + length] = bytes(
                    random.permutation(np.frombuffer(bytes(data[at : at + length]), np.uint8))
                )
            case 7:
                other = others[int(random.integers(len(others)))]
                start = int(random.integers(max(len(other), 1)))
                data[at : at + length] = other[start : start + length]
            case 8:
                data[at:at] = SPLICES[int(random.integers(len(SPLICES)))]
    return bytes(data)


def mutate_text(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return text with changed numbers, fields and lines, or changed as bytes."""
    if random.random() < 0.3:
        return mutate_bytes(content, others, random)
    text = content.decode("latin-1")
    for _ in range(int(random.integers(1, 4))):
        lines = text.splitlines(keepends=True) or [""]
        row = int(random.integers(len(lines)))
        match int(random.integers(6)):
            case 0 | 1:
                numbers = list(re.finditer(r"-?\d+(\.\d+)?", lines[row]))
                if numbers:
                    number = numbers[int(random.integers(len(numbers)))]
                    lines[row] = lines[row][: number.start()] + _odd(ODD_NUMBERS, random) + lines[row][number.end() :]
            case 2:
                fields = re.split(r"([,|;\t ])", lines[row])
                i, j = random.integers(len(fields), size=2)
                fields[i], fields[j] = fields[j], fields[i]
                lines[row] = "".join(fields)
            case 3:
                lines.insert(row, lines[int(random.integers(len(lines)))])
            case 4:
                del lines[row]
            case 5:
                lines[row] = lines[row][: int(random.integers(len(lines[row]) + 1))]
        text = "".join(lines)
    return text.encode("latin-1")


def _odd(values: Sequence[Any], random: Random) -> Any:
    return values[int(random.integers(len(values)))]


def mutate_message(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return a GRIB or BUFR message with some keys set by ecCodes, or changed as bytes."""
    if random.random() < 0.5:
        return mutate_bytes(content, others, random)
    handle = eccodes.codes_new_from_message(content)
    try:
        bufr = content.startswith(b"BUFR")
        if bufr:
            eccodes.codes_set(handle, "unpack", 1)
        names = _keys(handle, bufr)
        for _ in range(int(random.integers(1, 4))):
            _set_key(handle, names[int(random.integers(len(names)))], random)
        if bufr:
            eccodes.codes_set(handle, "pack", 1)
        return eccodes.codes_get_message(handle)
    except eccodes.CodesInternalError:
        return mutate_bytes(content, others, random)
    finally:
        eccodes.codes_release(handle)


def _keys(handle: int, bufr: bool) -> list[str]:
    if bufr:
        iterator = eccodes.codes_bufr_keys_iterator_new(handle)
        step, name = eccodes.codes_bufr_keys_iterator_next, eccodes.codes_bufr_keys_iterator_get_name
    else:
        iterator = eccodes.codes_keys_iterator_new(handle)
        step, name = eccodes.codes_keys_iterator_next, eccodes.codes_keys_iterator_get_name
    names = []
    while step(iterator) and len(names) < 2000:
        names.append(name(iterator))
    return names


def _set_key(handle: int, name: str, random: Random) -> None:
    value = _odd((0, 1, -1, 2, 3, 7, 63, 255, 65535, 10**6, 1e20, -5.5, eccodes.CODES_MISSING_LONG), random)
    try:
        eccodes.codes_set(handle, name, value)
    except eccodes.CodesInternalError:
        return


def mutate_hdf(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return netCDF-4 with changed attributes, names or values; netCDF-3 is changed as bytes."""
    if random.random() < 0.4 or not content.startswith(b"\x89HDF"):
        return mutate_bytes(content, others, random)
    file = BytesIO(content)
    with h5py.File(file, "r+") as dataset:
        for _ in range(int(random.integers(1, 4))):
            _mutate_variable(dataset, random)
    return file.getvalue()


def _mutate_variable(dataset: h5py.File, random: Random) -> None:
    name = _odd(sorted(dataset), random)
    variable = dataset[name]
    if not isinstance(variable, h5py.Dataset):
        return
    try:
        match int(random.integers(5)):
            case 0 | 1:
                variable.attrs[_odd((*sorted(variable.attrs), "units", "scale_factor", "calendar"), random)] = _odd(
                    ODD_VALUES, random
                )
            case 2:
                del variable.attrs[_odd(sorted(variable.attrs), random)]
            case 3:
                dataset.move(name, _odd(("latitude", "time", "x", "t2m", f"{name}2"), random))
            case 4 if variable.size:
                values = variable[...]
                flat = values.reshape(-1)
                flat[random.integers(flat.size, size=3)] = _odd((0, -1, 1e30, float("nan"), 32767), random)
                variable[...] = values
    except (ValueError, TypeError, OSError, KeyError, RuntimeError, OverflowError, IndexError):
        return


def mutate_onnx(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return an ONNX file with changed weights, shapes, operators, versions or metadata, or changed as bytes."""
    if random.random() < 0.3:
        return mutate_bytes(content, others, random)
    model = onnx.load_from_string(content)
    graph = model.graph
    about = json.loads(next(entry.value for entry in model.metadata_props if entry.key == "dacycle"))
    match int(random.integers(8)):
        case 0:
            weights = _odd(graph.initializer, random)
            weights.raw_data = mutate_bytes(weights.raw_data or b"\0" * 8, [b"\0" * 64], random)
        case 1:
            weights = _odd(graph.initializer, random)
            weights.dims.append(int(_odd((0, 1, 2, -1, 2**40), random)))
        case 2:
            _odd(graph.node, random).op_type = _odd(("Relu", "Slice", "Concat", "NoSuch", "Loop"), random)
        case 3:
            value = _odd((*graph.input, *graph.output), random)
            value.type.tensor_type.elem_type = int(_odd((1, 2, 10, 11, 99), random))
        case 4:
            model.ir_version = int(_odd((0, 3, 14, 99), random))
        case 5:
            model.opset_import[0].version = int(_odd((0, 7, 21, 30, 999), random))
        case 6:
            entry = _odd(model.metadata_props, random)
            entry.value = _odd(("", "{", "null", "[]", "x", "1e9", '{"a": 1}'), random)
            return model.SerializeToString()
        case 7:
            about[_odd(sorted(about), random)] = _odd(("", "x", 0, -1, 1e300, [], ["z500"], {}, None, True), random)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "changed.onnx"
        path.write_bytes(model.SerializeToString())
        with suppress(DacycleError):  # without a right checksum that would be all that is found
            write_metadata(path, about)
        return path.read_bytes()


def mutate_yaml(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return YAML with a key changed, removed, added or moved, or changed as text."""
    if random.random() < 0.4:
        return mutate_text(content, others, random)
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    tree = yaml.load(content)
    node = tree
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = _odd(keys, random)
        if isinstance(node[key], dict | list) and random.random() < 0.7:
            node = node[key]
            continue
        match int(random.integers(3)):
            case 0:
                node[key] = _odd(ODD_VALUES, random)
            case 1:
                del node[key]
            case 2 if isinstance(node, dict):
                node[_odd(("x", "nmae", 1, ""), random)] = node.pop(key)
        break
    text = StringIO()
    yaml.dump(tree, text)
    return text.getvalue().encode()


def mutate_store(content: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Return a Zarr store (as a ZIP archive) with one of its files changed, or missing."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "store"
        archive = Path(name) / "store.zip"
        archive.write_bytes(content)
        shutil.unpack_archive(archive, folder)
        file = _odd(sorted(path for path in folder.rglob("*") if path.is_file()), random)
        if random.random() < 0.1:
            file.unlink()
        elif file.suffix == ".json" and random.random() < 0.7:
            file.write_text(json.dumps(_mutate_json(json.loads(file.read_text()), random)))
        else:
            file.write_bytes(mutate_bytes(file.read_bytes(), [content], random))
        return Path(shutil.make_archive(str(Path(name) / "changed"), "zip", folder)).read_bytes()


def _mutate_json(tree: Any, random: Random) -> Any:
    if not isinstance(tree, dict | list) or not tree or random.random() < 0.1:
        return _odd(ODD_VALUES, random)
    key = _odd(sorted(tree) if isinstance(tree, dict) else range(len(tree)), random)
    if random.random() < 0.1:
        del tree[key]
    else:
        tree[key] = _mutate_json(tree[key], random)
    return tree


Mutation = Callable[[bytes, Sequence[bytes], Random], bytes]
