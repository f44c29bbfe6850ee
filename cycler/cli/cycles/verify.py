"""Commands that verify runs: forecasts and their drift, the report, two experiments side by side."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import pandas as pd
import typer
from rich.console import Console
from rich.table import Table

from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.cli.options import ArchiveFolder, ExperimentName, Threads, cycle_time, progress_bar
from dacycle.cycler.experiment import cycle_id
from dacycle.cycler.report import figures, style, tables
from dacycle.cycler.report.compare import compare as compare_runs
from dacycle.cycler.report.compare import write_comparison
from dacycle.cycler.report.page import write_report
from dacycle.cycler.verification.cycles import Verification, trends, verify, verify_free_run
from dacycle.cycler.verification.drift import due, fill_in, make_forecasts, read_scores, unverified
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.worlds.world import load_world

app = typer.Typer()
console = Console()


@app.command()
def drift(
    experiment: ExperimentName,
    archive: ArchiveFolder,
    threads: Threads = 1,
) -> None:
    """Make the missing forecasts from committed analyses, and score them against the reference.

    Run it again to continue after an interruption. Where the reference comes later, `dacycle verify` scores the kept
    headline fields as far as it reaches. Once it holds all leads of a start, this command runs the forecast again to
    score every channel.

    Example: dacycle drift demo
    """
    branch = Archive(archive).branch(experiment)
    world = load_world(branch.experiment.world)
    model = load_model(branch.experiment.model, threads)
    starts = due(branch, world)
    with progress_bar(console) as bar:
        task = bar.add_task(experiment, total=len(starts))
        try:
            for start in make_forecasts(branch, world, model):
                bar.update(task, advance=1, description=f"{experiment} {cycle_id(start)}")
        except KeyboardInterrupt:
            console.print("interrupted; what was made is kept, the same command goes on")
            raise typer.Exit(130) from None
    _print_drift(read_scores(branch))


@app.command("verify")
def verify_late(experiment: ExperimentName, archive: ArchiveFolder) -> None:
    """Verify cycles and kept forecasts at the times that the reference has gained since. No model runs.

    A live run does this whenever it wakes.

    Example: dacycle verify live --archive /var/lib/dacycle/live
    """
    branch = Archive(archive).branch(experiment)
    world = load_world(branch.experiment.world)
    with console.status(f"verifying {experiment}"):
        starts = [cycle_id(start) for start in fill_in(branch, world)]
        errors = verify(branch, world).errors
    cycles = sum(record.status != "cold_start" for record in branch.records)
    console.print(f"{world.name}: the reference holds {world.reference.times[0]} to {world.reference.times[-1]}")
    console.print(f"cycles: {errors['time'].nunique()} of {cycles} verified")
    further = f"; new scores of {', '.join(starts)}" if starts else ""
    left = unverified(branch)
    waiting = f"{sum(left.values())} leads of {len(left)} starts wait for it" if left else "none waits for it"
    console.print(f"forecasts: {waiting}{further}", soft_wrap=True)


def _print_drift(scored: pd.DataFrame) -> None:
    if scored.empty:
        console.print("no forecast can be scored: the reference holds none of their times")
        return
    curves, starts = tables.drift_summary(scored)
    shown = [lead for lead in (0, 24, 72, 120, 240) if lead in set(curves["lead"])]
    table = Table(title=f"RMSE from the analyses (from the reference), {starts} starts", title_justify="left")
    table.add_column("channel")
    for lead in shown:
        table.add_column(f"day {lead // 24}", justify="right")
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        errors = curves[curves["channel"] == channel].set_index(["kind", "lead"])["rmse"]
        cells = [
            f"{tables.number(factor * errors['analysis', lead])} "
            f"({tables.number(factor * errors.get(('reference', lead), np.nan))})"
            for lead in shown
        ]
        table.add_row(f"{channel} ({unit})", *cells)
    console.print(table)


@app.command()
def scores(
    experiment: ExperimentName,
    archive: ArchiveFolder,
    since: Annotated[str | None, typer.Option(help="First cycle, e.g. 20240108T06; default: the first.")] = None,
    until: Annotated[str | None, typer.Option(help="Last cycle; default: the last.")] = None,
    against: Annotated[str | None, typer.Option(help="Another experiment whose analyses are also shown.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Also draw the errors of each cycle here, as SVG.")] = None,
    trend_days: Annotated[
        int, typer.Option(min=0, help="Days that a run needs for a trend; its interval needs many weather situations.")
    ] = 30,
) -> None:
    """Print the errors of a period of cycles, those of the free run, the fit to withheld sites, and the trend.

    Example: dacycle scores demo --since 20240108T06 --picture demo.svg
    """
    first, last = cycle_time(since), cycle_time(until)
    branch = Archive(archive).branch(experiment)
    world = load_world(branch.experiment.world)
    times = branch.times.to_series()[first:last].index
    verification, free = verify(branch, world).within(times), verify_free_run(branch, world)
    if verification.errors.empty:
        stretch = f"from {cycle_id(first) if first else 'its first'} to {cycle_id(last) if last else 'its last'}"
        raise ArchiveError(f"{experiment}: the archive and the reference share no cycle {stretch}")
    runs = {kind: verification.errors[verification.errors["kind"] == kind] for kind in ("analysis", "background")}
    colours = {name: name for name in (*runs, "free run")}
    if against is not None:
        other = verify(Archive(archive).branch(against), world).within(times).errors
        runs[against] = other[other["kind"] == "analysis"]
        colours[against] = "background"  # this colour is free then
    if free is not None:
        errors = free.within(times).errors
        runs["free run"] = errors[errors["kind"] == "analysis"]
    console.print(_errors(experiment, runs, verification, trend_days))
    console.print(_withheld(verification.fits))
    if picture is not None:
        drawn = {name: errors for name, errors in runs.items() if against is None or name != "background"}
        write_whole(picture, figures.errors_over_time(drawn, colours).svg().encode())


def _errors(experiment: str, runs: Mapping[str, pd.DataFrame], verification: Verification, trend_days: int) -> Table:
    """Return the global RMSE of the headline channels by run, its ratio to the free run's, and its trend."""
    first, last = runs["analysis"]["time"].min(), runs["analysis"]["time"].max()
    title = f"{experiment}: RMSE, {cycle_id(first)} to {cycle_id(last)}"
    table = Table("channel", *runs, title=title, title_justify="left")
    long = last - first >= trend_days * pd.Timedelta(days=1)
    if "free run" in runs:
        table.add_column("analysis / free run")
    if long:
        table.add_column("analysis, trend a day (95 %; effective sample size)")
        drifts = trends(verification, HEADLINE).query("kind == 'analysis'").set_index("of")
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        values = [factor * tables.rmse_of(errors.assign(kind="any"), "any", channel) for errors in runs.values()]
        cells = [tables.number(value) for value in values]
        if "free run" in runs:
            cells.append(f"{values[0] / values[-1]:.2f}")
        if long:
            trend = drifts.loc[f"{channel} error"]
            change, low, high = (factor * trend[name] for name in ("estimate", "low", "high"))
            cells.append(tables.with_interval(change, low, high, trend["effective"]))
        table.add_row(f"{channel} ({unit})", *cells)
    return table


def _withheld(fits: pd.DataFrame) -> Table:
    """Return the root mean square departures at withheld sites."""
    table = Table("source", "variable", "values", "O-B", "O-A", title="fit to withheld sites", title_justify="left")
    for row in tables.withheld_rows(fits):
        values = (tables.number(cast(float, row[name])) for name in ("rms_b", "rms_a"))
        table.add_row(str(row["source"]), f"{row['variable']} ({row['unit']})", str(row["compared"]), *values)
    return table


@app.command()
def report(
    experiment: ExperimentName,
    archive: ArchiveFolder,
    output: Annotated[
        Path | None, typer.Option(help="The file to write; default: branches/NAME/report/index.html.")
    ] = None,
) -> None:
    """Write the report of an experiment: one HTML page that needs no other file.

    Example: dacycle report demo --output demo.html
    """
    branch = Archive(archive).branch(experiment)
    with console.status(f"verifying {experiment}"):
        path = write_report(branch, load_world(branch.experiment.world), output)
    console.print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="The experiment to compare with, e.g. a control.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The experiment that is judged.")],
    archive: ArchiveFolder,
    output: Annotated[Path | None, typer.Option(help="Also write an HTML page here.")] = None,
) -> None:
    """Compare experiment B with A at the times both have: changes of RMSE with paired 95 % intervals.

    The last column is the effective sample size: the number of independent pairs that would tell as much. A change is
    bold where its interval excludes zero and rests on ten of them at least.

    Example: dacycle compare demo demo-no-olr --output no-olr.html
    """
    opened = Archive(archive)
    control, judged = opened.branch(first), opened.branch(second)
    with console.status(f"verifying {first} and {second}"):
        comparison = compare_runs(control, judged, load_world(control.experiment.world))
    table = Table(
        title=f"{second} against {first}: change of RMSE, {len(comparison.times)} cycles", title_justify="left"
    )
    for name in ("of", "channel"):
        table.add_column(name)
    for name in (first, second, "change", "95 % interval", "effective"):
        table.add_column(name, justify="right")
    for row in comparison.table[comparison.table["region"].isin(["globe", ""])].to_dict("records"):
        table.add_row(*_cells(row))
    console.print(table)
    if output is not None:
        console.print(str(write_comparison(comparison, output)))


def _cells(row: Mapping[str, Any]) -> list[str]:
    """Return one row of the comparison, in SI units; the change is bold where its interval excludes zero."""
    change, low, high, effective = (float(row[name]) for name in ("change", "low", "high", "effective"))
    colour = ("green" if change < 0 else "red") if row["excludes_zero"] else None
    percent = f"[bold {colour}]{change:+.1%}[/]" if colour else f"{change:+.1%}"
    interval = f"{low:+.1%} to {high:+.1%}" if np.isfinite(low) else "run too short"
    errors = [tables.number(float(row[name])) for name in ("rmse_a", "rmse_b")]
    return [
        str(row["of"]),
        str(row["channel"]),
        *errors,
        percent,
        interval,
        f"{effective:.0f}" if np.isfinite(effective) else "–",
    ]
