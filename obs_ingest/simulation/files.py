"""Simulated observations as files: the draws of simulated sources in the formats that sources of files read.

A folder is written whole or not at all, and describes its content in `simulated.json`. Any process draws the same
values, so that a folder that is there either holds the requested observations already, or is an error.

The files differ from a draw in the process, beyond rounding, by:

* Receipt. BUFR has no element for it. It is written as in ECMWF's archive, in a local section of that centre's form: to
  the second for soundings; for other reports that of their bulletin, at the next multiple of 5 minutes, which divides
  the cutoff, so that the same reports are late. OLR has the experiment's `latency`. Missing reports are in no file.
* Names. Stations without a WMO number have a WIGOS identifier without an issuer, such as `0-0-0-ENGM`.
* Height of sondes. A simulated sounding begins above the model's ground, which is not at the height of its station. The
  height is left out, because the check of the lowest thickness would reject it.
* Checks of soundings. Temperatures have representativeness errors that differ from level to level, which real soundings
  do not have: the limits for sensors reject 3 % of all values. With `tolerance: 3` they reject hardly any beside the
  gross errors in z and t and the values that depend on them.
* Humidity is written as a dewpoint, and so never 0 or less: 1e-12 instead. A gross error below 0, which the gross
  limits reject in a draw, becomes dry air, which the background check judges.
* Motion vectors state a confidence of 90 %. An aircraft's pressure is that of its flight level in whole metres.
* Errors are stated by the readers. That of precipitation grows with the value read, also with a gross error; in a draw
  it grows with the value without the gross error.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from dacycle.common.files import whole
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.simulation.bufr_encoder import encode_synops, encode_temps
from dacycle.obs_ingest.simulation.bufr_platforms import encode_aircraft, encode_marine, encode_motion_vectors
from dacycle.obs_ingest.sources.base import Source, build_source
from dacycle.obs_ingest.table import ObservationError
from dacycle.obs_ingest.window import Window

__all__ = ["NOTE", "SIMULATED", "simulate"]

SIMULATED: dict[str, str] = {
    "synop_bufr": "stations",
    "temp_bufr": "sondes",
    "olr_netcdf": "olr",
    "marine_bufr": "marine",
    "aircraft_bufr": "aircraft",
    "amv_bufr": "motion_vectors",
}
"""Sources of files that can be simulated, and the simulated source whose draws fill them."""

NOTE = "simulated.json"
"""The file that describes a folder of simulated observations."""

_ENCODERS = {
    "synop_bufr": encode_synops,
    "temp_bufr": encode_temps,
    "marine_bufr": encode_marine,
    "aircraft_bufr": encode_aircraft,
    "amv_bufr": encode_motion_vectors,
}
_EPOCH = np.datetime64("1970-01-01T00", "h")


def simulate(spec: Mapping[str, Any], world: World, seed: int, times: Sequence[np.datetime64]) -> int:
    """Draw the observations of a source of files, and write them into the folder that is its `path`, a file per time.

    They are the draws of the simulated source of the same `name` with its default options. Missing reports are in no
    file; late ones are there with the time of their receipt (a field of OLR has none).

    Args:
        spec: of a source in `SIMULATED`, as in an experiment.
        world: its reference is observed.
        seed: the experiment's.
        times: analysis times, in order.

    Returns:
        The number of files that were written; 0 where they were there.

    Raises:
        ObservationError: the folder holds something else, or a value does not fit into the format.
    """
    kind, path = spec["source"], spec.get("path")
    name = spec.get("name", kind)
    if not isinstance(path, str):
        raise ObservationError(f"source {name}: path is {path!r}, not a folder to write simulated observations into")
    folder = Path(path)
    source = build_source({"source": SIMULATED[kind], "name": name, "cutoff": "none"}, world, seed)
    note = {
        "source": name,
        "drawn from": world.name,
        "seed": seed,
        "first": str(times[0]),
        "last": str(times[-1]),
        "digest of the first day": _digest(source, times[:4]),
    }
    if _is_there(folder, note):
        return 0
    try:
        with whole(folder, replace=False) as temporary:
            temporary.mkdir()
            written = sum(_write(kind, source, time, temporary) for time in times)
            (temporary / NOTE).write_text(json.dumps(note, indent=2) + "\n")
    except OSError:
        if not _is_there(folder, note):  # else another process was quicker
            raise
        return 0
    return written


def _digest(source: Source, times: Sequence[np.datetime64]) -> str:
    """Return a digest of a draw: it changes with the world, the station list, the seed and the way of drawing."""
    tables = [source.read(Window(time))[0] for time in times]
    content = b"".join(
        column.tobytes()
        for table in tables
        for column in (table["value"].to_numpy(np.float32), table["received"].to_numpy())
    )
    return hashlib.sha256(content).hexdigest()[:16]


def _is_there(folder: Path, note: Mapping[str, Any]) -> bool:
    """Return whether the folder holds the requested observations; raise ObservationError if it holds anything else."""
    if not folder.is_dir():
        if folder.exists() or set("*?[") & set(str(folder)):
            raise ObservationError(f"{folder}: observations are simulated into a folder, which this is not")
        return False
    try:
        present = json.loads((folder / NOTE).read_text())
    except FileNotFoundError:
        if any(folder.iterdir()):
            raise ObservationError(f"{folder}: holds files that were not simulated; nothing is added to them") from None
        return False
    except (OSError, ValueError) as error:
        raise ObservationError(f"{folder / NOTE}: cannot be read: {error}") from None
    other = [key for key, value in note.items() if present.get(key) != value]
    if other:
        differences = ", ".join(f"{key} {present.get(key)}, not {note[key]}" for key in other)
        raise ObservationError(f"{folder}: holds other simulated observations ({differences}); remove it to make these")
    return True


def _write(kind: str, source: Source, time: np.datetime64, folder: Path) -> bool:
    """Write the file of a time; return False if nothing is observed then."""
    table, _ = source.read(Window(time))
    if not len(table):
        return False
    path = folder / f"{pd.Timestamp(time):%Y%m%dT%H}{'.nc' if kind == 'olr_netcdf' else '.bufr'}"
    if kind == "olr_netcdf":
        _olr(table).to_netcdf(path, engine="h5netcdf")
    else:
        path.write_bytes(_ENCODERS[kind](table))
    return True


def _olr(table: pd.DataFrame) -> xr.Dataset:
    """Return the field of a mean by the CF conventions, NaN where nothing was observed."""
    field = table.pivot(index="latitude", columns="longitude", values="value").sort_index(ascending=False)
    end = table["time"].iloc[0]
    start = end - pd.Timedelta(hours=float(table["period"].iloc[0]))
    hours = [(t.to_datetime64() - _EPOCH) / np.timedelta64(1, "h") for t in (start, end)]
    attributes = {
        "standard_name": "toa_outgoing_longwave_flux",
        "long_name": "outgoing long-wave radiation",
        "units": "W m-2",
        "cell_methods": "time: mean",
    }
    clock = {"units": "hours since 1970-01-01", "calendar": "standard"}
    return xr.Dataset(
        {
            "olr": (("time", "latitude", "longitude"), field.to_numpy(np.float32)[None], attributes),
            "time_bounds": (("time", "bound"), np.array([hours]), clock),
        },
        {
            "time": ("time", hours[1:], {"standard_name": "time", "bounds": "time_bounds", **clock}),
            "latitude": ("latitude", field.index.to_numpy(), {"standard_name": "latitude", "units": "degrees_north"}),
            "longitude": (
                "longitude",
                field.columns.to_numpy(),
                {"standard_name": "longitude", "units": "degrees_east"},
            ),
        },
        {"Conventions": "CF-1.11"},
    )
