"""Write the forecasts and analyses of runs, and their reference, as files that WeatherBench-X reads as they are.

Its `PredictionsFromXarray` and `TargetsFromXarray` take WeatherBench2's names of variables, and by default ECMWF's of
dimensions: `time` and `prediction_timedelta` of forecasts, `time` alone of what they are held against.

    RUN.zarr              headline fields of the forecasts by start (`time`), lead, level
    RUN-analyses.zarr     headline fields of the analyses, as forecasts of lead 0
    reference.zarr        headline fields of the reference at all valid times of both that it holds
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.comparison.runs import Comparison
from dacycle.cycler.operations.output import weatherbench2
from dacycle.cycler.verification.drift import forecasts
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.states.dataset_writer import write_zarr
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["write_weatherbench"]


def write_weatherbench(comparison: Comparison, world: World, folder: Path) -> list[Path]:
    """Write the files of every run at the times that all have; return their paths.

    Raises:
        ArchiveError: what is stored is damaged.
        StateError: a file is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written, valid = [], set(comparison.times)
    for name, branch in comparison.runs.items():
        stem, attrs = name.replace("/", "-"), {"experiment": name, "world": world.name}
        path = folder / f"{stem}-analyses.zarr"
        write_zarr(path, _analyses(branch, comparison.times, world.grid), {"title": f"analyses of {name}", **attrs})
        written.append(path)
        starts = [pd.Timestamp(start) for start in sorted(comparison.scored[name]["start"].unique())]
        if starts:
            kept = forecasts(branch)
            valid |= {start + pd.Timedelta(hours=int(lead)) for start in starts for lead in kept["lead"].values}
            path = folder / f"{stem}.zarr"
            fields = (weatherbench2(kept.sel(time=[start]).load()) for start in starts)
            write_zarr(path, fields, {"title": f"forecasts of {name}", **attrs})
            written.append(path)
    held = [time for time in sorted(valid) if np.datetime64(time, "h") in world.reference]
    if held:
        path = folder / "reference.zarr"
        write_zarr(path, _reference(world, held), {"title": f"reference of {world.name}", "world": world.name})
        written.append(path)
    return written


def _analyses(branch: Branch, times: Iterable[pd.Timestamp], grid: Grid) -> Iterator[xr.Dataset]:
    for time in times:
        yield weatherbench2(_at(branch.headline_fields("analysis", time).astype(float), time, grid))


def _reference(world: World, times: Iterable[pd.Timestamp]) -> Iterator[xr.Dataset]:
    channels = [index(name) for name in HEADLINE]
    for time in times:
        fields = world.reference.array(np.datetime64(time, "h"))[channels]
        yield weatherbench2(_at(fields, time, world.grid)).isel(prediction_timedelta=0, drop=True)


def _at(fields: np.ndarray, time: pd.Timestamp, grid: Grid) -> xr.Dataset:
    """Return headline fields (6, H, W) by channel, as forecasts of lead 0 are kept."""
    dims: Sequence[str] = ("time", "lead", "latitude", "longitude")
    coordinates = {"time": [time], "lead": [0], "latitude": grid.latitude, "longitude": grid.longitude}
    values = np.asarray(fields, np.float32)[:, None, None]
    return xr.Dataset({name: (dims, values[i]) for i, name in enumerate(HEADLINE)}, coords=coordinates)
