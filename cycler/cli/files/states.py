"""The command that lists the states of a product."""

import warnings
from typing import Annotated, Any

import numpy as np
import typer

from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, shown
from dacycle.forecast_adapter.remote import is_url
from dacycle.forecast_adapter.states.grib import HumidityWarning
from dacycle.forecast_adapter.states.products import is_zarr, open_states
from dacycle.forecast_adapter.states.source import StateSource, spell_channels

app = typer.Typer()


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
    as_json: AsJson = False,
) -> None:
    """List the states of a product, newest first: whole, or why they cannot be used.

    A state is called whole once all of it has been read and found plausible. States of a store at a URL are not
    transferred for that: its chunks are looked for, and the list says so. Exit status 1 if none of them is whole.

    Example: dacycle states 'gfs.2026*/*/atmos/gfs.t*z.pgrb2.0p25.f000' --analyses
    """
    source = open_states(product, analyses)
    found, remote = [], is_url(product) and is_zarr(product)
    times = source.times[: -last - 1 : -1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HumidityWarning)  # a note of the state, not of the list
        for time in shown(times, "reading", len(times)):
            trouble, good = _verdict(source, time, remote)
            found.append(
                {"time": time, "whole": not trouble, "state": trouble or good, "what_it_is": source.describe(time)}
            )
    whole = [state["time"] for state in found if state["whole"]]
    rows, columns = source.grid.shape
    content = {
        "product": product,
        "times": len(source.times),
        "grid": {"rows": rows, "columns": columns},
        "newest_whole": whole[0] if whole else None,
        "states": found,
        "left_out": dict(source.left_out),
    }
    if as_json:
        print_json(content)
    else:
        _print_states(content)
    if not whole:
        raise typer.Exit(1)


def _print_states(content: dict[str, Any]) -> None:
    grid, newest = content["grid"], content["newest_whole"]
    console.print(
        f"{content['product']}: {content['times']} times on a {grid['rows']} x {grid['columns']} grid", soft_wrap=True
    )
    none = f"none of the last {len(content['states'])}"
    console.print(f"newest whole state: {none if newest is None else newest}")
    table = new_table("time", "state", "what it is")
    table.columns[0].no_wrap = True
    for state in content["states"]:
        table.add_row(str(state["time"]), state["state"], state["what_it_is"])
    console.print(table, markup=False)
    for what, why in content["left_out"].items():
        console.print(f"left out: {what}: {why}", soft_wrap=True, markup=False)


def _verdict(source: StateSource, time: np.datetime64, remote: bool) -> tuple[str, str]:
    """Return what is wrong with a state, empty where nothing is, and what to call it then."""
    if remote:
        missing = source.gaps(time)
        return f"missing {spell_channels(missing)}" if missing else "", "all fields are there, not read"
    return source.trouble(time), "whole"
