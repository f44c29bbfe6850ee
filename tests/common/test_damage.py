"""Files that would bring a C library down are found before they are opened."""

import os
from pathlib import Path

import eccodes
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


def with_octet(content: bytes, section: int, octet: int, value: int) -> bytes:
    """Return a GRIB2 message with another octet in a section, both counted from 1 as in WMO's tables."""
    at = 16
    while content[at + 4] != section:
        at += int.from_bytes(content[at : at + 4], "big")
    return content[: at + octet - 1] + bytes([value]) + content[at + octet :]


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
    (tmp_path / "bad.grib2").write_bytes(with_octet(good, 5, 20, 255))
    with pytest.raises(DacycleError, match=r"bad\.grib2: is damaged: ecCodes breaks down on it"):
        check_grib(tmp_path / "bad.grib2", DacycleError)
    source = open_states(tmp_path)
    assert "bad.grib2" in str(source.left_out)
    os.unlink(tmp_path / "good.grib2")
    with pytest.raises(StateError, match="ecCodes breaks down on it"):
        open_states(tmp_path)


def test_what_is_kept_of_a_damaged_file_is_not_taken_for_the_next(shared: Path, tmp_path: Path) -> None:
    """Of messages of several fields it keeps the rest, and finds it again under the next file's handle."""
    good = (shared / "grid/gfs_2p5_2011011012_f120.grib2").read_bytes()
    for i in range(5):
        stops = tmp_path / f"stops{i}.grib2"
        stops.write_bytes(with_octet(good, 5, 5, 200))
        check_grib(stops, DacycleError)
        (tmp_path / f"bad{i}.grib2").write_bytes(with_octet(good, 5, 20, 255))
        with pytest.raises(DacycleError, match=r"bad\d\.grib2: is damaged: ecCodes breaks down on it"):
            check_grib(tmp_path / f"bad{i}.grib2", DacycleError)


def test_more_values_than_points_are_not_decoded(shared: Path, tmp_path: Path) -> None:
    """Two thousand million values would take minutes and fill the memory."""
    good = (shared / "grid/gfs_2p5_2011011012_f120.grib2").read_bytes()
    (tmp_path / "many.grib2").write_bytes(with_octet(good, 5, 6, 0x7F))
    with pytest.raises(DacycleError, match=r"many\.grib2: is damaged: a field says that it has 21\d+ values on a grid"):
        check_grib(tmp_path / "many.grib2", DacycleError)


def test_fields_that_cannot_be_decoded_are_for_the_reader(tmp_path: Path) -> None:
    (tmp_path / "no.grib2").write_bytes(b"GRIB" + bytes(50))
    check_grib(tmp_path / "no.grib2", DacycleError)


@pytest.mark.parametrize("packing", ["grid_jpeg", "grid_png"])
def test_an_image_with_more_points_than_values_is_refused(tmp_path: Path, packing: str) -> None:
    """EcCodes would write the rest beyond the memory of the values, and break down then or later."""
    message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    points = eccodes.codes_get(message, "numberOfDataPoints")
    eccodes.codes_set_values(message, np.linspace(200, 300, points))
    eccodes.codes_set(message, "packingType", packing)
    content = eccodes.codes_get_message(message)
    eccodes.codes_release(message)
    (tmp_path / "good.grib2").write_bytes(content)
    check_grib(tmp_path / "good.grib2", DacycleError)
    few = with_octet(with_octet(content, 5, 8, 0), 5, 9, 7)  # the number of coded values
    (tmp_path / "few.grib2").write_bytes(few)
    with pytest.raises(DacycleError, match=rf"few\.grib2: is damaged: a field of 7 coded values .* image of {points}"):
        check_grib(tmp_path / "few.grib2", DacycleError)


def test_a_message_in_which_fields_have_no_end_is_refused(tmp_path: Path) -> None:
    """A last section without a length: ecCodes finds its field again and again."""
    message = eccodes.codes_grib_new_from_samples("regular_ll_sfc_grib2")
    content = eccodes.codes_get_message(message)
    eccodes.codes_release(message)
    (tmp_path / "good.grib2").write_bytes(content)
    check_grib(tmp_path / "good.grib2", DacycleError)
    (tmp_path / "endless.grib2").write_bytes(with_octet(content, 7, 4, 0))
    with pytest.raises(DacycleError, match=r"endless\.grib2: is damaged: its message at byte 0 has more than 500"):
        check_grib(tmp_path / "endless.grib2", DacycleError)
