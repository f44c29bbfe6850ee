"""HDF5 files are checked in a process of their own, which survives what they do to it."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from dacycle.common import hdf5
from dacycle.common.errors import DacycleError
from dacycle.common.hdf5 import check_hdf5


def make(path: Path) -> Path:
    with h5py.File(path, "w") as file:
        for name in ("a", "b/c"):
            file.create_dataset(name, data=np.arange(1000.0), compression="gzip").attrs["units"] = "K"
    return path


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


def test_the_checking_process_is_started_again_when_it_has_ended(tmp_path: Path) -> None:
    check_hdf5(make(tmp_path / "a.nc"), DacycleError)
    process = hdf5._checker._process
    assert process is not None
    process.kill()
    process.wait()
    check_hdf5(make(tmp_path / "b.nc"), DacycleError)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DacycleError, match=r"y\.nc: cannot be read: No such file"):
        check_hdf5(tmp_path / "y.nc", DacycleError)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("import time; time.sleep(60)", "does not come to an end with it"),
        ("import os; os.abort()", "breaks down on it"),
    ],
)
def test_a_file_that_hangs_or_crashes_hdf5_costs_only_itself(
    program: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, evil = make(tmp_path / "z.nc"), tmp_path / "evil.py"
    evil.write_text(program)
    hdf5._checker._stop()
    with monkeypatch.context() as patched:
        patched.setattr(hdf5, "__file__", str(evil))
        patched.setattr(hdf5, "PATIENCE", 1.0)
        with pytest.raises(DacycleError, match=f"is damaged: HDF5 {says}"):
            check_hdf5(path, DacycleError)
    check_hdf5(make(tmp_path / "w.nc"), DacycleError)
