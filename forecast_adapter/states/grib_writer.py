"""Write fields to GRIB2 as other centres' tools expect them: one message a field, ECMWF's short names, WMO's tables.

The centre is 255, `missing`, unless one is given, because the user of dacycle need not be a centre. The usual keys hold
the kind of a message (an analysis, or a forecast with its start and step), its level, grid and packing.

What is written is checked twice. Each field is decoded as soon as it is packed. A file gets its name after cfgrib, with
which most users open GRIB, has found every field at its time and level, with the same values.
"""

import warnings
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import eccodes
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.forecast_adapter.channels import CHANNELS, Channel, index
from dacycle.forecast_adapter.grid import Grid, GridError
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.grib_messages import start_time, valid_time

__all__ = ["BITS", "MISSING", "GribFile", "new_grib", "pack", "write_fields"]

BITS = 16
"""Bits a value, as in most of ECMWF's files: two neighbouring values differ by 1/65536 of the field's range."""

# Short name, type of level and level (m above ground) of the surface channels; the others keep their variable's name.
_SURFACE = {
    "u10": ("10u", "heightAboveGround", 10),
    "v10": ("10v", "heightAboveGround", 10),
    "t2m": ("2t", "heightAboveGround", 2),
    "msl": ("msl", "meanSea", 0),
}
MISSING = 255
"""A centre, or a process, that is not named."""
_RESEARCH = 2  # code table 1.3: research products


Key = tuple[str, str, int, np.datetime64, np.datetime64]
"""Short name, type of level, level, start and valid time of a field."""


class GribFile:
    """A GRIB file while it is written, with a checksum of every field that readers must find in it.

    Args:
        file: the file to append to.
        centre: number of the originating centre (code table C-11) of what `write_fields` appends.

    Attributes:
        copies: whether messages of other files were copied into it.
    """

    def __init__(self, file: IO[bytes], centre: int = MISSING) -> None:
        self._file, self._checksums, self.copies = file, dict[Key, int](), False
        self.centre = centre

    def add(self, message: int) -> None:
        """Append a message, and remember what it holds."""
        self._checksums[_key(message)] = _checksum(eccodes.codes_get_values(message), _alternates(message))
        eccodes.codes_write(message, self._file)

    def copy(self, message: int) -> None:
        """Append a message of another file as it is."""
        self.copies = True
        eccodes.codes_write(message, self._file)

    def check(self, path: Path, name: Path) -> None:
        """Raise StateError unless cfgrib finds every field that was added; `name` is what the file will be called."""
        import cfgrib  # half a second

        options: dict[str, Any] = {"indexpath": "", "squeeze": False}
        names = sorted({key[0] for key in self._checksums}) if self.copies else [None]
        missing = dict(self._checksums)
        with reading(f"{name}: what was written, by cfgrib", StateError), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of cfgrib's own calls of xarray
            for short in names:
                selection = {} if short is None else {"filter_by_keys": {"shortName": short}}
                for dataset in cfgrib.open_datasets(str(path), {**options, **selection}, decode_timedelta=True):
                    for key, values in _fields(dataset):
                        if missing.get(key) in (_checksum(values), _checksum(values, by_size=True)):
                            del missing[key]
        if missing:
            (short, _, level, start, valid), more = next(iter(missing)), len(missing) - 1
            others = f" and {more} more" if more else ""
            raise StateError(
                f"{name}: cfgrib does not read {short} at level {level}, {start}, valid {valid}{others}, as it was "
                "written; nothing was kept. Write netCDF or Zarr instead, or read the background with other packing"
            )


@contextmanager
def new_grib(path: Path, centre: int = MISSING) -> Iterator[GribFile]:
    """Yield a GRIB file to write; it gets its name when the block ends and readers find in it what was added.

    Raises:
        StateError: cfgrib reads something else.
        OSError: the file cannot be written.
    """
    with whole(path) as temporary:
        with temporary.open("wb") as file:
            written = GribFile(file, centre)
            yield written
        written.check(temporary, path)


def pack(message: int, values: NDArray[np.floating], bits: int, label: str, remedy: str) -> None:
    """Set the values (n,) of a message with at least so many bits, and decode them again.

    Raises:
        StateError: its packing cannot hold them, to 1/2^bits of their range; names the field and the remedy.
    """
    values = np.asarray(values, np.float64).ravel()
    with reading(f"{label}: packed in GRIB, its values", StateError):
        if eccodes.codes_get(message, "packingType") != "grid_ieee":  # whole floating-point numbers
            eccodes.codes_set(message, "bitsPerValue", bits)
        eccodes.codes_set_values(message, values)
        decoded = eccodes.codes_get_values(message)
    allowed = np.ptp(values) / (2**bits - 1) + 2 * np.spacing(np.float32(np.abs(values).max()))
    worst = float(np.abs(decoded - values).max()) if len(decoded) == len(values) else np.inf
    if not worst <= allowed:
        kind = eccodes.codes_get(message, "packingType")
        raise StateError(f"{label}: packed as {kind} it is off by up to {worst:.2g}; {remedy}")


def _key(message: int) -> Key:
    name, kind, level = (eccodes.codes_get(message, key) for key in ("shortName", "typeOfLevel", "level"))
    return str(name), str(kind), int(level), start_time(message), valid_time(message)


def _alternates(message: int) -> bool:
    """Return whether rows go to and fro, so that readers give them in another order than the file's."""
    return bool(
        eccodes.codes_is_defined(message, "alternativeRowScanning")
        and eccodes.codes_get(message, "alternativeRowScanning")
    )


def _checksum(values: NDArray[np.floating], by_size: bool = False) -> int:
    """Return the CRC-32 of values as float32, in their order or sorted by size."""
    flat = np.asarray(values, np.float32).ravel()
    return zlib.crc32((np.sort(flat) if by_size else flat).tobytes())


def _fields(dataset: xr.Dataset) -> Iterator[tuple[Key, NDArray[np.floating]]]:
    """Yield the fields of a dataset of cfgrib, opened without squeezing, one by one."""
    for variable in dataset.data_vars.values():
        name, kind = variable.attrs["GRIB_shortName"], variable.attrs["GRIB_typeOfLevel"]
        for field in _planes(variable, [dim for dim in ("number", "time", "step", kind) if dim in variable.dims]):
            start, valid = _minute(field["time"].values), _minute(field["time"].values + field["step"].values)
            yield (name, kind, int(field[kind].values), start, valid), field.values


def _minute(time: Any) -> np.datetime64:
    return np.datetime64(time[()], "m")


def _planes(variable: xr.DataArray, dims: list[str]) -> Iterator[xr.DataArray]:
    for where in np.ndindex(*(variable.sizes[dim] for dim in dims)):
        yield variable.isel(dict(zip(dims, where, strict=True)))


def write_fields(
    file: GribFile,
    fields: Mapping[str, NDArray[np.floating]],
    grid: Grid,
    start: np.datetime64,
    lead: int | None,
    bits: int = BITS,
) -> None:
    """Append a GRIB2 message for each field to a file, packed by CCSDS.

    Args:
        file: the file to append to.
        fields: (H, W) in SI units by channel.
        grid: a regular grid.
        start: time of the analysis, or start of the forecast (UTC).
        lead: hours since the start of a forecast; None: the fields are an analysis.
        bits: bits of a value, 1 to 24.

    Raises:
        GridError: rows or columns are not evenly spaced, which this grid type cannot express.
        StateError: a field does not fit into its packing.
    """
    message = _template(grid, start, lead, file.centre)
    try:
        for name, values in fields.items():
            for key, value in _parameter(CHANNELS[index(name)]).items():
                eccodes.codes_set(message, key, value)
            pack(message, values, bits, f"{name}, {start}", "write it with more --bits, or as netCDF or Zarr")
            file.add(message)
    finally:
        eccodes.codes_release(message)


def _parameter(channel: Channel) -> dict[str, Any]:
    name, kind, level = _SURFACE.get(channel.name, (channel.variable, "isobaricInhPa", channel.level))
    return {"shortName": name, "typeOfLevel": kind, "level": level}


def _template(grid: Grid, start: np.datetime64, lead: int | None, centre: int) -> int:
    """Return a message that lacks only parameter, level and values."""
    message = eccodes.codes_grib_new_from_samples("GRIB2")
    when = np.datetime_as_string(start, "h")
    keys = {
        "tablesVersion": eccodes.codes_get(message, "tablesVersionLatest"),
        "centre": centre,
        "subCentre": MISSING,
        "productionStatusOfProcessedData": _RESEARCH,
        "significanceOfReferenceTime": 0 if lead is None else 1,
        "typeOfProcessedData": 0 if lead is None else 1,
        "typeOfGeneratingProcess": 0 if lead is None else 2,
        "generatingProcessIdentifier": MISSING,
        "dataDate": int(when[:10].replace("-", "")),
        "dataTime": 100 * int(when[11:13]),
        "stepUnits": 1,
        "endStep": lead or 0,
        "packingType": "grid_ccsds",
        **_grid_keys(grid),
    }
    for key, value in keys.items():
        eccodes.codes_set(message, key, value)
    return message


def _grid_keys(grid: Grid) -> dict[str, Any]:
    steps = [np.diff(axis) for axis in (grid.longitude, -grid.latitude)]
    if not all(np.allclose(step, step[0], atol=1e-6) for step in steps):
        raise GridError(f"grid {grid.name} is not evenly spaced, which GRIB needs; write netCDF or Zarr instead")
    (rows, columns), (across, down) = grid.shape, (float(step.mean()) for step in steps)
    return {
        "gridType": "regular_ll",
        "shapeOfTheEarth": 6,  # a sphere of 6371229 m
        "Ni": columns,
        "Nj": rows,
        "latitudeOfFirstGridPointInDegrees": float(grid.latitude[0]),
        "latitudeOfLastGridPointInDegrees": float(grid.latitude[-1]),
        "longitudeOfFirstGridPointInDegrees": float(grid.longitude[0]),
        "longitudeOfLastGridPointInDegrees": float(grid.longitude[-1]),
        "iDirectionIncrementInDegrees": across,
        "jDirectionIncrementInDegrees": down,
    }
