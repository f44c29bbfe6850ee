"""The command that runs a forecast from a state in a file."""

import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dacycle.cycler.cli.options import Threads
from dacycle.cycler.cli.show import console, progress_bar
from dacycle.cycler.cli.texts import parse_hour
from dacycle.forecast_adapter.channels import HEADLINE, index, readable
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.model import ForecastError, ForecastModel, load_model
from dacycle.forecast_adapter.state import STEP, StateError, make_state
from dacycle.forecast_adapter.states.files import FORMATS, file_format, read_state, write_states
from dacycle.forecast_adapter.states.grib import HumidityWarning
from dacycle.forecast_adapter.states.grib_writer import MISSING
from dacycle.forecast_adapter.states.products import open_states

app = typer.Typer()


@app.command()
def forecast(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A state: GRIB, or netCDF or Zarr in the WeatherBench2 schema.")
    ],
    out: Annotated[Path, typer.Option(help=f"The file to write; its suffix sets the format: {', '.join(FORMATS)}.")],
    model: Annotated[str, typer.Option(help="A packaged or added model's name, or an ONNX file.")] = "mini",
    lead: Annotated[str, typer.Option(help="Longest lead, a multiple of 6 h such as 120h or 10d.")] = "120h",
    time: Annotated[
        str | None, typer.Option(help="Start, e.g. 2024-01-04T00; required where FILE holds several times.")
    ] = None,
    previous: Annotated[
        Path | None, typer.Option(help="A file with the state 6 h before the start, where FILE does not hold it.")
    ] = None,
    centre: Annotated[int, typer.Option(min=0, max=65535, help="Originating centre in GRIB, e.g. 98.")] = MISSING,
    threads: Threads = 1,
) -> None:
    """Run a forecast model from a state in a file; write its states in the WeatherBench2 schema, or as GRIB2.

    Models take two frames, the start and 6 h before it. Where only one is given, it is used for both, with a note.

    Example: dacycle forecast gfs.grib2 --model mini --lead 120h --out forecast.nc
    """
    steps = _steps(lead)
    file_format(out)  # refuse an unknown ending before the work
    start = None if time is None else parse_hour(time)
    network = load_model(model, threads)
    earlier, current, notes = read_frames(file, previous, start, network.grid)
    for note in notes:
        console.print(f"note: {note}", soft_wrap=True)
    attrs = {
        "title": f"Forecast of {network.name}",
        "forecast_start": str(current.time.values.astype("datetime64[h]")),
        "source": current.attrs["source"],
        "model": network.name,
        "model_digest": network.digest,
        "model_world": network.world,
        "notes": "; ".join(notes),
    }
    summary = _summary_table(network, current)
    try:
        write_states(
            out, _forecast(network, earlier, current, steps, summary), attrs, current.time.values, centre=centre
        )
    except ForecastError as error:
        raise StateError(f"{file}: {error}") from error
    except KeyboardInterrupt:
        console.print("interrupted; nothing was written")
        raise typer.Exit(130) from None
    console.print(summary)
    console.print(f"{out}: {steps + 1} states on {network.grid.name}, the start included", soft_wrap=True)


def read_frames(
    file: Path, previous: Path | None, start: np.datetime64 | None, grid: Grid
) -> tuple[xr.DataArray, xr.DataArray, list[str]]:
    """Return the states 6 h before the start and at the start, on `grid`, and notes on them."""
    current = _read(file, grid, start)
    start = current.time.values.astype("datetime64[h]")
    notes = [note for note in current.attrs["notes"].split("; ") if note]
    if previous is None and start - STEP in open_states(file):
        previous = file
    if previous is not None:
        return _read(previous, grid, start - STEP), current, notes
    notes.append(f"one frame only: the state at {start} also stands for the one 6 h before it")
    return current, current, notes


def _read(file: Path, grid: Grid, time: np.datetime64 | None) -> xr.DataArray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", HumidityWarning)  # shown as a note
        return read_state(file, grid, time)


def _forecast(
    network: ForecastModel, earlier: xr.DataArray, current: xr.DataArray, steps: int, summary: Table
) -> Iterator[xr.DataArray]:
    """Yield the start and every state of the forecast, with a progress bar; add a row a day to the summary."""
    start, first = current.time.values, current.values
    states = network.forecast(earlier.values[None], first[None], steps)
    yield current
    with progress_bar() as bar:
        task = bar.add_task(network.name, total=steps)
        for step, (array,) in enumerate(states, 1):
            yield make_state(array, network.grid, start + step * STEP)
            if step % 4 == 0 or step == steps:
                _summarise(summary, 6 * step, array, first, network.grid)
            bar.advance(task)


def _summary_table(network: ForecastModel, start: xr.DataArray) -> Table:
    hour = np.datetime_as_string(start.time.values, "h")
    table = Table(
        title=f"{network.name} from {hour}: global mean, and RMS change since the start",
        caption=f"Trained in the world {network.world!r}: expect no skill from a state of another world.",
        box=SIMPLE_HEAD,
    )
    table.add_column("lead", justify="right")
    table.add_column("")
    for name in HEADLINE:
        table.add_column(f"{name}\n{readable(name)[1]}", justify="right")
    _summarise(table, 0, start.values, start.values, network.grid)
    return table


def _summarise(table: Table, hours: int, array: NDArray[np.float32], first: NDArray[np.float32], grid: Grid) -> None:
    """Add a lead's area-weighted global means, and the RMS differences from the first state."""
    means, changes = [], []
    for name in HEADLINE:
        factor, _ = readable(name)
        field, start = array[index(name)].astype(float), first[index(name)].astype(float)
        means.append(f"{factor * (field * grid.weights).mean():.5g}")
        changes.append(f"{factor * np.sqrt(((field - start) ** 2 * grid.weights).mean()):.4g}")
    table.add_row(f"{hours} h", "mean", *means)
    if hours:
        table.add_row("", "change", *changes)


def _steps(lead: str) -> int:
    match = re.fullmatch(r"([0-9]+)([hd])", lead.strip())
    hours = int(match[1]) * {"h": 1, "d": 24}[match[2]] if match else 0
    if not hours or hours % 6:
        raise typer.BadParameter(
            f"{lead!r} is not a positive multiple of 6 h, such as 120h or 10d", param_hint="--lead"
        )
    return hours // 6
