"""Commands that look after a machine and an installation: `serve`, `doctor`, `bench`."""

import json
import logging
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dacycle.common.settings import read_settings
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli.models.training import need_torch
from dacycle.cycler.experiment import load_experiment
from dacycle.forecast_adapter.grid import get_grid

app = typer.Typer()
console = Console()

ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment's file.")]
ArchiveFolder = Annotated[Path, typer.Option("--archive", envvar="DACYCLE_ARCHIVE", help="The archive's folder.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the networks; other numbers round differently.")]
DEFAULT_ARCHIVE = Path("archive")
PUBLISHED_FNP = Path("deploy/recipes/era5/fnp-r64.yaml")


@app.command()
def serve(
    experiment: ExperimentFile,
    archive: ArchiveFolder = DEFAULT_ARCHIVE,
    forecasts: Annotated[bool, typer.Option(help="Make the forecasts that are due after the cycles.")] = True,
    threads: Threads = 1,
) -> None:
    """Run an experiment live on this machine, without a Prefect server: wake after each cutoff, run what is due.

    SIGTERM or Ctrl-C stops it after the cycle that is running. Started again, it catches up, in order.

    Example: dacycle serve live.yaml --archive /var/lib/dacycle
    """
    from dacycle.cycler.operations.service import Service

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("apscheduler").setLevel(logging.WARNING)
    described = load_experiment(experiment)
    Service(described, Archive(archive, create=True), forecasts, threads).serve()


@app.command()
def doctor(
    experiment: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT.yaml]", help="Check what this experiment needs as well.")
    ] = None,
    archive: ArchiveFolder = DEFAULT_ARCHIVE,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what is well, too.")] = False,
) -> None:
    """Check the installation, and what an experiment needs; say what is wrong and what mends it.

    Exit status 1 if anything is wrong.

    Example: dacycle doctor deploy/experiments/demo.yaml
    """
    from dacycle.cycler.operations.doctor import check_experiment, check_installation

    findings = list(check_installation())
    if experiment is not None:
        findings += check_experiment(experiment, archive)
    colours = {"ok": "green", "warning": "yellow", "wrong": "red"}
    shown = [f for f in findings if verbose or f.level != "ok" or not f.found[:1].isdigit()]
    for finding in shown:
        console.print(f"[{colours[finding.level]}]{finding.level:7}[/] {finding.what}: {finding.found}", soft_wrap=True)
        if finding.remedy:
            console.print(f"        {finding.remedy}", soft_wrap=True, markup=False)
    if len(findings) > len(shown):
        console.print(f"        and {len(findings) - len(shown)} more that are well (--verbose shows them)")
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="[EXPERIMENT.yaml|ingest|forecast|network]",
            help="Whose cycles to run; or `ingest`: reading observations; or `forecast`: a model's steps; "
            "or `network`: an assimilator's in ONNX Runtime and in torch.",
        ),
    ] = Path("deploy/experiments/demo.yaml"),
    cycles: Annotated[int, typer.Option(min=2, help="How many cycles to run.")] = 12,
    forecasts: Annotated[bool, typer.Option(help="Run the forecasts from them, too.")] = True,
    prefect: Annotated[bool, typer.Option(help="Run the cycles through Prefect, too.")] = False,
    threads: Threads = 1,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="For `ingest`: folder of genuine files (default: DACYCLE_SAMPLES); without it, files are made."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="For `forecast`: an added model; the double is made where it is not there.")
    ] = "double-0.25deg",
    steps: Annotated[int, typer.Option(min=2, help="For `forecast`: how many steps of 6 h.")] = 6,
    recipe: Annotated[Path, typer.Option(help="For `network`: whose network, with fresh weights.")] = PUBLISHED_FNP,
    grid: Annotated[str, typer.Option(help="For `network`: on which grid.")] = "120x240",
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers for a program.")] = False,
) -> None:
    """Measure where the time of a run goes, with real cycles in a temporary archive; or how fast observations come in.

    Or what a model's forecast costs beside its network.

    Example: dacycle bench --cycles 20 --prefect

    Example: dacycle bench ingest --samples shared/data

    Example: dacycle bench forecast --model fengwu-v1

    Example: dacycle bench network --recipe deploy/recipes/fnp-cpu.yaml --grid 5.625deg
    """
    if experiment == Path("network"):
        _bench_network(recipe, grid, threads, as_json)
        return
    if experiment == Path("forecast"):
        _bench_forecast(model, steps, threads, as_json)
        return
    if experiment == Path("ingest"):
        _bench_ingest(samples, as_json)
        return
    from dacycle.cycler.timing.cycles import bench as measure

    found = measure(load_experiment(experiment), cycles, forecasts, prefect, threads)
    if as_json:
        print(json.dumps(asdict(found) | {"rate": found.rate, "rate_with_forecasts": found.rate_with_forecasts}))
        return
    console.print(f"{found.cycles} cycles of {experiment}, {found.first} to {found.last}\non {found.machine}")
    table = Table("stage", "ms a cycle", "share")
    total = sum(found.stages.values())
    for stage, seconds in found.stages.items():
        table.add_row(stage, f"{1000 * seconds:.1f}", f"{seconds / total:.0%}")
    table.add_row("total", f"{1000 * total:.1f}", "")
    console.print(table)
    console.print(f"{found.rate:.2f} cycles a second, {3600 * found.rate / 1464:.2f} years of cycles an hour")
    console.print(
        f"loading and cold start {found.loading:.1f} s, archive {found.megabytes / found.cycles:.2f} MB a cycle"
    )
    if found.forecasts:
        each, step = found.forecast_seconds / found.forecasts, found.forecast_seconds / found.forecast_steps
        console.print(f"{found.forecasts} forecasts: {each:.2f} s each, {1000 * step:.0f} ms a step, scoring included")
        console.print(f"{found.rate_with_forecasts:.2f} cycles a second with them")
    if found.prefect is not None:
        console.print(f"Prefect: first flow run {found.prefect_start:.1f} s with its server's start, then ", end="")
        console.print(f"{found.prefect:+.1f} s for a flow run of {found.cycles} cycles")
    console.print(f"peak memory {found.peak_megabytes:.0f} MB")


def _bench_forecast(model: str, steps: int, threads: int, as_json: bool) -> None:
    from dacycle.cycler.timing.forecasts import bench_forecast

    found = bench_forecast(model, steps, threads)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    console.print(
        f"{found.running}\non {found.machine}; {found.clock} time, medians of {found.steps - 1} steps after the first"
    )
    table = Table("", "rollout", "naive loop")
    table.add_row("the network, s a step", f"{found.network:.3f}", f"{found.naive_network:.3f}")
    table.add_row("beside it, s a step", f"{found.outside:.3f}", f"{found.naive_outside:.3f}")
    if found.memory is not None and found.naive_memory is not None:
        unit = f"peak memory, of the input's {found.input_bytes / 1e6:.0f} MB"
        table.add_row(unit, f"{found.memory:.2f}", f"{found.naive_memory:.2f}")
    console.print(table)
    whole, beside = found.outside / (found.naive_network + found.naive_outside), found.outside / found.naive_outside
    console.print(f"beside it: {whole:.1%} of all that the naive loop takes, {beside:.1%} of what that takes beside it")
    if found.copies is not None:
        console.print(f"copies between host and device in a chain of {found.steps} steps: {found.copies}")


def _bench_network(recipe: Path, grid: str, threads: int, as_json: bool) -> None:
    need_torch()
    from dacycle.assimilators.exceptions import RecipeError
    from dacycle.assimilators.training.recipe import AssimilatorRecipe, load_recipe
    from dacycle.cycler.timing.networks import bench_network

    read = load_recipe(recipe)
    if not isinstance(read, AssimilatorRecipe):
        raise RecipeError(f"{recipe} is of kind {read.kind}, not of an assimilator")
    found = bench_network(read, get_grid(grid), threads)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    console.print(f"{read.method}, {found.weights:,} weights, on {grid}\non {found.machine}, {threads} threads of both")
    table = Table("", "torch", "ONNX Runtime")
    table.add_row("s a call", f"{found.torch:.3f}", f"{found.onnx:.3f}")
    console.print(table)
    foreign = ", ".join(found.foreign) or "none"
    console.print(f"analyses apart by at most {found.apart:.1e} sd; operations that are not of ONNX: {foreign}")


def _bench_ingest(samples: Path | None, as_json: bool) -> None:
    from dacycle.cycler.timing.ingest import bench_ingest

    found = bench_ingest(samples or read_settings().samples)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    table = Table("what", "how much", "processor s", "a second", title="real samples" if found.real else "made files")
    day = f"a day of {found.stations} stations"
    for what, count, unit, seconds in (
        ("SYNOP in BUFR", found.synop_messages, f"messages, {found.synop_wanted} wanted", found.synop_seconds),
        ("ISD CSV", found.isd_reports, "reports", found.isd_seconds),
        (f"{day}, checked", found.day_values, "values", found.check_seconds),
        (f"{day}, superobbed", found.day_values, "values", found.superob_seconds),
    ):
        table.add_row(what, f"{count} {unit}", f"{seconds:.2f}", f"{count / seconds:.0f}")
    console.print(table)
    for chunks, size, peak, stays in found.memory:
        most = "not known" if peak is None else f"{peak:.0f} MB"
        console.print(f"a CSV file of {size:.0f} MB ({chunks} chunks): peak {most}, of which {stays:.0f} MB stay")
