"""The command that makes one analysis from files, and verifies it at stations that were held back."""

from contextlib import ExitStack
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from dacycle.assimilators.classical.isotropic import ErrorStatistics
from dacycle.common.arrow import read_parquet
from dacycle.common.files import whole
from dacycle.common.foreign import reading
from dacycle.cycler.cli.files.ingest import join_tables, read_window
from dacycle.cycler.cli.show import console, shown
from dacycle.cycler.cli.texts import parse_hour
from dacycle.cycler.single.surface_analysis import Analyser, Scores, SingleAnalysis
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.states.points import (
    PointFields,
    check_writable,
    holds_orography,
    read_orography,
    read_points,
    write_points,
)
from dacycle.obs_ingest.quality.control import Checks
from dacycle.obs_ingest.quality.station_lists import StationList, read_station_list
from dacycle.obs_ingest.sources.ingested import write_table
from dacycle.obs_ingest.table import UNITS, ObservationError, from_arrow
from dacycle.obs_ingest.window import Window

__all__ = ["app"]

app = typer.Typer()
HALF_AT = 1.7
"""A correlation falls to a half at this multiple of its length (`ErrorStatistics.length_km`)."""


@app.command()
def analyse(
    background: Annotated[
        Path, typer.Option(help="GRIB on any grid, or a state in netCDF or Zarr: t2m, msl, u10, v10, or some of them.")
    ],
    observations: Annotated[
        list[Path], typer.Option(help="SYNOP in BUFR, or a table of `dacycle ingest` (.parquet); may be repeated.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The analysis to write, .grib, or .nc or .zarr like its background; departures go beside it."
        ),
    ],
    increments: Annotated[Path | None, typer.Option(help="File of analysis minus background.")] = None,
    time: Annotated[str | None, typer.Option(help="The time to analyse, if the background holds several.")] = None,
    channel: Annotated[list[str] | None, typer.Option(help="Only this channel; may be repeated.")] = None,
    orography: Annotated[
        Path | None,
        typer.Option(help="The model's orography, GRIB or netCDF, any grid; default: the background's file."),
    ] = None,
    lapse_rate: Annotated[
        float | None,
        typer.Option(help="Lapse rate, K/km, from orography to station; default: fitted to the departures."),
    ] = None,
    background_error: Annotated[
        float | None, typer.Option(help="Standard deviation, SI; goes with the next two options.")
    ] = None,
    observation_error: Annotated[float | None, typer.Option(help="Standard deviation, SI.")] = None,
    length: Annotated[float | None, typer.Option(help="Correlation length, km; default: from the departures.")] = None,
    reach: Annotated[float, typer.Option(min=50, help="Distance, km, beyond which the increment is 0.")] = 1000.0,
    buddy_check: Annotated[
        float | None,
        typer.Option(
            min=1, help="Largest difference from the neighbours' departures, in their standard deviations, e.g. 4."
        ),
    ] = None,
    blacklist: Annotated[Path | None, typer.Option(help="CSV of stations whose values are not used.")] = None,
    whitelist: Annotated[Path | None, typer.Option(help="CSV of the only stations whose values are used.")] = None,
    hold_back: Annotated[float, typer.Option(help="Share of the sites to verify with, e.g. 0.2.")] = 0.0,
    splits: Annotated[int, typer.Option(min=1, help="Number of draws of these sites.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the draws.")] = 1,
) -> None:
    """Make one analysis of surface fields by optimal interpolation with an isotropic background error.

    Channels are analysed one by one. Error statistics are estimated from the departures by maximum likelihood unless
    they are given. With --hold-back, further analyses leave some of the sites out and are compared with them;
    the analysis that is written uses all sites.

    Example: dacycle analyse --background 2t.grib --observations synop.bufr --out analysis.grib --hold-back 0.2
    """
    fields = _only(read_points(background, None if time is None else parse_hour(time)), channel)
    statistics = _statistics(background_error, observation_error, length, reach, fields)
    for path in (out, increments):
        if path is not None:
            check_writable(path, fields)
    table = _read(observations, Window(fields.time))
    if orography is None and holds_orography(background):
        orography = background
    analyser = Analyser(
        fields,
        table,
        orography=None if orography is None else read_orography(orography),
        lapse_rate=None if lapse_rate is None else lapse_rate / 1000,
        statistics=statistics,
        checks=Checks(buddy_check=buddy_check, blacklist=_list(blacklist), whitelist=_list(whitelist)),
        reach_km=reach,
    )
    analysis = analyser.analyse()
    console.print(_summary(fields, analysis))
    for note in (*fields.notes, *_notes(fields, analysis, orography, lapse_rate)):
        console.print(f"note: {note}", soft_wrap=True)
    if hold_back:
        salts = [f"dacycle analyse {seed} {split}" for split in range(splits)]
        tries = [analyser.hold_back(hold_back, salt) for salt in shown(salts, "holding back", len(salts))]
        for name in analysis.values:
            console.print(_held_back_table(name, hold_back, seed, [a.scores(name, "withheld") for a in tries]))
    departures = out.with_name(f"{out.stem}.departures.parquet")
    with ExitStack() as together:  # all files get their names, or none
        temporary = {path: together.enter_context(whole(path)) for path in (departures, out, increments) if path}
        write_table(temporary[departures], analysis.table)
        write_points(temporary[out], fields, analysis.values, rest=True)
        if increments is not None:
            differences = {name: values - fields.values[name] for name, values in analysis.values.items()}
            write_points(temporary[increments], fields, differences, rest=False)
    summary = f"{', '.join(analysis.values)} at {fields.time}, by optimal interpolation"
    console.print(f"{out}: {summary}; departures in {departures}", soft_wrap=True)


def _list(path: Path | None) -> StationList | None:
    return None if path is None else read_station_list(path)


def _only(fields: PointFields, channels: list[str] | None) -> PointFields:
    """Return the fields of these channels; all where none is named."""
    absent = [name for name in channels or () if name not in fields.values]
    if absent:
        raise StateError(
            f"{fields.path}, {fields.time}: {', '.join(absent)} is not there; it holds {', '.join(fields.values)}"
        )
    return fields.only(channels) if channels else fields


def _statistics(
    background_error: float | None,
    observation_error: float | None,
    length: float | None,
    reach: float,
    fields: PointFields,
) -> ErrorStatistics | None:
    errors = [value for value in (background_error, observation_error, length) if value is not None]
    if not errors:
        return None
    if background_error is None or observation_error is None or length is None:
        raise typer.BadParameter("--background-error, --observation-error and --length go together")
    if len(fields.values) > 1:
        raise typer.BadParameter(
            f"errors are those of one channel; choose among {', '.join(fields.values)}", param_hint="--channel"
        )
    return ErrorStatistics(background_error, observation_error, length, reach)


def _read(files: list[Path], window: Window) -> pd.DataFrame:
    """Return one table of all files, and print what they hold."""
    tables = [_read_table(file) for file in files if file.suffix == ".parquet"]
    bulletins = [str(file) for file in files if file.suffix != ".parquet"]
    if bulletins:
        table, inventory = read_window({"source": "synop_bufr"}, bulletins, window)
        tables.append(table)
        left_out = "".join(f", {count} left out: {reason}" for reason, count in inventory.skipped.items())
        names = ", ".join(bulletins)
        console.print(f"{names}: {inventory.decoded} of {inventory.found} messages decoded{left_out}", soft_wrap=True)
        for problem in inventory.problems:
            console.print(f"damaged: {problem}", soft_wrap=True)
    return join_tables(tables, files, window)


def _read_table(file: Path) -> pd.DataFrame:
    with reading(f"{file}: a table in Parquet is expected", ObservationError):
        table = read_parquet(file)
    return from_arrow(table, str(file))


def _summary(fields: PointFields, analysis: SingleAnalysis) -> Table:
    """Return a column for each channel: use of the observations, assumed errors, departures."""
    table = Table("", title=f"analysis of {fields.time}, {len(fields.latitude)} points", box=SIMPLE_HEAD)
    for name in analysis.values:
        table.add_column(f"{name}\n{UNITS[name]}", justify="right")
    reasons = analysis.table.groupby(["variable", "reason"], observed=True).size()
    names = dict.fromkeys(reason for name, reason in reasons.index if name in analysis.values and reason)
    results = {name: analysis.scores(name, "assimilated") for name in analysis.values}
    rows = {
        "assimilated": [str(r.number) for r in results.values()],
        **{f"rejected: {reason}": [str(reasons.get((n, reason), 0)) for n in results] for reason in names},
        "background error": [f"{analysis.statistics[n].background_error:.3g}" for n in results],
        "observation error": [f"{analysis.statistics[n].observation_error:.3g}" for n in results],
        "length (km)": [f"{analysis.statistics[n].length_km:.0f}" for n in results],
        "O-B mean": [f"{r.o_b_mean:+.3g}" for r in results.values()],
        "O-B rms": [f"{r.o_b_rms:.3g}" for r in results.values()],
        "O-A mean": [f"{r.o_a_mean:+.3g}" for r in results.values()],
        "O-A rms": [f"{r.o_a_rms:.3g}" for r in results.values()],
    }
    for label, cells in rows.items():
        table.add_row(label, *cells)
    return table


def _notes(
    fields: PointFields, analysis: SingleAnalysis, orography: Path | None, lapse_rate: float | None
) -> list[str]:
    """Return remarks on the analysis: heights, lapse rate, channels without observations."""
    notes = []
    if "t2m" in analysis.values:
        ground = "the ground of " + orography.name if orography else "the mean height of the stations around them"
        how = "as given" if lapse_rate is not None else "fitted to the departures"
        rate = f"{1000 * analysis.lapse_rate:.2f} K/km, {how}"
        notes.append(f"H moves t2m to the stations' heights above {ground}, by {rate}")
        if orography is None:
            notes.append("the model's orography is not known; --orography gives it")
    notes += [
        f"{name}: errors are correlated over {statistics.length_km:.0f} km only, and the background's points are "
        f"{analysis.spacing_km:.0f} km apart: most observations change nothing; --length gives another length"
        for name, statistics in analysis.statistics.items()
        if 2 * HALF_AT * statistics.length_km < analysis.spacing_km
    ]
    unseen = [name for name in fields.values if name not in analysis.values]
    if unseen:
        notes.append(f"no usable observation of {', '.join(unseen)}: written as in the background")
    return notes


def _held_back_table(name: str, share: float, seed: int, tries: list[Scores]) -> Table:
    """Return the departures at the stations held back: a row for each split, and their mean."""
    table = Table(
        "split",
        title=f"{name} ({UNITS[name]}) at held-back stations: share {share:g}, seed {seed}",
        caption="Of n values that pass quality control.",
        box=SIMPLE_HEAD,
    )
    for head in ("n", "O-B rms\nno height", "O-B\nrms", "O-A\nrms", "O-B\nmean", "O-A\nmean", "rms less\nby"):
        table.add_column(head, justify="right")
    numbers = np.array([astuple(scores) for scores in tries])
    for label, (count, *values) in zip(
        [*range(1, len(tries) + 1), "mean"], [*numbers, numbers.mean(axis=0)], strict=True
    ):
        gain = 1 - values[2] / values[1]
        table.add_row(
            str(label),
            f"{count:.0f}",
            *(f"{v:.3f}" for v in values[:3]),
            *(f"{v:+.3f}" for v in values[3:]),
            f"{gain:.1%}",
        )
    return table
