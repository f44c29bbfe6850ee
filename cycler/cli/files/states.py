"""The command that lists the states of a product."""

from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dacycle.forecast_adapter.states.products import open_states
from dacycle.forecast_adapter.states.source import spell_channels

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
    """List the states of a product, newest first: whole, or with the fields and levels that are missing.

    Exit status 1 if none of them is whole.

    Example: dacycle states 'gfs.2026*/*/atmos/gfs.t*z.pgrb2.0p25.f000' --analyses
    """
    source = open_states(product, analyses)
    table = Table(box=SIMPLE_HEAD)
    for heading in ("time", "state", "what it is"):
        table.add_column(heading)
    whole = []
    for time in source.times[: -last - 1 : -1]:
        missing = source.gaps(time)
        whole += [] if missing else [time]
        table.add_row(str(time), f"missing {spell_channels(missing)}" if missing else "whole", source.describe(time))
    rows, columns = source.grid.shape
    console.print(f"{product}: {len(source.times)} times on a {rows} x {columns} grid", soft_wrap=True)
    console.print(f"newest whole state: {whole[0] if whole else f'none of the last {last}'}")
    console.print(table)
    for file, why in source.unreadable.items():
        console.print(f"left out: {file}: {why}", soft_wrap=True)
    if not whole:
        raise typer.Exit(1)
