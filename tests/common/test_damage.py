"""Files that would bring a C library down are found before they are opened."""

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from dacycle.common import damage
from dacycle.common.contained import Contained
from dacycle.common.damage import check_grib, check_hdf5
from dacycle.common.errors import DacycleError
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.products import open_states


def make(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for name in ("a", "b/c"):
            file.create_dataset(name, data=np.arange(1000.0), compression="gzip").attrs["units"] = "K"
    return path


def with_bits(content: bytes, bits: int) -> bytes:
    """Return a GRIB2 message with another number of bits for each value (section 5, octet 20)."""
    at = 16
    while content[at + 4] != 5:
        at += int.from_bytes(content[at : at + 4], "big")
    return content[: at + 19] + bytes([bits]) + content[at + 20 :]


def test_a_right_file_passes_and_damage_is_named(tmp_path: Path) -> None:
    path = make(tmp_path / "x.nc")
    check_hdf5(path, DacycleError)
    content = bytearray(path.read_bytes())
    content[100:900] = bytes(800)
    path.write_bytes(content)
    with pytest.raises(DacycleError, match=r"x\.nc: as HDF5: cannot be read: \w+"):
        check_hdf5(path, DacycleError)
    make(path)
    check_hdf5(path, DacycleError)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DacycleError, match=r"y\.nc: cannot be read: No such file"):
        check_hdf5(tmp_path / "y.nc", DacycleError)


def test_what_was_the_machines_fault_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, evil = make(tmp_path / "z.nc"), tmp_path / "evil.py"
    evil.write_text("import os, sys; print(flush=True); sys.stdin.buffer.read(1); os.abort()")
    with monkeypatch.context() as patched:
        patched.setattr(damage, "_process", lambda: Contained(evil))
        with pytest.raises(
            DacycleError, match="is damaged: HDF5 breaks down on it, or does not come to an end in 20 s"
        ):
            check_hdf5(path, DacycleError)
    check_hdf5(path, DacycleError)


def test_a_field_that_ends_the_process_costs_its_file(shared: Path, tmp_path: Path) -> None:
    """With 255 bits for each value ecCodes ends the process that decodes it."""
    good = (shared / "grid/gfs_2p5_2011011012_f120.grib2").read_bytes()
    (tmp_path / "good.grib2").write_bytes(good)
    check_grib(tmp_path / "good.grib2", DacycleError)
    (tmp_path / "bad.grib2").write_bytes(with_bits(good, 255))
    with pytest.raises(DacycleError, match=r"bad\.grib2: is damaged: ecCodes breaks down on it"):
        check_grib(tmp_path / "bad.grib2", DacycleError)
    source = open_states(tmp_path)
    assert "bad.grib2" in str(source.left_out)
    os.unlink(tmp_path / "good.grib2")
    with pytest.raises(StateError, match="ecCodes breaks down on it"):
        open_states(tmp_path)


def test_fields_that_cannot_be_decoded_are_for_the_reader(tmp_path: Path) -> None:
    (tmp_path / "no.grib2").write_bytes(b"GRIB" + bytes(50))
    check_grib(tmp_path / "no.grib2", DacycleError)
