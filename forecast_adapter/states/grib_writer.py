"""Write fields to GRIB2 as other centres' tools expect them: one message a field, ECMWF's short names, WMO's tables.

The centre is 255, `missing`, because the user of dacycle need not be a centre. The usual keys hold the kind of a
message (an analysis, or a forecast with its start and step), its level, grid and packing.
"""

from collections.abc import Mapping
from typing import IO, Any

import eccodes
import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import CHANNELS, Channel, index
from dacycle.forecast_adapter.grid import Grid, GridError

__all__ = ["BITS", "write_fields"]

BITS = 16
"""Bits a value, as in most of ECMWF's files: two neighbouring values differ by 1/65536 of the field's range."""

# Short name, type of level and level (m above ground) of the surface channels; the others keep their variable's name.
_SURFACE = {
    "u10": ("10u", "heightAboveGround", 10),
    "v10": ("10v", "heightAboveGround", 10),
    "t2m": ("2t", "heightAboveGround", 2),
    "msl": ("msl", "meanSea", 0),
}
_MISSING = 255
_RESEARCH = 2  # code table 1.3: research products


def write_fields(
    file: IO[bytes],
    fields: Mapping[str, NDArray[np.floating]],
    grid: Grid,
    start: np.datetime64,
    lead: int | None,
    bits: int = BITS,
) -> None:
    """Append a GRIB2 message for each field to an open file, packed by CCSDS.

    Args:
        file: the file to append to.
        fields: (H, W) in SI units by channel.
        grid: a regular grid.
        start: time of the analysis, or start of the forecast (UTC).
        lead: hours since the start of a forecast; None: the fields are an analysis.
        bits: bits of a value, 1 to 24.

    Raises:
        GridError: rows or columns are not evenly spaced, which this grid type cannot express.
    """
    message = _template(grid, start, lead, bits)
    try:
        for name, values in fields.items():
            for key, value in _parameter(CHANNELS[index(name)]).items():
                eccodes.codes_set(message, key, value)
            eccodes.codes_set_values(message, np.asarray(values, np.float64).ravel())
            eccodes.codes_write(message, file)
    finally:
        eccodes.codes_release(message)


def _parameter(channel: Channel) -> dict[str, Any]:
    name, kind, level = _SURFACE.get(channel.name, (channel.variable, "isobaricInhPa", channel.level))
    return {"shortName": name, "typeOfLevel": kind, "level": level}


def _template(grid: Grid, start: np.datetime64, lead: int | None, bits: int) -> int:
    """Return a message that lacks only parameter, level and values."""
    message = eccodes.codes_grib_new_from_samples("GRIB2")
    when = np.datetime_as_string(start, "h")
    keys = {
        "tablesVersion": eccodes.codes_get(message, "tablesVersionLatest"),
        "centre": _MISSING,
        "subCentre": _MISSING,
        "productionStatusOfProcessedData": _RESEARCH,
        "significanceOfReferenceTime": 0 if lead is None else 1,
        "typeOfProcessedData": 0 if lead is None else 1,
        "typeOfGeneratingProcess": 0 if lead is None else 2,
        "generatingProcessIdentifier": _MISSING,
        "dataDate": int(when[:10].replace("-", "")),
        "dataTime": 100 * int(when[11:13]),
        "stepUnits": 1,
        "endStep": lead or 0,
        "packingType": "grid_ccsds",
        "bitsPerValue": bits,
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
