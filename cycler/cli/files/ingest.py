"""Commands on observations: tables made of files, and files fetched from a public archive."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from dacycle.common.files import write_whole
from dacycle.cycler.cli.options import parse_hour, parse_setting, parse_years, progress_bar
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
    out: Annotated[Path, typer.Option(help="The Parquet table to write; for a period, the folder of its tables.")],
    time: Annotated[
        str | None, typer.Option(help="The analysis time whose window to read, e.g. 2018-11-20T12.")
    ] = None,
    start: Annotated[str | None, typer.Option(help="Instead of --time: first analysis time of a period.")] = None,
    end: Annotated[str | None, typer.Option(help="Last analysis time of the period; windows are 6 h apart.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the source, e.g. stamp=start; may be repeated.")
    ] = None,
) -> None:
    """Read observations of one window, (time - 3 h, time + 3 h], or of a period, into tables; print what was found.

    Values are decoded to SI units, with an error each. There is no quality control, which needs a cycle's background.

    For a period, OUT becomes a folder with a table for each window and `inventory.json`; an experiment reads it as
    `{source: table, path: OUT}`. Windows already made from the same files and options are kept, so that an interrupted
    command continues where it stopped.

    Example: dacycle ingest synop_bufr synop.bufr --time 2018-11-20T12 --out synop.parquet

    Example: dacycle ingest isd isd/2016 --start 2016-01-01T00 --end 2016-12-31T18 --out tables/isd
    """
    options = _options(option or [])
    if time is not None and start is None and end is None:
        _one_window(source, files, options, Window(parse_hour(time)), out)
    elif time is None and start is not None and end is not None:
        _period(
            {**options, "source": source, "path": files}, parse_hour(start, "--start"), parse_hour(end, "--end"), out
        )
    else:
        raise typer.BadParameter("give --time for one window, or --start and --end for a period")


def _one_window(source: str, files: list[str], options: dict[str, Any], window: Window, out: Path) -> None:
    table, inventory = read_window({**options, "source": source}, files, window)
    title = f"{source}, window of {np.datetime_as_string(window.time, 'h')}"
    column = Path(files[0]).name if len(files) == 1 else f"{len(files)} files"
    console.print(_inventory_table(title, column, inventory))
    for problem in inventory.problems:
        console.print(f"damaged: {problem}", soft_wrap=True)
    table = join_tables([table], files, window)
    write_table(out, table)
    stations = table["station"].nunique()
    console.print(f"{out}: {len(table)} values of {stations} stations", soft_wrap=True)


def read_window(spec: dict[str, Any], files: list[str], window: Window) -> tuple[pd.DataFrame, Inventory]:
    """Read a window from files as one source, so that of several versions of a report the last one counts.

    Raises:
        ObservationError: a file is not there, or none can be read.
    """
    for file in files:
        if not (is_url(file) or Path(file).exists()):
            raise ObservationError(f"{file}: no such file")
    reader = build_source({"cutoff": "none", **spec, "path": files}, None, 0)
    with console.status(f"reading {', '.join(files)}"):
        return reader.read(window)


def join_tables(tables: list[pd.DataFrame], files: Sequence[Path | str], window: Window) -> pd.DataFrame:
    """Return one table of all files; raise ObservationError where none of them has a value in the window."""
    table = concatenate(tables)
    if table.empty:
        raise ObservationError(
            f"{', '.join(map(str, files))}: no value in the window ({window.start}, {window.end}]; nothing was written"
        )
    return table


def _period(spec: dict[str, Any], start: np.datetime64, end: np.datetime64, folder: Path) -> None:
    if start > end:
        raise typer.BadParameter("--start is after --end")
    if folder.is_file():
        raise ObservationError(f"{folder} is a file; the tables of a period go into a folder")
    times = np.arange(start, end + STEP, STEP)
    done: list[IngestedWindow] = []
    with progress_bar(console) as bar:
        task = bar.add_task(f"{spec['source']}", total=len(times))
        try:
            for window in make_tables(spec, times, folder):
                done.append(window)
                bar.update(task, advance=1, description=f"{spec['source']} {window_file(folder, window.time).stem}")
        except KeyboardInterrupt:
            console.print(f"interrupted after {len(done)} of {len(times)} windows; the same command goes on")
            raise typer.Exit(130) from None
    summed = total([window.inventory for window in done])
    console.print(_inventory_table(f"{spec['source']}, {start} to {end}, {len(times)} windows", "all", summed))
    for problem in summed.problems:
        console.print(f"damaged: {problem}", soft_wrap=True)
    content = {
        "source": spec,
        "total": summed.as_dict(),
        "windows": {window_file(folder, w.time).stem: w.inventory.as_dict() for w in done},
    }
    write_whole(folder / "inventory.json", json.dumps(content, indent=1, default=str).encode())
    count = sum(window.made for window in done)
    console.print(f"{folder}: {count} windows made, {len(done) - count} kept as they were", soft_wrap=True)


def _options(texts: list[str]) -> dict[str, Any]:
    """Return the options of a source from texts KEY=VALUE, with values as in an experiment's file."""
    options = {}
    for text in texts:
        key, value = parse_setting(text, "--option")
        if value is None:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--option")
        options[key] = value
    return options


def _inventory_table(title: str, column: str, inventory: Inventory) -> Table:
    """Return a row for each count."""
    table = Table("", title=title)
    table.add_column(column, justify="right")
    rows: dict[str, object] = {
        "files": len(inventory.files),
        "unreadable": inventory.unreadable,
        "found": inventory.found,
        "decoded": inventory.decoded,
        **{f"left out: {reason}": count for reason, count in inventory.skipped.items()},
        "values missing": inventory.missing,
        "median latency": "unknown" if inventory.latency is None else f"{inventory.latency:g} min",
        **{f"values of {variable}": count for variable, count in inventory.values.items()},
    }
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"One of {', '.join(fetching.ARCHIVES)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write, with a subfolder for each year.")],
    years: Annotated[str, typer.Option(help="Years, e.g. 2020,2021.")],
    station: Annotated[
        list[str] | None, typer.Option(help="A station's identifier in the archive; may be repeated.")
    ] = None,
) -> None:
    """Fetch a source's files from the public archive of NOAA; unchanged files are not fetched again.

    Example: dacycle fetch isd --years 2016 --station 01416099999 --out isd
    """
    urls = fetching.urls(source, parse_years(years), station or [])
    failures = []
    with progress_bar(console) as bar:
        task = bar.add_task(source, total=len(urls))
        for year, url in urls:
            try:
                fetching.mirror(url, out / str(year))
            except ObservationError as error:
                failures.append(str(error))
            bar.advance(task)
    console.print(f"{out}: {len(urls) - len(failures)} of {len(urls)} files; a source's `path` is {out}/*/*")
    if failures:
        raise ObservationError("\n".join(failures))
