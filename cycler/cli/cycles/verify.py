"""Commands that verify runs: forecasts and their drift, the report, two experiments side by side."""

import sys
from collections.abc import Hashable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, ArchiveError, Branch
from dacycle.cycler.cli.options import ArchiveFolder, Dask, ExperimentName, Threads, Workers
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, progress_bar, waiting
from dacycle.cycler.cli.texts import cycle_time
from dacycle.cycler.comparison.card import chance_text, readable_row, summary
from dacycle.cycler.comparison.page import write_markdown, write_page
from dacycle.cycler.comparison.runs import Comparison
from dacycle.cycler.comparison.runs import compare as compare_runs
from dacycle.cycler.comparison.weatherbench import write_weatherbench
from dacycle.cycler.experiment import cycle_id
from dacycle.cycler.report import figures, style, tables
from dacycle.cycler.report.at_observations import observation_rows, observation_table
from dacycle.cycler.report.observations import consistency_rows
from dacycle.cycler.report.page import write_report
from dacycle.cycler.verification.beside import forecasting
from dacycle.cycler.verification.cycles import Verification, trends, verify, verify_free_run
from dacycle.cycler.verification.drift import due, fill_in, member_scores, read_scores, unverified
from dacycle.cycler.verification.members import spread_over_error
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import load_world

app = typer.Typer()

SHOWN = (0, 24, 72, 120, 240)
"""Leads (h) that `dacycle drift` prints."""
DAYS_LOST = 5
"""Lead at which `dacycle drift` prints the lead time lost."""


@app.command()
def drift(
    experiment: ExperimentName,
    archive: ArchiveFolder,
    threads: Threads = 1,
    workers: Workers = None,
    dask: Dask = None,
    as_json: AsJson = False,
) -> None:
    """Make the missing forecasts from committed analyses, and score them against the reference and at observations.

    Run it again to continue after an interruption. Where the reference comes later, `dacycle verify` scores the kept
    headline fields as far as it reaches. Once it holds all leads of a start, this command runs the forecast again to
    score every channel. Where there is a second core, two processes share the work; with `--workers` or `--dask` every
    start, its members included, is a piece of its own.

    Example: dacycle drift demo

    Example: dacycle drift demo --workers 8
    """
    branch = Archive(archive).branch(experiment)
    world = load_world(branch.experiment.world)
    number = len(due(branch, world))
    with progress_bar() as bar:
        task = bar.add_task(experiment, total=number)
        try:
            for start in _made(branch, number, threads, workers, dask):
                bar.update(task, advance=1, description=f"{experiment} {cycle_id(start)}")
        except KeyboardInterrupt:
            print("interrupted; what was made is kept, the same command goes on", file=sys.stderr)
            raise typer.Exit(130) from None
    with waiting("scoring at observations"):
        observed = observation_rows(branch, world)
    scored = read_scores(branch, world)
    of_members = tables.member_rows(member_scores(branch), scored)
    content = {
        "experiment": experiment,
        **_drift(scored),
        "global_means": tables.global_mean_rows(scored),
        "members": of_members,
        "at_observations": observed,
    }
    if as_json:
        print_json(content)
    else:
        _print_drift(content)
        _print_global_means(content["global_means"])
        _print_members(of_members)
        _print_at_observations(observed)


def _made(branch: Branch, number: int, threads: int, workers: int | None, dask: Path | None) -> Iterator[pd.Timestamp]:
    """Make the forecasts that are due, as the options say, and yield their starts."""
    if workers is None and dask is None:
        with forecasting(branch.archive, [branch.name], number, threads) as forecasts:
            yield from (start for _, start in forecasts.rest())
        return
    from dacycle.cycler.parallel.clusters import spread
    from dacycle.cycler.parallel.forecasts import make_forecasts

    with spread(workers, dask, branch.archive.folder / "prefect") as each:
        yield from make_forecasts(branch, each, threads)


def _print_global_means(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    shown = [lead for lead in SHOWN if any(row["lead_hours"] == lead for row in rows)]
    title = "global means, forecasts from the analyses (from the reference) minus the reference"
    table = new_table("quantity", numbers=[f"day {lead // 24}" for lead in shown], title=title)
    for quantity, unit in dict.fromkeys((row["quantity"], row["unit"]) for row in rows):
        found = {row["lead_hours"]: row for row in rows if row["quantity"] == quantity}
        cells = [
            f"{tables.number(row['analysis'], 2)} ({tables.number(row['reference'], 2)})"
            for row in (found[lead] for lead in shown)
        ]
        table.add_row(f"{quantity} ({unit})", *cells)
    console.print(table)


def _print_members(rows: list[dict[str, Any]]) -> None:
    if not rows:
        return
    leads = [lead for lead in (24, 72, 120, 240) if any(row["lead_hours"] == lead for row in rows)]
    columns = [f"day {lead // 24}" for lead in leads]
    title = f"{rows[0]['members']} members: RMSE of the mean (control); CRPS (control); spread / error"
    table = new_table("channel", numbers=columns, title=title)
    for channel in HEADLINE:
        found = {row["lead_hours"]: row for row in rows if row["channel"] == channel}
        cells = [tables.member_cell(found[lead]) if lead in found else "" for lead in leads]
        table.add_row(f"{channel} ({style.readable(channel)[1]})", *cells)
    console.print(table)


def _print_at_observations(rows: list[dict[str, Any]]) -> None:
    leads, table_rows = observation_table(rows)
    if not table_rows:
        console.print("no forecast can be compared with observations: the run has no cycle at their valid times")
        return
    title = "error at observations, theirs taken off (difference from the reference there)"
    table = new_table("channel", "source", numbers=[f"day {lead // 24}" for lead in leads], title=title)
    for row in table_rows:
        cells = [f"{tables.number(error)} ({tables.number(against)})" for error, against, _ in row["cells"]]
        table.add_row(f"{row['channel']} ({row['unit']})", row["source"], *cells)
    console.print(table)


@app.command("verify")
def verify_late(experiment: ExperimentName, archive: ArchiveFolder) -> None:
    """Verify cycles and kept forecasts at the times that the reference has gained since. No model runs.

    A live run does this whenever it wakes.

    Example: dacycle verify live --archive /var/lib/dacycle/live
    """
    branch = Archive(archive).branch(experiment)
    world = load_world(branch.experiment.world)
    with waiting(f"verifying {experiment}"):
        starts = [cycle_id(start) for start in fill_in(branch, world)]
        errors = verify(branch, world).errors
    cycles = sum(record.status != "cold_start" for record in branch.records)
    console.print(f"{world.name}: the reference holds {world.reference.times[0]} to {world.reference.times[-1]}")
    console.print(f"cycles: {errors['time'].nunique()} of {cycles} verified")
    further = f"; new scores of {', '.join(starts)}" if starts else ""
    left = unverified(branch)
    forecasts = f"{sum(left.values())} leads of {len(left)} starts wait for it" if left else "none waits for it"
    console.print(f"forecasts: {forecasts}{further}", soft_wrap=True)


def _drift(scored: pd.DataFrame) -> dict[str, Any]:
    """Return RMSE of the headline channels by lead, lead time lost (h), and the number of starts in these means."""
    if scored.empty:
        return {"starts": 0, "rmse": []}
    curves, starts = tables.drift_summary(scored)
    rows = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        for lead, errors in curves[curves["channel"] == channel].groupby("lead"):
            of_kinds = dict(zip(errors["kind"].astype(str), factor * errors["rmse"], strict=True))
            lost = errors.set_index("kind")["lost"].get("analysis", np.nan)
            rows.append({"channel": channel, "unit": unit, "lead_hours": lead, **of_kinds, "hours_lost": lost})
    return {"starts": starts, "rmse": rows}


def _print_drift(content: dict[str, Any]) -> None:
    rows = {(row["channel"], row["lead_hours"]): row for row in content["rmse"]}
    if not rows:
        console.print("no forecast can be scored: the reference holds none of their times")
        return
    shown = [lead for lead in SHOWN if any(lead == hours for _, hours in rows)]
    at = max((lead for lead in shown if lead <= DAYS_LOST * 24), default=shown[0])
    title = f"RMSE from the analyses (from the reference), {content['starts']} starts"
    columns = [*(f"day {lead // 24}" for lead in shown), f"hours lost, day {at // 24}"]
    table = new_table("channel", numbers=columns, title=title)
    for channel in HEADLINE:
        of_leads = [rows[channel, lead] for lead in shown]
        cells = [
            f"{tables.number(row['analysis'])} ({tables.number(row.get('reference', np.nan))})" for row in of_leads
        ]
        lost = tables.number(rows[channel, at]["hours_lost"], 2)
        table.add_row(f"{channel} ({of_leads[0]['unit']})", *cells, lost)
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
    as_json: AsJson = False,
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
    content = {
        "experiment": experiment,
        "since": runs["analysis"]["time"].min(),
        "until": runs["analysis"]["time"].max(),
        "rmse": _errors(runs, verification, trend_days),
        "spread_over_error": spread_over_error(branch.records, verification.errors),
        "withheld": tables.withheld_rows(verification.fits),
        "consistency": consistency_rows(verification.fits, [r for r in branch.records if r.time in set(times)]),
    }
    if as_json:
        print_json(content)
    else:
        _print_scores(content)
    if picture is not None:
        drawn = {name: errors for name, errors in runs.items() if against is None or name != "background"}
        write_whole(picture, figures.errors_over_time(drawn, colours).svg().encode())


def _errors(runs: Mapping[str, pd.DataFrame], verification: Verification, trend_days: int) -> list[dict[str, Any]]:
    """Return the global RMSE of the headline channels by run, its ratio to the free run's, and its trend."""
    first, last = runs["analysis"]["time"].min(), runs["analysis"]["time"].max()
    long = last - first >= trend_days * pd.Timedelta(days=1)
    drifts = trends(verification, HEADLINE).query("kind == 'analysis'").set_index("of") if long else None
    rows = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        values = {
            name: factor * tables.rmse_of(errors.assign(kind="any"), "any", channel) for name, errors in runs.items()
        }
        row: dict[str, Any] = {"channel": channel, "unit": unit, "runs": values}
        if "free run" in runs:
            row["analysis_over_free_run"] = values["analysis"] / values["free run"]
        if drifts is not None:
            trend = drifts.loc[f"{channel} error"]
            row["trend_a_day"] = {name: factor * trend[name] for name in ("estimate", "low", "high")}
            row["trend_a_day"]["effective"] = trend["effective"]
        rows.append(row)
    return rows


def _print_scores(content: dict[str, Any]) -> None:
    rows = content["rmse"]
    title = f"{content['experiment']}: RMSE, {cycle_id(content['since'])} to {cycle_id(content['until'])}"
    table = new_table("channel", title=title)
    for name in rows[0]["runs"]:
        table.add_column(name, justify="right", overflow="fold")
    compared = "analysis_over_free_run" in rows[0]
    if compared:
        table.add_column("analysis /\nfree run", justify="right", no_wrap=True)
    for row in rows:
        cells = [tables.number(value) for value in row["runs"].values()]
        ratio = [f"{row['analysis_over_free_run']:.2f}"] if compared else []
        table.add_row(f"{row['channel']} ({row['unit']})", *cells, *ratio)
    console.print(table)
    if "trend_a_day" in rows[0]:
        table = new_table(
            "channel", numbers=["trend a day (95 %; effective sample size)"], title="trend of the analyses"
        )
        for row in rows:
            table.add_row(f"{row['channel']} ({row['unit']})", tables.with_interval(*row["trend_a_day"].values()))
        console.print(table)
    if content["spread_over_error"]:
        table = new_table("channel", numbers=["background", "analysis"], title="spread of the members / error")
        for channel, ratios in content["spread_over_error"].items():
            table.add_row(channel, *(f"{ratio:.2f}" for ratio in ratios.values()))
        console.print(table)
    columns = ("values", "O-B", "O-A", "analysis")
    table = new_table(
        "source", "variable", numbers=columns, title="fit to withheld sites (rms), and the error of the analysis there"
    )
    for row in content["withheld"]:
        numbers = (tables.number(row[name]) for name in ("rms_b", "rms_a", "error_a"))
        table.add_row(row["source"], f"{row['variable']} ({row['unit']})", str(row["compared"]), *numbers)
    console.print(table)


@app.command()
def report(
    experiment: ExperimentName,
    archive: ArchiveFolder,
    out: Annotated[
        Path | None, typer.Option(help="The file to write; default: branches/NAME/report/index.html.")
    ] = None,
) -> None:
    """Write the report of an experiment: one HTML page that needs no other file.

    Example: dacycle report demo --out demo.html
    """
    branch = Archive(archive).branch(experiment)
    with waiting(f"verifying {experiment}"):
        path = write_report(branch, load_world(branch.experiment.world), out)
    console.print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(metavar="A B [C ...]", help="The baseline, and what is judged; ARCHIVE/NAME in other archives."),
    ],
    archive: ArchiveFolder,
    since: Annotated[str | None, typer.Option(help="First cycle, e.g. 20240108T06, after the spin-up.")] = None,
    until: Annotated[str | None, typer.Option(help="Last cycle; default: the last that all have.")] = None,
    out: Annotated[Path | None, typer.Option(help="Also write an HTML page here.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables here, in Markdown.")] = None,
    weatherbench: Annotated[
        Path | None, typer.Option(help="Also write Zarr files of all runs into this folder, for WeatherBench-X.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare experiments with the first, at the times all have: changes of RMSE with paired 95 % intervals.

    Of two experiments the table has every headline channel over the globe. Effective is the sample size: the number of
    independent pairs that would tell as much; a change is bold where its interval excludes zero and rests on ten of
    them at least. Of more it has the mean of the six channels, and a star in place of bold. The page, Markdown and JSON
    have regions and further channels.

    Example: dacycle compare demo demo-no-olr --out no-olr.html

    Example: dacycle compare oi fnp letkf --since 20240108T00 --markdown table.md
    """
    if len(runs) < 2:
        raise typer.BadParameter("name two experiments at least, the baseline first")
    first, last = cycle_time(since), cycle_time(until)
    branches = [_run_of(name, archive) for name in runs]
    world = load_world(branches[0].experiment.world)
    with waiting(f"verifying {', '.join(runs)}"):
        comparison = compare_runs(branches, world, first, last)
    written = [
        *([] if out is None else [write_page(comparison, out)]),
        *([] if markdown is None else [write_markdown(comparison, markdown)]),
        *([] if weatherbench is None else write_weatherbench(comparison, world, weatherbench)),
    ]
    if as_json:
        print_json(_compared(comparison))
        return
    if len(runs) == 2:
        _print_comparison(_compared(comparison))
    else:
        _print_summary(comparison)
    for path in written:
        console.print(str(path), soft_wrap=True)


def _run_of(name: str, archive: Path) -> Branch:
    """Return the branch of NAME in the archive, or of ARCHIVE/NAME."""
    folder, _, own = name.rpartition("/")
    return Archive(Path(folder) if folder else archive).branch(own)


def _compared(comparison: Comparison) -> dict[str, Any]:
    return {
        "baseline": comparison.baseline,
        "runs": list(comparison.runs),
        "since": comparison.times[0],
        "until": comparison.times[-1],
        "cycles": len(comparison.times),
        "settings": dict(comparison.settings),
        "rows": [readable_row(row) for row in comparison.table.to_dict("records")],
        "by_chance": comparison.chance,
        "costs": comparison.costs,
        "pairs": comparison.pairs,
    }


def _print_comparison(content: dict[str, Any]) -> None:
    a, b = content["runs"]
    title = f"B {b} against A {a}: change of RMSE, {content['cycles']} cycles"
    numbers = ("A", "B", "change", "95 % interval", "effec-\ntive")
    table = new_table("of", "channel", numbers=numbers, title=title)
    for row in content["rows"]:
        if row["region"] == "" or (row["region"] == "globe" and row["channel"] in HEADLINE):
            table.add_row(*_cells(row))
    console.print(table)


def _cells(row: Mapping[Hashable, Any]) -> list[str]:
    """Return one row of the comparison; the change is bold where its interval excludes zero."""
    change, low, high, effective = (float(row[name]) for name in ("change", "low", "high", "effective"))
    colour = ("green" if change < 0 else "red") if row["excludes_zero"] else None
    percent = f"[bold {colour}]{change:+.1%}[/]" if colour else f"{change:+.1%}"
    interval = f"{low:+.1%} to {high:+.1%}" if np.isfinite(low) else "run too short"
    return [
        str(row["of"]),
        f"{row['source']} {row['channel']} ({row['unit']})".strip(),
        *(tables.number(float(row[name])) for name in ("rmse_a", "rmse_b")),
        percent,
        interval,
        f"{effective:.0f}" if np.isfinite(effective) else "–",
    ]


def _print_summary(comparison: Comparison) -> None:
    found = summary(comparison)
    title = f"change of RMSE from {comparison.baseline} (%), mean of six channels, {len(comparison.times)} cycles"
    numbers = [name.replace(" ", "\n").replace("background", "back-\nground") for name in found["columns"]]
    table = new_table("run", numbers=[*numbers, "s a\ncycle"], title=title)
    for row in found["rows"]:
        cells = [row["cells"].get(name) for name in found["columns"]]
        changes = ["" if c is None else f"{c['change']:+.1f}{'*' if c['kind'] != 'none' else ' '}" for c in cells]
        table.add_row(row["run"], *changes, tables.number(row["cost"]["cycle"]))
    console.print(table)
    for run in comparison.judged:
        console.print(f"{run}: {chance_text(comparison, run)}")
