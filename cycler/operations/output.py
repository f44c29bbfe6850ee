"""Write what an archive holds to files for other tools: GRIB2, netCDF and Zarr in WeatherBench2's schema.

Analyses and backgrounds are whole states by valid time. Of forecasts an archive keeps the headline fields. In GRIB each
is a message. Otherwise they are variables by start (`time`) and `prediction_timedelta`, with the levels of all headline
fields, and NaN where a variable is not kept at a level.
"""

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.experiment import STEP
from dacycle.cycler.verification.drift import forecasts
from dacycle.forecast_adapter.channels import CHANNELS, HEADLINE, WB2_NAMES, index
from dacycle.forecast_adapter.states.dataset_writer import write_netcdf, write_zarr
from dacycle.forecast_adapter.states.files import file_format, write_states
from dacycle.forecast_adapter.states.grib_writer import BITS, MISSING, new_grib, write_fields

__all__ = ["Kind", "times_of", "weatherbench2", "write_output"]


class Kind(StrEnum):
    """Name what of an archive is written."""

    analysis = "analysis"
    background = "background"
    forecast = "forecast"


def times_of(branch: Branch, kind: Kind) -> pd.DatetimeIndex:
    """Return the times of the analyses or backgrounds that are kept, or the starts of the committed forecasts."""
    if kind is Kind.forecast:
        return pd.DatetimeIndex(forecasts(branch)["time"].values.astype("datetime64[s]"))
    return branch.kept(kind.value)  # the two of the cold start have no background


def write_output(
    branch: Branch, kind: Kind, times: Iterable[pd.Timestamp], path: Path, bits: int = BITS, centre: int = MISSING
) -> None:
    """Write one file, which is seen when it is whole.

    Args:
        branch: the experiment.
        kind: what is written.
        times: some of `times_of`, ascending; states are read as the file grows.
        path: the file; its ending decides the format (`states.files.FORMATS`).
        bits: bits of a value in GRIB.
        centre: number of the originating centre in GRIB.

    Raises:
        ArchiveError: there is no such time, or what is stored is damaged.
        StateError: the ending of the name is unknown.
    """
    attrs = {"title": f"{kind} of {branch.name}", "experiment": branch.name, "world": branch.experiment.world}
    if kind is not Kind.forecast:
        states = (branch.state(kind, time) for time in times)
        write_states(path, states, attrs, STEP.to_timedelta64() if kind is Kind.background else None, bits, centre)
        return
    stored = forecasts(branch)
    fields = (stored.sel(time=[time]).load() for time in times)
    format_name = file_format(path)
    if format_name == "GRIB2":
        _write_grib(fields, branch, path, bits, centre)
    else:
        write = write_zarr if format_name == "Zarr" else write_netcdf
        write(path, (weatherbench2(start) for start in fields), attrs)


def _write_grib(starts: Iterable[xr.Dataset], branch: Branch, path: Path, bits: int, centre: int) -> None:
    with new_grib(path, centre) as file:
        for fields in starts:
            start = fields["time"].values[0]
            for lead in fields["lead"].values:
                state = fields.isel(time=0).sel(lead=lead)
                write_fields(file, {name: state[name].values for name in HEADLINE}, branch.grid, start, int(lead), bits)


def weatherbench2(fields: xr.Dataset) -> xr.Dataset:
    """Return headline fields by channel, start and lead in WeatherBench2's schema of forecasts."""
    channels = [CHANNELS[index(name)] for name in HEADLINE]
    levels = sorted({channel.level for channel in channels if channel.level is not None})
    by_lead = fields.assign_coords(lead=pd.to_timedelta(fields["lead"].values, "h")).rename(lead="prediction_timedelta")
    variables: dict[str, xr.DataArray] = {}
    for channel in channels:
        field = by_lead[channel.name]
        if channel.level is not None:
            field = field.expand_dims(level=[channel.level], axis=2).reindex(level=levels)
        variables[WB2_NAMES[channel.variable]] = field.drop_attrs(deep=False).assign_attrs(units=channel.unit)
    dataset = xr.Dataset(variables)
    dataset["level"] = ("level", np.array(levels, np.int32), {"units": "hPa"})
    return dataset
