"""Whatever a library raises becomes one error with the file's name; text is read with and without byte order mark."""

import codecs
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from dacycle.common.errors import DacycleError
from dacycle.common.foreign import decode_text, plain_attributes, read_text, reading


class OwnError(DacycleError, ValueError):
    """Stand for the error of a component."""


@pytest.mark.parametrize(
    "problem",
    [
        KeyError("time"),
        IndexError(),
        zlib.error("bad"),
        struct.error("short"),
        OSError(5, "I/O"),
    ],
)
def test_any_exception_of_a_library_becomes_one_error_with_its_cause(problem: Exception) -> None:
    with (
        pytest.raises(OwnError, match=r"^a\.nc: t of 2024-01-01: cannot be read: \S") as caught,
        reading("a.nc: t of 2024-01-01", OwnError),
    ):
        raise problem
    assert caught.value.__cause__ is problem


def test_errors_of_dacycle_and_the_end_of_the_process_pass() -> None:
    for problem in (DacycleError("kept"), KeyboardInterrupt(), SystemExit(2)):
        with pytest.raises(type(problem)) as caught, reading("a.nc", OwnError):
            raise problem
        assert caught.value is problem


@pytest.mark.parametrize(
    "content",
    ["höhe: 3\n".encode(), codecs.BOM_UTF8 + "höhe: 3\n".encode(), "höhe: 3\n".encode("utf-16")],
)
def test_a_byte_order_mark_is_understood(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    assert read_text(tmp_path / "x.yaml", OwnError) == "höhe: 3\n"


def test_another_encoding_names_file_line_and_remedy(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes("name: a\nhöhe: 3\n".encode("latin-1"))
    with pytest.raises(OwnError, match=r"x\.yaml:2: is not in UTF-8; save the file as UTF-8"):
        read_text(tmp_path / "x.yaml", OwnError)


def test_text_of_data_keeps_its_length() -> None:
    latin = "STATION Ä 12\n".encode("latin-1")
    assert decode_text(codecs.BOM_UTF8 + latin, "x.csv", OwnError, strict=False) == "STATION ? 12\n"


def test_attributes_of_a_foreign_dataset_are_texts_and_numbers() -> None:
    odd = {"units": np.array([]), "flags": [1, 2], "scale": np.float32(0.5), "one": np.array(["K"]), "raw": b"K"}
    dataset = xr.Dataset({"t": ("x", [1.0], odd)}, {"x": ("x", [0.0], odd)}, odd)
    plain = plain_attributes(dataset)
    for attrs in (plain.attrs, plain["t"].attrs, plain["x"].attrs):
        assert attrs == {"units": "[]", "flags": "[1, 2]", "scale": 0.5, "one": "K", "raw": "K"}
