"""Make small artificial states and write them to files as the centres do, for tests of the readers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import xarray as xr

from dacycle.forecast_adapter.channels import CHANNELS, NAMES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.state import make_state, to_dataset
from tests.worlds import profile

GRID = Grid("15deg", 90 - 15.0 * np.arange(13), 15.0 * np.arange(24))
START = np.datetime64("2024-03-01T00", "h")
SHORT = {"u10": "10u", "v10": "10v", "t2m": "2t", "msl": "msl"}


def made_state(hours: int = 0) -> xr.DataArray:
    """Return the state at START + hours; each hour has another one."""
    mean, std = profile()
    noise = np.random.default_rng(hours).uniform(-1, 1, (len(NAMES), *GRID.shape))
    values = mean[:, None, None] + std[:, None, None] * noise
    return make_state(values.astype(np.float32), GRID, START + hours)


def chunks(dataset: xr.Dataset, **sizes: int) -> dict[str, dict[str, Any]]:
    """Return the encoding of a store with chunks of these sizes, and one chunk along other dimensions."""
    return {
        str(name): {"chunks": tuple(min(sizes.get(str(dim), n), n) for dim, n in variable.sizes.items())}
        for name, variable in dataset.items()
    }


def made_dataset(*hours: int) -> xr.Dataset:
    """Return states in the WeatherBench2 schema."""
    return xr.concat([to_dataset(made_state(hour)) for hour in hours or (0,)], "time")


def write_grib(
    path: Path,
    state: xr.DataArray,
    channels: list[str] | None = None,
    edition: int = 2,
    keys: Mapping[str, object] | None = None,
    heights: bool = False,
    first: float = 0.0,
    run: np.datetime64 | None = None,
) -> Path:
    """Append a state's channels to a GRIB file, through ecCodes alone.

    Args:
        path: of the file.
        state: on GRID.
        channels: which; all by default.
        edition: 1 or 2.
        keys: of ecCodes, set before the values: centre, packing, version.
        heights: write geopotential heights (`gh`) instead of geopotential.
        first: the first column's longitude.
        run: start of the forecast; the valid time by default.
    """
    valid = state.time.values.astype("datetime64[h]")
    start = valid if run is None else run
    turn = int(first / 15)
    with path.open("ab") as file:
        for channel in CHANNELS:
            if channels is not None and channel.name not in channels:
                continue
            name = SHORT.get(channel.name, channel.variable)
            values = state.sel(channel=channel.name).values.astype(float)
            if name == "z" and heights:
                name, values = "gh", values / 9.80665
            message = eccodes.codes_grib_new_from_samples(
                f"regular_ll_{'pl' if channel.level else 'sfc'}_grib{edition}"
            )
            described = {
                "Ni": 24, "Nj": 13,
                "latitudeOfFirstGridPointInDegrees": 90.0, "latitudeOfLastGridPointInDegrees": -90.0,
                "longitudeOfFirstGridPointInDegrees": first,
                "longitudeOfLastGridPointInDegrees": (first + 345.0) % 360,
                "iDirectionIncrementInDegrees": 15.0, "jDirectionIncrementInDegrees": 15.0,
                "dataDate": int(str(start)[:10].replace("-", "")), "dataTime": 100 * int(str(start)[11:13]),
                "stepRange": str(int((valid - start) // np.timedelta64(1, "h"))),
                **(keys or {}),
                "shortName": name, "bitsPerValue": 24,
            }  # fmt: skip
            for key, value in described.items():
                eccodes.codes_set(message, key, value)
            if channel.level:
                eccodes.codes_set(message, "level", channel.level)
            eccodes.codes_set_values(message, np.roll(values, -turn, axis=1).ravel())
            eccodes.codes_write(message, file)
            eccodes.codes_release(message)
    return path
