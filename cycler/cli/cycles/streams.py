"""Hindcasts in parallel streams on the command line, and the command that shows their seams."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import typer

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli.options import ArchiveFolder, ExperimentName, quiet_cycles
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, progress_bar, waiting
from dacycle.cycler.experiment import Experiment, cycle_id
from dacycle.cycler.parallel.clusters import spread
from dacycle.cycler.parallel.forecasts import make_forecasts
from dacycle.cycler.parallel.streams import Stream, cut, find_streams, join, refuse_other_runs, run_stream
from dacycle.cycler.report import style, tables
from dacycle.cycler.report.seams import Seam, compare_streams
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["app", "hindcast_in_streams"]

app = typer.Typer()


def hindcast_in_streams(
    experiment: Experiment,
    archive: Path,
    number: int,
    overlap: pd.Timedelta,
    workers: int | None,
    dask: Path | None,
    forecasts: bool,
    threads: int,
) -> None:
    """Run the streams of an experiment and its free run, join them, show their seams, and make the forecasts."""
    streams, opened = cut(experiment, number, overlap), Archive(archive, create=True)
    refuse_other_runs(opened, experiment, streams)
    runs = [stream.experiment for stream in streams] + experiment.runs()[1:]
    if workers is None and dask is None:
        workers = max(1, min(len(runs), len(os.sched_getaffinity(0)) // threads))
    try:
        with quiet_cycles(), spread(workers, dask, archive / "prefect") as each:
            for k, counts in each(run_stream, [(archive, run, threads) for run in runs]):
                found = ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing was due"
                console.print(f"{runs[k].name}: {found}", soft_wrap=True)
            _join(opened, experiment, streams)
            if forecasts:
                for run in experiment.runs():
                    made = Counter(run.name for _ in make_forecasts(opened.branch(run.name), each, threads))
                    console.print(f"{run.name}: {made[run.name]} forecasts made")
    except KeyboardInterrupt:
        console.print("interrupted; the archive is whole, the same command goes on")
        raise typer.Exit(130) from None
    _print_seams(_seams(opened, streams))


def _join(archive: Archive, experiment: Experiment, streams: Sequence[Stream]) -> None:
    """Join the streams, with a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task(f"joining {experiment.name}", total=None)
        for time in join(archive, experiment, streams):
            bar.update(task, advance=1, description=f"joining {experiment.name} {cycle_id(time)}")
    last = cycle_id(archive.branch(experiment.name).times[-1])
    console.print(f"{experiment.name}: joined of {len(streams)} streams; it stands at {last}")


@app.command()
def seams(experiment: ExperimentName, archive: ArchiveFolder, as_json: AsJson = False) -> None:
    """Show how far the streams of a hindcast agree where one takes over from another.

    The seam error is the difference of their analyses in the last day of the overlap, beside the error of the analyses
    against the reference.

    Example: dacycle seams year
    """
    opened = Archive(archive)
    found = _seams(opened, find_streams(opened, experiment))
    if as_json:
        print_json([_content(seam) for seam in found])
    else:
        _print_seams(found)


def _seams(archive: Archive, streams: Sequence[Stream]) -> list[Seam]:
    with waiting("comparing streams"):
        world, names = load_world(streams[0].experiment.world), [stream.experiment.name for stream in streams]
        joints = zip(pairwise(names), streams[1:], strict=True)
        return [compare_streams(archive, *neighbours, later.first, world) for neighbours, later in joints]


def _content(seam: Seam) -> dict[str, Any]:
    return {**asdict(seam), "table": seam.table.reset_index()}


def _print_seams(found: Sequence[Seam]) -> None:
    for seam in found:
        title = f"{seam.before} to {seam.after} at {cycle_id(seam.time)}, {seam.cycles} cycles of overlap"
        table = new_table("channel", numbers=["seam error", "analysis error", "share"], title=title)
        for channel in HEADLINE:
            factor, unit = style.readable(channel)
            row = seam.table.loc[channel]
            errors = (tables.number(factor * float(row[name])) for name in ("seam_error", "analysis_error"))
            share = f"{row['share']:.1%}" if np.isfinite(row["share"]) else "–"
            table.add_row(f"{channel} ({unit})", *errors, share)
        console.print(table)
        console.print(seam.verdict)
