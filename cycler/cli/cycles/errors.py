"""The command that estimates observation errors from a run's departures and proposes a table."""

from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from dacycle.common.configuration import write_yaml
from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli.options import ArchiveFolder, ExperimentName, cycle_time
from dacycle.cycler.experiment import cycle_id
from dacycle.cycler.report.style import readable_variable
from dacycle.cycler.report.tables import number
from dacycle.cycler.verification.desroziers import LIMITS, cycle_sums, estimate, propose
from dacycle.cycler.verification.superob_errors import estimate_superobs, superob_sums
from dacycle.forecast_adapter.intervals import BLOCK_DAYS, FEWEST_BLOCKS

app = typer.Typer()
console = Console()


@app.command()
def errors(
    experiment: ExperimentName,
    archive: ArchiveFolder,
    since: Annotated[
        str | None, typer.Option("--from", help="First cycle, e.g. 20240108T06; default: the first.")
    ] = None,
    until: Annotated[str | None, typer.Option("--to", help="Last cycle; default: the last.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the proposed table here, as an experiment's `errors`.")
    ] = None,
    superobs: Annotated[
        bool, typer.Option("--superobs", help="Show the errors of superobs by the number of their stations instead.")
    ] = False,
) -> None:
    """Estimate observation errors from departures (Desroziers et al. 2005), and propose a table.

    The table has, by source, variable and level: the assumed error, the estimate with its 95 % interval, the
    background's error, and the standard deviations of O-B at assimilated and of O-B and O-A at withheld sites.

    With --superobs it has, by variable and number of stations in a cell: the stated error of a superob and the
    estimate; and the part of one station's error that the others do not share, as stated and as the differences between
    the stations of a cell show it.

    Example: dacycle errors demo --from 20240108T06 --out errors.yaml
    """
    if superobs and out is not None:
        raise typer.BadParameter("--superobs proposes no table; leave --out out")
    first, last = cycle_time(since), cycle_time(until)
    branch = Archive(archive).branch(experiment)
    if branch.experiment.assimilator == "none":
        raise ArchiveError(f"{experiment} assimilates nothing: O-A equals O-B, so errors cannot be estimated")
    total = len(branch.times.to_series()[first:last])
    read = track(branch.departures_between(first, last), "departures", total, console=console, transient=True)
    assumed, grid = branch.experiment.error_table(), branch.experiment.observation_grid
    sums = partial(superob_sums, grid=grid, assumed=assumed) if superobs else cycle_sums
    cycles = [(time, sums(departures)) for time, departures in read]
    estimates = estimate_superobs(cycles) if superobs else estimate(cycles)
    if estimates.empty:
        stretch = f"from {since or 'its first cycle'} to {until or 'its last'}"
        raise ArchiveError(f"{experiment}: no assimilated value with departures {stretch}: nothing to estimate from")
    stretch = f"{cycle_id(cycles[0][0])} to {cycle_id(cycles[-1][0])}"
    if superobs:
        console.print(_superob_table(estimates, f"{experiment}: errors of superobs, {stretch}"))
        console.print(f"- {LIMITS[0]}")
        return
    console.print(_table(estimates, f"{experiment}: observation errors, {stretch}"))
    for sentence in LIMITS:
        console.print(f"- {sentence}")
    proposed = propose(estimates, assumed)
    if not proposed:
        console.print(
            "Nothing is proposed: no estimate has an interval above 0 "
            f"(that takes {FEWEST_BLOCKS * BLOCK_DAYS:g} days of cycles)."
        )
    elif out is None:
        console.print("--out FILE writes the table that these estimates propose.")
    else:
        write_whole(out, write_yaml(proposed).encode())
        console.print(f"{out}: {len(proposed)} variables; an experiment takes it as `errors: {out}`", soft_wrap=True)


def _table(estimates: pd.DataFrame, title: str) -> Table:
    table = Table("source", "variable", title=title, title_justify="left")
    numbers = (
        "hPa",
        "values",
        "assumed",
        "estimated (95 %)",
        "effective cycles",
        "background",
        "O-B",
        "withheld O-B",
        "withheld O-A",
    )
    for name in numbers:
        table.add_column(name, justify="right")
    for row in estimates.to_dict("records"):
        factor, unit = readable_variable(str(row["variable"]))
        shown = {name: number(factor * float(row[name])) for name in estimates.columns[4:]}
        interval = f" ({shown['low']}–{shown['high']})" if np.isfinite(row["low"]) else ""
        table.add_row(
            str(row["source"]),
            f"{row['variable']} ({unit})",
            str(row["level"] or ""),
            str(row["values"]),
            shown["assumed"],
            f"{shown['estimated']}{interval}",
            f"{row['effective']:.0f}" if interval else "–",
            *(shown[name] for name in ("background", "o_b", "withheld_o_b", "withheld_o_a")),
        )
    return table


def _superob_table(estimates: pd.DataFrame, title: str) -> Table:
    table = Table("variable", "stations", title=title, title_justify="left")
    for name in ("superobs", "stated", "estimated (95 %)", "stated / estimated", "own, stated", "own, found"):
        table.add_column(name, justify="right")
    for row in estimates.to_dict("records"):
        factor, unit = readable_variable(str(row["variable"]))
        shown = {name: number(factor * float(row[name])) for name in ("assumed", "estimated", "low", "high")}
        own = [number(factor * float(row[name])) if np.isfinite(row[name]) else "" for name in ("own", "scatter")]
        interval = f" ({shown['low']}–{shown['high']})" if np.isfinite(row["low"]) else ""
        table.add_row(
            f"{row['variable']} ({unit})",
            str(row["stations"]),
            str(row["values"]),
            shown["assumed"],
            f"{shown['estimated']}{interval}",
            f"{row['assumed'] / row['estimated']:.2f}" if row["estimated"] > 0 else "",
            *own,
        )
    return table
