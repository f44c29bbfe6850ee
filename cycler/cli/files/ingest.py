"""Observations: files fetched from an archive, tables made of files."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dacycle.cycler.archive.disk import write_whole
from dacycle.cycler.cli.files.forecast import parse_time
from dacycle.cycler.cli.models.world import parse_years
from dacycle.forecast_adapter.remote import is_url
from dacycle.forecast_adapter.state import STEP
from dacycle.obs_ingest.sources import fetch as fetching
from dacycle.obs_ingest.sources.base import Inventory, build_source
from dacycle.obs_ingest.sources.ingested import IngestedWindow, total, window_file, write_table
from dacycle.obs_ingest.sources.ingested import ingest as make_tables
from dacycle.obs_ingest.table import ObservationError, concatenate
from dacycle.obs_ingest.window import Window

app = typer.Typer()
console = Console()

BAR = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A source that reads files: synop_bufr, temp_bufr, isd, ghcnh, metar, olr_netcdf, "
            "precipitation_netcdf.",
        ),
    ],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Its files, folders, patterns or URLs.")],
    out: Annotated[Path, typer.Option(help="The Parquet table to write; of a period, the folder of its tables.")],
    time: Annotated[
        str | None, typer.Option(help="The analysis time whose window to read, e.g. 2018-11-20T12.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Instead, the first analysis time of a period,")] = None,
    end: Annotated[str | None, typer.Option(help="and its last; a window every 6 h.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the source, e.g. stamp=start; may be repeated.")
    ] = None,
) -> None:
    """Read observations of one window, (time - 3 h, time + 3 h], or of a period, into tables; print what was found.

    Values are decoded, in SI units, with an error each; quality control is the cycle's, which has a background.

    Of a period, OUT becomes a folder with a table for each window and `inventory.json`; an experiment reads it as
    `{source: table, path: OUT}`. Windows already made of the same files and options are kept, so that an interrupted
    or repeated command goes on where it was.

    Example: dacycle ingest synop_bufr synop.bufr --time 2018-11-20T12 --out synop.parquet

    Example: dacycle ingest isd isd/2016 --start 2016-01-01T00 --end 2016-12-31T18 --out tables/isd
    """
    options = _options(option or [])
    if time is not None and start is None and end is None:
        _one_window(source, files, options, Window(parse_time(time)), out)
    elif time is None and start is not None and end is not None:
        _period({**options, "source": source, "path": files}, parse_time(start), parse_time(end), out)
    else:
        raise typer.BadParameter("give --time for one window, or --start and --end for a period")


def _one_window(source: str, files: list[str], options: dict[str, Any], window: Window, out: Path) -> None:
    tables, inventories = [], []
    for file in files:
        if not is_url(file) and not Path(file).exists():
            raise ObservationError(f"{file}: no such file")
        reader = build_source({"cutoff": "none", **options, "source": source, "path": file}, None, 0)
        with console.status(f"reading {file}"):
            table, inventory = reader.read(window)
        tables.append(table)
        inventories.append(inventory)
    title = f"{source}, window of {np.datetime_as_string(window.time, 'h')}"
    console.print(_inventory_table(title, [Path(file).name for file in files], inventories))
    for inventory in inventories:
        for problem in inventory.problems:
            console.print(f"damaged: {problem}", soft_wrap=True)
    whole = join(tables, files, window)
    write_table(out, whole)
    stations = whole["station"].nunique()
    console.print(f"{out}: {len(whole)} values of {stations} stations", soft_wrap=True)


def join(tables: list[pd.DataFrame], files: Sequence[Path | str], window: Window) -> pd.DataFrame:
    """One table of all files; ObservationError where the window holds nothing of any."""
    whole = concatenate(tables)
    if whole.empty:
        raise ObservationError(
            f"{', '.join(map(str, files))}: no value in the window ({window.start}, {window.end}]; nothing was written"
        )
    return whole


def _period(spec: dict[str, Any], start: np.datetime64, end: np.datetime64, folder: Path) -> None:
    if start > end:
        raise typer.BadParameter("--start is after --end")
    if folder.is_file():
        raise ObservationError(f"{folder} is a file; the tables of a period go into a folder")
    times = np.arange(start, end + STEP, STEP)
    done: list[IngestedWindow] = []
    with Progress(*BAR, console=console) as bar:
        task = bar.add_task(f"{spec['source']}", total=len(times))
        try:
            for window in make_tables(spec, times, folder):
                done.append(window)
                bar.update(task, advance=1, description=f"{spec['source']} {window_file(folder, window.time).stem}")
        except KeyboardInterrupt:
            console.print(f"interrupted after {len(done)} of {len(times)} windows; the same command goes on")
            raise typer.Exit(130) from None
    inventories = [window.inventory for window in done]
    whole = total(inventories)
    console.print(_inventory_table(f"{spec['source']}, {start} to {end}, {len(times)} windows", ["all"], [whole]))
    for problem in whole.problems:
        console.print(f"damaged: {problem}", soft_wrap=True)
    content = {
        "source": spec,
        "total": whole.as_dict(),
        "windows": {window_file(folder, w.time).stem: w.inventory.as_dict() for w in done},
    }
    write_whole(folder / "inventory.json", json.dumps(content, indent=1, default=str).encode())
    made = sum(window.made for window in done)
    console.print(f"{folder}: {made} windows made, {len(done) - made} kept as they were", soft_wrap=True)


def _options(texts: list[str]) -> dict[str, Any]:
    """Options of a source from KEY=VALUE, the values as in an experiment's file."""
    options = {}
    for text in texts:
        key, _, value = text.partition("=")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise typer.BadParameter(f"{text}: {value!r} is not a YAML value: {error}", param_hint="--option") from None
        if options[key] is None:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--option")
    return options


def _inventory_table(title: str, columns: list[str], inventories: list[Inventory]) -> Table:
    """One column a file, or the one of a period, and one row for each thing counted in any of them."""
    table = Table("", title=title)
    for name in columns:
        table.add_column(name, justify="right")
    rows: dict[str, list[str]] = {
        "files": [str(len(i.files)) for i in inventories],
        "unreadable": [str(i.unreadable) for i in inventories],
        "found": [str(i.found) for i in inventories],
        "decoded": [str(i.decoded) for i in inventories],
    }
    for reason in dict.fromkeys(reason for i in inventories for reason in i.skipped):
        rows[f"left out: {reason}"] = [str(i.skipped.get(reason, 0)) for i in inventories]
    rows["values missing"] = [str(i.missing) for i in inventories]
    rows["median latency"] = ["unknown" if i.latency is None else f"{i.latency:g} min" for i in inventories]
    for variable in dict.fromkeys(variable for i in inventories for variable in i.values):
        rows[f"values of {variable}"] = [str(i.values.get(variable, 0)) for i in inventories]
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"One of {', '.join(fetching.ARCHIVES)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write, with one for each year.")],
    years: Annotated[str, typer.Option(help="e.g. 2020,2021")],
    station: Annotated[
        list[str] | None, typer.Option(help="A station's identifier in the archive; may be repeated.")
    ] = None,
) -> None:
    """Fetch a source's files from the public archive of NOAA; files that are here and have not changed stay.

    Example: dacycle fetch isd --years 2016 --station 01416099999 --out isd
    """
    wanted = fetching.urls(source, parse_years(years), station or [])
    failures = []
    with Progress(*BAR, console=console) as bar:
        task = bar.add_task(source, total=len(wanted))
        for year, url in wanted:
            try:
                fetching.mirror(url, out / str(year))
            except ObservationError as error:
                failures.append(str(error))
            bar.advance(task)
    console.print(f"{out}: {len(wanted) - len(failures)} of {len(wanted)} files; a source's `path` is {out}/*/*")
    if failures:
        raise ObservationError("\n".join(failures))
