"""The command that lists the states of a product."""

import warnings
from typing import Annotated

import numpy as np
import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dacycle.forecast_adapter.remote import is_url
from dacycle.forecast_adapter.states.grib import HumidityWarning
from dacycle.forecast_adapter.states.products import is_zarr, open_states
from dacycle.forecast_adapter.states.source import StateSource, spell_channels

app = typer.Typer()
console = Console()


@app.command()
def states(
    product: Annotated[
        str,
        typer.Argument(
            metavar="PRODUCT",
            help="A Zarr store, a GRIB or netCDF file, a folder or a pattern of them; a URL of one.",
        ),
    ],
    last: Annotated[int, typer.Option(min=1, help="Number of times to read, from the newest.")] = 12,
    analyses: Annotated[bool, typer.Option("--analyses", help="Ignore forecasts in GRIB.")] = False,
) -> None:
    """List the states of a product, newest first: whole, or why they cannot be used.

    A state is called whole once all of it has been read and found plausible. States of a store at a URL are not
    transferred for that: its chunks are looked for, and the list says so. Exit status 1 if none of them is whole.

    Example: dacycle states 'gfs.2026*/*/atmos/gfs.t*z.pgrb2.0p25.f000' --analyses
    """
    source = open_states(product, analyses)
    table = Table(box=SIMPLE_HEAD)
    for heading in ("time", "state", "what it is"):
        table.add_column(heading)
    whole, remote = [], is_url(product) and is_zarr(product)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HumidityWarning)  # a note of the state, not of the list
        for time in track(source.times[: -last - 1 : -1], "reading", console=console, transient=True):
            trouble, good = _verdict(source, time, remote)
            whole += [] if trouble else [time]
            table.add_row(str(time), trouble or good, source.describe(time))
    rows, columns = source.grid.shape
    console.print(f"{product}: {len(source.times)} times on a {rows} x {columns} grid", soft_wrap=True)
    console.print(f"newest whole state: {whole[0] if whole else f'none of the last {last}'}")
    console.print(table)
    for what, why in source.left_out.items():
        console.print(f"left out: {what}: {why}", soft_wrap=True)
    if not whole:
        raise typer.Exit(1)


def _verdict(source: StateSource, time: np.datetime64, remote: bool) -> tuple[str, str]:
    """Return what is wrong with a state, empty where nothing is, and what to call it then."""
    if remote:
        missing = source.gaps(time)
        return f"missing {spell_channels(missing)}" if missing else "", "all fields are there, not read"
    return source.trouble(time), "whole"
