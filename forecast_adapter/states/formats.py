"""The format of a file by its first bytes, and what to do with one that cannot be read as it is."""

import zipfile
from pathlib import Path

import h5py

from dacycle.common.foreign import reading
from dacycle.forecast_adapter.state import StateError

__all__ = ["GRIB", "NETCDF", "SUFFIXES", "ZARR_METADATA", "file_kind", "refuse_netcdf"]

GRIB = "GRIB"

NETCDF = {b"CDF\x01": "scipy", b"CDF\x02": "scipy", b"\x89HDF": "h5netcdf"}
"""xarray's engines for netCDF-3 and netCDF-4, by a file's first four bytes."""

SUFFIXES = (".nc", ".grib", ".grib1", ".grib2", ".grb", ".grb1", ".grb2")
"""Endings of the names of files that hold fields; other files are known by their content."""

ZARR_METADATA = ("zarr.json", ".zmetadata", ".zgroup")
"""Files of which every Zarr store has one."""

_ZIP = b"PK\x03\x04"
_REMEDIES = {
    b"\x1f\x8b": "is packed by gzip; unpack it with gunzip",
    b"BZh": "is packed by bzip2; unpack it with bunzip2",
    b"\xfd7zXZ": "is packed by xz; unpack it with unxz",
    b"\x28\xb5\x2f\xfd": "is packed by zstd; unpack it with unzstd",
    b"CDF\x05": "is netCDF in the variant CDF-5; convert it with `nccopy -k nc4 IN OUT`",
    b"\x0e\x03\x13\x01": "is HDF4; convert it to netCDF-4",
    b"<": "is a web page or XML, not data: look what it says, and fetch the file again",
    b"{": "is JSON, not data: look what it says, and fetch the file again",
}
"""By a file's first bytes, what it is and what to do."""


def file_kind(path: Path) -> str:
    """Return `GRIB`, or xarray's engine for a netCDF file; empty for one whose name and content tell of neither.

    A file that is named as data and has other content is taken for GRIB, which ecCodes finds behind bulletin headings.

    Raises:
        StateError: the file cannot be opened, or must be unpacked or converted first; names the remedy.
    """
    with reading(path, StateError), path.open("rb") as file:
        start = file.read(8)
    if start[:4] in NETCDF:
        return NETCDF[start[:4]]
    if start[:4] == b"GRIB":
        return GRIB
    named = path.suffix.lower() in SUFFIXES
    if start.startswith(_ZIP):
        raise StateError(f"{path}: {_archive(path)}")
    for begin, remedy in _REMEDIES.items():
        if start.startswith(begin) and (named or begin not in (b"<", b"{")):
            raise StateError(f"{path}: it {remedy}")
    return GRIB if named else ""


def _archive(path: Path) -> str:
    with reading(f"{path}: a ZIP archive", StateError), zipfile.ZipFile(path) as archive:
        names = [Path(name).name for name in archive.namelist()]
    what = " of a Zarr store" if set(names) & set(ZARR_METADATA) else ""
    return f"it is a ZIP archive{what}; unpack it with `unzip` and give what comes out"


def refuse_netcdf(path: Path) -> None:
    """Raise StateError for netCDF-4 that opens and cannot be read: variables in groups, or packed by a missing filter.

    Only the header is looked at.
    """
    with h5py.File(path, "r") as file:
        groups = [name for name, member in file.items() if isinstance(member, h5py.Group)]
        variables = [member for member in file.values() if isinstance(member, h5py.Dataset)]
        if groups and all(variable.ndim < 2 for variable in variables):
            remedy = f"write one to a file of its own, e.g. by `ncks -G : -g {groups[0]} IN OUT`"
            raise StateError(f"{path}: its variables are in groups ({', '.join(groups)}); {remedy}")
        for variable in variables:
            _refuse_filters(path, variable)


def _refuse_filters(path: Path, variable: h5py.Dataset) -> None:
    packing = variable.id.get_create_plist()
    for i in range(packing.get_nfilters()):
        code, _, _, label = packing.get_filter(i)
        if not h5py.h5z.filter_avail(code):
            what = f"{label.decode(errors='replace') or 'an HDF5 filter'} ({code})"
            remedy = "repack the file where it can be read, e.g. by `nccopy -F none IN OUT`"
            raise StateError(
                f"{path}: {variable.name[1:]} is packed by {what}, which cannot be unpacked here; {remedy}"
            )
