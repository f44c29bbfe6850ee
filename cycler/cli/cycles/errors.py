"""The command that estimates observation errors from a run's departures and proposes a table."""

from collections.abc import Hashable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from dacycle.common.configuration import write_yaml
from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli.options import ArchiveFolder, ExperimentName
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, shown
from dacycle.cycler.cli.texts import cycle_time
from dacycle.cycler.experiment import cycle_id
from dacycle.cycler.report.style import readable_variable
from dacycle.cycler.report.tables import number
from dacycle.cycler.verification.desroziers import LIMITS, cycle_sums, estimate, propose
from dacycle.cycler.verification.superob_errors import estimate_superobs, superob_sums
from dacycle.forecast_adapter.intervals import BLOCK_DAYS, FEWEST_BLOCKS

app = typer.Typer()


@app.command()
def errors(
    experiment: ExperimentName,
    archive: ArchiveFolder,
    since: Annotated[str | None, typer.Option(help="First cycle, e.g. 20240108T06; default: the first.")] = None,
    until: Annotated[str | None, typer.Option(help="Last cycle; default: the last.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the proposed table here, as an experiment's `errors`.")
    ] = None,
    superobs: Annotated[
        bool, typer.Option("--superobs", help="Show the errors of superobs by the number of their stations instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Estimate observation errors from departures (Desroziers et al. 2005), and propose a table.

    The table has, by source, variable and level: the assumed error, the estimate with its 95 % interval, the
    background's error, and the standard deviations of O-B at assimilated and of O-B and O-A at withheld sites.

    With --superobs it has, by variable and number of stations in a cell: the stated error of a superob and the
    estimate; and the part of one station's error that the others do not share, as stated and as the differences between
    the stations of a cell show it.

    Example: dacycle errors demo --since 20240108T06 --out errors.yaml
    """
    if superobs and out is not None:
        raise typer.BadParameter("--superobs proposes no table; leave --out out")
    first, last = cycle_time(since), cycle_time(until)
    branch = Archive(archive).branch(experiment)
    if branch.experiment.assimilator == "none":
        raise ArchiveError(f"{experiment} assimilates nothing: O-A equals O-B, so errors cannot be estimated")
    total = len(branch.times.to_series()[first:last])
    read = shown(branch.departures_between(first, last), "departures", total)
    assumed, grid = branch.experiment.error_table(), branch.experiment.observation_grid
    sums = partial(superob_sums, grid=grid, assumed=assumed) if superobs else cycle_sums
    cycles = [(time, sums(departures)) for time, departures in read]
    estimates = estimate_superobs(cycles) if superobs else estimate(cycles)
    if estimates.empty:
        stretch = f"from {since or 'its first cycle'} to {until or 'its last'}"
        raise ArchiveError(f"{experiment}: no assimilated value with departures {stretch}: nothing to estimate from")
    proposed = {} if superobs else propose(estimates, assumed)
    content = {
        "experiment": experiment,
        "since": cycles[0][0],
        "until": cycles[-1][0],
        "superobs" if superobs else "errors": [_readable(row) for row in estimates.to_dict("records")],
        "limits": LIMITS[:1] if superobs else LIMITS,
        "proposed": proposed,
    }
    if out is not None and proposed:
        write_whole(out, write_yaml(proposed).encode())
    if as_json:
        print_json(content)
        return
    stretch = f"{cycle_id(cycles[0][0])} to {cycle_id(cycles[-1][0])}"
    if superobs:
        console.print(_superob_table(content["superobs"], f"{experiment}: errors of superobs, {stretch}"))
    else:
        for table in _tables(content["errors"], f"{experiment}: observation errors, {stretch}"):
            console.print(table)
    for sentence in content["limits"]:
        console.print(f"- {sentence}")
    if superobs:
        return
    if not proposed:
        console.print(
            "Nothing is proposed: no estimate has an interval above 0 "
            f"(that takes {FEWEST_BLOCKS * BLOCK_DAYS:g} days of cycles)."
        )
    elif out is None:
        console.print("--out FILE writes the table that these estimates propose.")
    else:
        console.print(f"{out}: {len(proposed)} variables; an experiment takes it as `errors: {out}`", soft_wrap=True)


_ERRORS = ("assumed", "estimated", "low", "high", "background", "mean", "o_b", "withheld_o_b", "withheld_o_a", "own")
"""Columns of an estimate in the unit of its variable, as is `scatter`; the others are names and counts."""


def _readable(row: Mapping[Hashable, Any]) -> dict[str, Any]:
    """Return an estimate with its errors in the unit in which its variable is printed, and that unit."""
    factor, unit = readable_variable(str(row["variable"]))
    values = {str(name): value for name, value in row.items()}
    values |= {name: factor * values[name] for name in (*_ERRORS, "scatter") if name in values}
    if "level" in values:
        values["level_hPa"] = values.pop("level") or None
    return values | {"unit": unit}


def _interval(row: Mapping[str, Any]) -> str:
    interval = f" ({number(row['low'])}–{number(row['high'])})" if np.isfinite(row["low"]) else ""
    return f"{number(row['estimated'])}{interval}"


def _tables(rows: list[dict[str, Any]], title: str) -> tuple[Table, Table]:
    """Return the assumed and estimated errors, and what they can be compared with: each fits 80 columns."""
    heads = ("hPa", "values", "assumed", "estimated (95 %)", "effective\ncycles")
    estimates = new_table("source", "variable", numbers=heads, title=title)
    beside = ("hPa", "background", "O-B", "withheld\nO-B", "withheld\nO-A")
    departures = new_table("source", "variable", numbers=beside, title="error of the background, and departures (rms)")
    for row in rows:
        key = (row["source"], f"{row['variable']} ({row['unit']})", str(row["level_hPa"] or ""))
        effective = f"{row['effective']:.0f}" if np.isfinite(row["low"]) else "–"
        estimates.add_row(*key, str(row["values"]), number(row["assumed"]), _interval(row), effective)
        names = ("background", "o_b", "withheld_o_b", "withheld_o_a")
        departures.add_row(*key, *(number(row[name]) for name in names))
    return estimates, departures


def _superob_table(rows: list[dict[str, Any]], title: str) -> Table:
    heads = ("stations", "superobs", "stated", "estimated (95 %)", "stated /\nestimated", "own,\nstated", "own,\nfound")
    table = new_table("variable", numbers=heads, title=title)
    for row in rows:
        table.add_row(
            f"{row['variable']} ({row['unit']})",
            str(row["stations"]),
            str(row["values"]),
            number(row["assumed"]),
            _interval(row),
            f"{row['assumed'] / row['estimated']:.2f}" if row["estimated"] > 0 else "",
            *(number(row[name]) if np.isfinite(row[name]) else "" for name in ("own", "scatter")),
        )
    return table
