"""The command that assimilates one observation and draws the increment."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli.options import ExperimentFile, Threads
from dacycle.cycler.cli.show import console
from dacycle.cycler.cli.texts import cycle_time
from dacycle.cycler.experiment import cycle_id, load_experiment
from dacycle.cycler.report import increments, style, tables
from dacycle.cycler.single.observation import (
    Observation,
    Response,
    archived,
    first_guess,
    parse_quantity,
    respond,
    unit_of,
)
from dacycle.forecast_adapter.state import make_state
from dacycle.forecast_adapter.states.files import write_states

__all__ = ["app"]

app = typer.Typer()


@app.command("single-observation")
def single_observation(
    experiment: ExperimentFile,
    variable: Annotated[str, typer.Option(help="Observed variable: t2m, msl, u10, v10, ps, or z, q, u, v, t aloft.")],
    latitude: Annotated[float, typer.Option(help="Degrees north.")],
    longitude: Annotated[float, typer.Option(help="Degrees east, from -180 or from 0.")],
    departure: Annotated[str, typer.Option(help="Observation minus background, with its unit: 1.0K, -2hPa, 5m/s.")],
    out: Annotated[Path, typer.Option(help="Folder of figure, table and increment.")],
    pressure: Annotated[str | None, typer.Option(help="Pressure of an observation aloft, e.g. 500hPa.")] = None,
    error: Annotated[str | None, typer.Option(help="Observation error; default: that of the variable.")] = None,
    archive: Annotated[Path | None, typer.Option(help="Take the background from a cycle of this archive.")] = None,
    branch: Annotated[str | None, typer.Option(help="Experiment in that archive; default: the same name.")] = None,
    time: Annotated[
        str | None, typer.Option(help="Analysis time; default: the archive's last cycle, or the experiment's first.")
    ] = None,
    beyond: Annotated[
        float | None,
        typer.Option(
            min=1,
            help="Distance, km, beyond which the increment counts as far; default: the assimilator's reach.",
        ),
    ] = None,
    threads: Threads = 1,
) -> None:
    """Assimilate one observation with the experiment's assimilator, and draw its increment.

    Without --archive the background is that of a first cycle at --time, from the experiment's cold start.

    Example: dacycle single-observation deploy/experiments/demo.yaml --variable t --pressure 500hPa --latitude 50
    --longitude 10 --departure 1K --out single
    """
    if branch is not None and archive is None:
        raise typer.BadParameter("a branch is in an archive: give --archive as well", param_hint="--branch")
    unit = unit_of(variable)
    observation = Observation(
        variable,
        latitude,
        longitude,
        parse_quantity(departure, unit, "--departure"),
        None if pressure is None else parse_quantity(pressure, "Pa", "--pressure"),
        None if error is None else parse_quantity(error, unit, "--error"),
    )
    described, when = load_experiment(experiment), cycle_time(time)
    if archive is None:
        inputs, background = first_guess(described, when, threads)
    else:
        inputs, background = archived(described, Archive(archive), branch or described.name, when, threads)
    response = respond(inputs, background, observation, beyond)
    grid, std = inputs.world.grid, inputs.world.statistics.std
    write_whole(out / "increment.svg", increments.picture(response, grid, std).encode())
    write_whole(out / "increment.csv", response.table(std).to_csv(index=False, float_format="%.6g").encode())
    state = make_state(response.increment, grid, np.datetime64(background.time, "h"))
    about = f"increment (analysis minus background) of one observation of {variable}, by {inputs.assimilator.name}"
    write_states(out / "increment.nc", [state], {"title": about})
    console.print(_summary(response, inputs.assimilator.name, std))
    _print_observed(response, (float(grid.latitude[response.row]), float(grid.longitude[response.column])))
    console.print(f"{out}: increment.svg, increment.csv (all channels), increment.nc", soft_wrap=True)


def _print_observed(response: Response, cell: tuple[float, float]) -> None:
    observed = response.observation
    factor, unit = style.readable_variable(observed.variable)
    position = f"{observed.latitude:g} {observed.longitude:g}"
    level = "" if observed.pressure is None else f" at {observed.pressure / 100:g} hPa"
    console.print(
        f"{observed.variable}{level}, {position} (cell {cell[0]:.2f} {cell[1]:.2f}), "
        f"error {factor * response.error:.3g}: "
        f"O-B {factor * observed.departure:+.3g}, O-A {factor * response.left:+.3g} {unit}",
        soft_wrap=True,
    )


def _summary(response: Response, assimilator: str, std: NDArray) -> Table:
    """Return a row for each channel drawn: peak, its distance, width, and what is left beyond the stated distance."""
    background = response.background
    table = Table(
        "channel",
        title=f"increment by {assimilator}, {cycle_id(background.time)}, background: {background.origin}",
        title_justify="left",
        caption="half peak: radius of a circle as large as the area with half the peak or more",
        box=SIMPLE_HEAD,
    )
    beyond = f"beyond\n{response.distance_km:g} km"
    for head in ("peak", "in standard\ndeviations", "km from the\nobservation", "half peak\nwithin (km)", beyond):
        table.add_column(head, justify="right")
    rows = response.table(std).set_index("channel")
    for channel in increments.shown_channels(response, std):
        row = rows.loc[channel]
        factor, unit = style.readable(channel)
        mark = " (observed)" if channel == response.channel else ""
        table.add_row(
            channel + mark,
            f"{tables.number(factor * row['peak'])} {unit}",
            f"{row['peak_sd']:.3f}",
            f"{row['peak_away_km']:.0f}",
            f"{row['half_peak_km']:.0f}",
            f"{row['beyond']:.1%}",
        )
    return table
