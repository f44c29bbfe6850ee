"""The command that makes datasets of real states, for training and verification."""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from numpy.typing import NDArray

from dacycle.common.locks import locked
from dacycle.common.times import parse_time
from dacycle.cycler.cli.options import Dask
from dacycle.cycler.cli.show import console, progress_bar
from dacycle.cycler.parallel.clusters import spread
from dacycle.forecast_adapter.durations import parse_duration
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.state import as_hour
from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.worlds.dataset import Plan, build_dataset, plan_dataset
from dacycle.forecast_adapter.worlds.manifest import DatasetError, verify_dataset
from dacycle.forecast_adapter.worlds.reference import EXTRA_FIELDS, Reference

__all__ = ["app"]

app = typer.Typer()

PROCESSES = 4
"""Processes where the options say nothing."""


@app.command()
def dataset(
    source: Annotated[
        str | None,
        typer.Argument(help="A product: Zarr store, folder, file or pattern; local, or a URL (gs://, s3://)."),
    ] = None,
    folder: Annotated[Path | None, typer.Argument(help="The folder to write; existing files are kept.")] = None,
    grid: Annotated[str, typer.Option(help="5.625deg, 1.5deg or 0.25deg.")] = "5.625deg",
    since: Annotated[str | None, typer.Option(help="First time, e.g. 2015-01-01T00; default: the first.")] = None,
    until: Annotated[str | None, typer.Option(help="Last time; a date takes its whole day; default: the last.")] = None,
    every: Annotated[str, typer.Option(help="Step between times, counted from 00 UTC.")] = "6h",
    beside: Annotated[
        list[str] | None,
        typer.Option(help="A product of the rain, OLR, dewpoint or pressure that SOURCE lacks; may be repeated."),
    ] = None,
    static: Annotated[str | None, typer.Option(help="File of orography and land_sea_mask, if SOURCE has none.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A time to leave out permanently; may be repeated.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="Processes, 4 by default, or workers of the Dask cluster; each fetches two objects at once."
        ),
    ] = None,
    dask: Dask = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be fetched, and end.")] = False,
    verify: Annotated[Path | None, typer.Option(help="Check the files of this dataset against their SHA-256.")] = None,
) -> None:
    """Make a dataset: states of a product on a chosen grid, for training and verification.

    Products are ERA5 (WeatherBench2, ARCO-ERA5, GRIB or netCDF of the Climate Data Store), ECMWF open data and GFS. The
    folder is what `dacycle world`, `backgrounds` and `train` take. Run the command again to continue after an
    interruption, or with a later --until to add newer times.

    Example: dacycle dataset gs://weatherbench2/datasets/era5/1959-2023_01_10-6h-64x32_equiangular_conservative.zarr
    era5 --grid 5.625deg --since 2015-01-01 --until 2022-12-31

    Example: dacycle dataset era5.zarr era5 --since 2015-01-01 --plan

    Example: dacycle dataset era5.zarr era5 --beside cds-single-levels --since 2015-01-01

    Example: dacycle dataset --verify era5
    """
    if verify is not None:
        _verify(verify)
        return
    if source is None or folder is None:
        raise typer.BadParameter("a product and a folder are needed, or --verify FOLDER")
    times = _times(source, since, until, every, without or [])
    if plan:
        _show(plan_dataset(source, folder, get_grid(grid), times, beside or ()), folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".lock", f"dataset {folder}", DatasetError), progress_bar() as bar:
        task = bar.add_task(str(folder), total=None)
        try:
            with spread(workers if dask else workers or PROCESSES, dask, folder / ".prefect") as each:
                manifest = build_dataset(
                    source, folder, get_grid(grid), times, static, each,
                    fetched=lambda done, total: bar.update(task, completed=done, total=total),
                    beside=beside or (),
                    requests=2 * (workers or PROCESSES),
                )  # fmt: skip
        except KeyboardInterrupt:
            console.print("interrupted; what was fetched is kept, the same command goes on")
            raise typer.Exit(130) from None
    for note in manifest.notes:
        console.print(f"note: {note}", soft_wrap=True)
    reference = Reference(folder)
    there = reference.surface_names(reference.times[-1])
    absent = [name for short, (name, *_) in EXTRA_FIELDS.items() if short not in there]
    if absent:
        remedy = "training and cycles go on without what needs them; --beside PLACE, into another folder, adds them"
        console.print(f"not in the product, or without values: {', '.join(absent)}; {remedy}", soft_wrap=True)
    states = [entry.times for entry in manifest.files.values() if entry.times is not None]
    size = sum(entry.size for entry in manifest.files.values()) / 1e6
    count, first, last = sum(int(t[2]) for t in states), min(t[0] for t in states), max(t[1] for t in states)
    console.print(f"{folder}: {count} states on {grid}, {first} to {last}, {size:.1f} MB", soft_wrap=True)


def _show(plan: Plan, folder: Path) -> None:
    """Print what a dataset still needs."""
    if not len(plan.times):
        console.print(f"{folder}: has all these times; nothing is to be fetched")
        return
    rows = [f"{folder}: {len(plan.times)} times to make, {plan.times[0]} to {plan.times[-1]}"]
    for transfer in plan.transfers:
        hours = " or ".join(f"{transfer.size / rate / 3.6e9:.2g} h at {rate} MB/s" for rate in (5, 50))
        rows.append(f"  {transfer.product}: {transfer.requests} requests, {_bytes(transfer.size)}, {hours}")
    if not plan.transfers:
        rows.append("  no product is a remote store: nothing is to be fetched, except remote files, which are copied")
    rows.append(f"  disk: at most {_bytes(plan.size)}, and {_bytes(plan.between)} while it is made")
    console.print("\n".join(rows), soft_wrap=True, highlight=False)


def _bytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _verify(folder: Path) -> None:
    complaints = verify_dataset(folder)
    if complaints:
        raise DatasetError(
            "\n".join([*complaints, "delete what is damaged and run its `dacycle dataset` command again"])
        )
    console.print(f"{folder}: every file is the one that was written")


def _times(source: str, start: str | None, end: str | None, every: str, without: list[str]) -> NDArray[np.datetime64]:
    """Return the times that the options ask for; a bound that is not given is the product's."""
    try:
        step = parse_duration(every)
        first, last = (None if text is None else pd.Timestamp(parse_time(text)) for text in (start, end))
        left_out = np.array([as_hour(text) for text in without], "datetime64[h]")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if step < pd.Timedelta(hours=1) or pd.Timedelta(days=1) % step:
        raise typer.BadParameter(f"{every} does not divide a day into whole hours", param_hint="--every")
    if first is None or last is None:
        available = open_states(source).times
        first = pd.Timestamp(available[0]) if first is None else first
        last = pd.Timestamp(available[-1]) if last is None else last
    if end is not None and len(end) <= len("2024-01-31"):
        last = last + pd.Timedelta(hours=23)
    times = pd.date_range(first.ceil(step), last, freq=step).values.astype("datetime64[h]")
    times = times[~np.isin(times, left_out)]
    if not len(times):
        raise typer.BadParameter(f"there is no time from {first} to {last} every {every}")
    return np.asarray(times)
