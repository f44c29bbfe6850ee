"""The command `dacycle ingest`: tables made of files of observations."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from dacycle.common.files import write_whole
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, progress_bar, waiting
from dacycle.cycler.cli.texts import parse_hour, parse_setting
from dacycle.forecast_adapter.remote import is_url
from dacycle.forecast_adapter.state import STEP
from dacycle.obs_ingest.sources.base import Inventory, build_source
from dacycle.obs_ingest.sources.ingested import IngestedWindow, total, window_file, write_table
from dacycle.obs_ingest.sources.ingested import ingest as make_tables
from dacycle.obs_ingest.table import ObservationError, concatenate
from dacycle.obs_ingest.window import Window

app = typer.Typer()


@app.command()
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A source that reads files: synop_bufr, marine_bufr, temp_bufr, igra, aircraft_bufr, amv_bufr, "
            "prepbufr, isd, ghcnh, nnja, nnja_sondes, metar, olr_netcdf, precipitation_netcdf.",
        ),
    ],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Its files, folders, patterns or URLs.")],
    out: Annotated[Path, typer.Option(help="The Parquet table to write; for a period, the folder of its tables.")],
    time: Annotated[
        str | None, typer.Option(help="The analysis time whose window to read, e.g. 2018-11-20T12.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="Instead of --time: first analysis time of a period.")] = None,
    until: Annotated[str | None, typer.Option(help="Last analysis time of the period; windows are 6 h apart.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the source, e.g. stamp=start; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read observations of one window, (time - 3 h, time + 3 h], or of a period, into tables; print what was found.

    Values are decoded to SI units, with an error each. There is no quality control, which needs a cycle's background.

    For a period, OUT becomes a folder with a table for each window and `inventory.json`; an experiment reads it as
    `{source: table, path: OUT}`. Windows already made from the same files and options are kept, so that an interrupted
    command continues where it stopped.

    Example: dacycle ingest synop_bufr synop.bufr --time 2018-11-20T12 --out synop.parquet

    Example: dacycle ingest isd isd/2016 --since 2016-01-01T00 --until 2016-12-31T18 --out tables/isd
    """
    options = _options(option or [])
    if time is not None and since is None and until is None:
        content = _one_window(source, files, options, Window(parse_hour(time)), out)
    elif time is None and since is not None and until is not None:
        spec = {**options, "source": source, "path": files}
        content = _period(spec, parse_hour(since, "--since"), parse_hour(until, "--until"), out)
    else:
        raise typer.BadParameter("give --time for one window, or --since and --until for a period")
    if as_json:
        plain = {key: value for key, value in content.items() if key != "asked"}
        print_json(plain | {"inventory": _plain_inventory(content["inventory"])})
    else:
        _print_ingested(content)
    if not content["values"]:
        raise ObservationError(f"{', '.join(files)}: no value in {content['asked']}")


def _one_window(source: str, files: list[str], options: dict[str, Any], window: Window, out: Path) -> dict[str, Any]:
    """Write the table of one window; return what was found."""
    table, inventory = read_window({**options, "source": source}, files, window)
    if len(table):
        write_table(out, table)
    return {
        "source": source,
        "files": files,
        "out": out,
        "time": window.time,
        "asked": f"the window ({window.start}, {window.end}]; nothing was written",
        "values": len(table),
        "stations": int(table["station"].nunique()),
        "inventory": inventory,
    }


def _print_ingested(content: dict[str, Any]) -> None:
    source, out = content["source"], content["out"]
    if "time" in content:
        files = content["files"]
        name = Path(files[0]).name if len(files) == 1 else f"{len(files)} files"
        title = f"{source}, {name}, window of {np.datetime_as_string(content['time'], 'h')}"
        _print_inventory(title, content["inventory"])
        if content["values"]:
            console.print(f"{out}: {content['values']} values of {content['stations']} stations", soft_wrap=True)
        return
    title = f"{source}, {content['since']} to {content['until']}, {content['windows']} windows"
    _print_inventory(title, content["inventory"])
    made, empty = content["made"], content["empty"]
    console.print(f"{out}: {made} windows made, {content['windows'] - made} kept as they were", soft_wrap=True)
    if empty and content["values"]:
        console.print(f"warning: {empty} of the {content['windows']} windows hold no value", soft_wrap=True)


def _plain_inventory(inventory: Inventory) -> dict[str, Any]:
    """Return what was found, as for JSON."""
    content = inventory.as_dict()
    return content | {"latency_minutes": content.pop("latency")}


def read_window(spec: dict[str, Any], files: list[str], window: Window) -> tuple[pd.DataFrame, Inventory]:
    """Read a window from files as one source, so that of several versions of a report the last one counts.

    Raises:
        ObservationError: a file is not there, or none can be read.
    """
    for file in files:
        if not (is_url(file) or Path(file).exists()):
            raise ObservationError(f"{file}: no such file")
    reader = build_source({"cutoff": "none", **spec, "path": files}, None, 0)
    with waiting(f"reading {', '.join(files)}"):
        return reader.read(window)


def join_tables(tables: list[pd.DataFrame], files: Sequence[Path | str], window: Window) -> pd.DataFrame:
    """Return one table of all files; raise ObservationError where none of them has a value in the window."""
    table = concatenate(tables)
    if table.empty:
        raise ObservationError(
            f"{', '.join(map(str, files))}: no value in the window ({window.start}, {window.end}]; nothing was written"
        )
    return table


def _period(spec: dict[str, Any], start: np.datetime64, end: np.datetime64, folder: Path) -> dict[str, Any]:
    """Write the tables of a period; return what was found in all."""
    if start > end:
        raise typer.BadParameter("--since is after --until")
    if folder.is_file():
        raise ObservationError(f"{folder} is a file; the tables of a period go into a folder")
    times = np.arange(start, end + STEP, STEP)
    done: list[IngestedWindow] = []
    with progress_bar() as bar:
        task = bar.add_task(f"{spec['source']}", total=len(times))
        try:
            for window in make_tables(spec, times, folder):
                done.append(window)
                bar.update(task, advance=1, description=f"{spec['source']} {window_file(folder, window.time).stem}")
        except KeyboardInterrupt:
            console.print(f"interrupted after {len(done)} of {len(times)} windows; the same command goes on")
            raise typer.Exit(130) from None
    summed = total([window.inventory for window in done])
    content = {
        "source": spec,
        "total": summed.as_dict(),
        "windows": {window_file(folder, w.time).stem: w.inventory.as_dict() for w in done},
    }
    write_whole(folder / "inventory.json", json.dumps(content, indent=1, default=str).encode())
    return {
        "source": spec["source"],
        "files": spec["path"],
        "out": folder,
        "since": start,
        "until": end,
        "asked": f"any of the {len(done)} windows from {start} to {end}",
        "windows": len(done),
        "made": sum(window.made for window in done),
        "empty": sum(not any(window.inventory.values.values()) for window in done),
        "values": sum(summed.values.values()),
        "inventory": summed,
    }


def _options(texts: list[str]) -> dict[str, Any]:
    """Return the options of a source from texts KEY=VALUE, with values as in an experiment's file."""
    options = {}
    for text in texts:
        key, value = parse_setting(text, "--option")
        if value is None:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="--option")
        options[key] = value
    return options


def _print_inventory(title: str, inventory: Inventory) -> None:
    """Print a row for each count, and a line for each damaged file or message."""
    table = new_table("", title=title)
    table.show_header = False
    table.add_column("", justify="right", no_wrap=True)
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
    console.print(table, markup=False)
    for problem in inventory.problems:
        console.print(f"damaged: {problem}", soft_wrap=True, markup=False)
