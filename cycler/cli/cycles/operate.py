"""Commands that operate an installation: `serve`, `doctor`, `bench`."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dacycle.common.settings import read_settings
from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli.options import ArchiveFolder, ExperimentFile, Threads, need_torch
from dacycle.cycler.experiment import load_experiment
from dacycle.forecast_adapter.grid import get_grid

app = typer.Typer()
console = Console()

PUBLISHED_FNP = Path("deploy/recipes/era5/fnp-r64.yaml")


@app.command()
def serve(
    experiment: ExperimentFile,
    archive: ArchiveFolder,
    forecasts: Annotated[bool, typer.Option(help="Make the forecasts that are due after the cycles.")] = True,
    threads: Threads = 1,
) -> None:
    """Run an experiment live on this machine, without a Prefect server: wake after each cutoff, run what is due.

    With `drift.free_run` the free run NAME-free is kept up beside it. SIGTERM or Ctrl-C stops the service after the
    cycle that is running. Started again, it catches up, in order.

    Example: dacycle serve live.yaml --archive /var/lib/dacycle
    """
    from dacycle.cycler.operations.service import Service

    Service(load_experiment(experiment), Archive(archive, create=True), forecasts, threads).serve()


@app.command()
def doctor(
    archive: ArchiveFolder,
    experiment: Annotated[
        Path | None, typer.Argument(metavar="[EXPERIMENT.yaml]", help="Check what this experiment needs as well.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show the checks that passed.")] = False,
) -> None:
    """Check the installation, and what an experiment needs; say what is wrong and how to mend it.

    Exit status 1 if anything is wrong.

    Example: dacycle doctor deploy/experiments/demo.yaml
    """
    from dacycle.cycler.operations.doctor import check_experiment, check_installation, check_writing

    findings = [*check_installation(), *check_writing(archive)]
    if experiment is not None:
        findings += check_experiment(experiment, archive)
    colours = {"ok": "green", "warning": "yellow", "wrong": "red"}
    shown = [f for f in findings if verbose or f.level != "ok" or not f.text[:1].isdigit()]
    for finding in shown:
        console.print(
            f"[{colours[finding.level]}]{finding.level:7}[/] {finding.subject}: {finding.text}", soft_wrap=True
        )
        if finding.remedy:
            console.print(f"        {finding.remedy}", soft_wrap=True, markup=False)
    if len(findings) > len(shown):
        console.print(f"        and {len(findings) - len(shown)} more that passed (--verbose shows them)")
    if any(finding.level == "wrong" for finding in findings):
        raise typer.Exit(1)


@app.command()
def bench(
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="[EXPERIMENT.yaml|ingest|forecast|network]",
            help="The experiment whose cycles are run; or `ingest`: time the reading of observations; `forecast`: a "
            "model's steps; `network`: an assimilator in ONNX Runtime and in torch.",
        ),
    ] = Path("deploy/experiments/demo.yaml"),
    cycles: Annotated[int, typer.Option(min=2, help="How many cycles to run.")] = 12,
    forecasts: Annotated[bool, typer.Option(help="Also run the forecasts from them.")] = True,
    prefect: Annotated[bool, typer.Option(help="Also run the cycles through Prefect.")] = False,
    threads: Threads = 1,
    samples: Annotated[
        Path | None,
        typer.Option(
            help="For `ingest`: folder of genuine files (default: DACYCLE_SAMPLES); without it, files are made."
        ),
    ] = None,
    model: Annotated[
        str, typer.Option(help="For `forecast`: an added model; the double is made if need be.")
    ] = "double-0.25deg",
    steps: Annotated[int, typer.Option(min=2, help="For `forecast`: how many steps of 6 h.")] = 6,
    recipe: Annotated[Path, typer.Option(help="For `network`: its recipe; weights are fresh.")] = PUBLISHED_FNP,
    grid: Annotated[str, typer.Option(help="For `network`: the grid.")] = "120x240",
    as_json: Annotated[bool, typer.Option("--json", help="Print numbers for a program.")] = False,
) -> None:
    """Measure where the time of a run goes, with real cycles in a temporary archive.

    The words `ingest`, `forecast` and `network` measure the reading of observations, what a forecast costs beside the
    model's network, and an assimilator's network instead.

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
    from dacycle.cycler.timing.cycles import bench as bench_cycles

    result = bench_cycles(load_experiment(experiment), cycles, forecasts, prefect, threads)
    if as_json:
        print(json.dumps(asdict(result) | {"rate": result.rate, "rate_with_forecasts": result.rate_with_forecasts}))
        return
    console.print(f"{result.cycles} cycles of {experiment}, {result.first} to {result.last}\non {result.machine}")
    table = Table("stage", "ms a cycle", "share")
    total = sum(result.stages.values())
    for stage, seconds in result.stages.items():
        table.add_row(stage, f"{1000 * seconds:.1f}", f"{seconds / total:.0%}")
    table.add_row("total", f"{1000 * total:.1f}", "")
    console.print(table)
    console.print(f"{result.rate:.2f} cycles a second, {3600 * result.rate / 1464:.2f} years of cycles an hour")
    console.print(
        f"loading and cold start {result.loading:.1f} s, archive {result.megabytes / result.cycles:.2f} MB a cycle"
    )
    if result.forecasts:
        each, step = result.forecast_seconds / result.forecasts, result.forecast_seconds / result.forecast_steps
        console.print(f"{result.forecasts} forecasts: {each:.2f} s each, {1000 * step:.0f} ms a step, scoring included")
        console.print(f"{result.rate_with_forecasts:.2f} cycles a second with them")
    if result.prefect is not None:
        console.print(f"Prefect: first flow run {result.prefect_start:.1f} s with its server's start, then ", end="")
        console.print(f"{result.prefect:+.1f} s for a flow run of {result.cycles} cycles")
    console.print(f"peak memory {result.peak_megabytes:.0f} MB")


def _bench_forecast(model: str, steps: int, threads: int, as_json: bool) -> None:
    from dacycle.cycler.timing.forecasts import bench_forecast

    result = bench_forecast(model, steps, threads)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    console.print(
        f"{result.running}\non {result.machine}; "
        f"{result.clock} time, medians of {result.steps - 1} steps after the first"
    )
    table = Table("", "rollout", "naive loop")
    table.add_row("the network, s a step", f"{result.network:.3f}", f"{result.naive_network:.3f}")
    table.add_row("beside it, s a step", f"{result.outside:.3f}", f"{result.naive_outside:.3f}")
    if result.memory is not None and result.naive_memory is not None:
        unit = f"peak memory, of the input's {result.input_bytes / 1e6:.0f} MB"
        table.add_row(unit, f"{result.memory:.2f}", f"{result.naive_memory:.2f}")
    console.print(table)
    whole, beside = (
        result.outside / (result.naive_network + result.naive_outside),
        result.outside / result.naive_outside,
    )
    console.print(f"beside it: {whole:.1%} of all that the naive loop takes, {beside:.1%} of what that takes beside it")
    if result.copies is not None:
        console.print(f"copies between host and device in a chain of {result.steps} steps: {result.copies}")


def _bench_network(recipe: Path, grid: str, threads: int, as_json: bool) -> None:
    need_torch()
    from dacycle.assimilators.exceptions import RecipeError
    from dacycle.assimilators.training.recipe import AssimilatorRecipe, load_recipe
    from dacycle.cycler.timing.networks import bench_network

    read = load_recipe(recipe)
    if not isinstance(read, AssimilatorRecipe):
        raise RecipeError(f"{recipe} is of kind {read.kind}, not of an assimilator")
    result = bench_network(read, get_grid(grid), threads)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    console.print(
        f"{read.method}, {result.weights:,} weights, on {grid}\non {result.machine}, {threads} threads of both"
    )
    table = Table("", "torch", "ONNX Runtime")
    table.add_row("s a call", f"{result.torch:.3f}", f"{result.onnx:.3f}")
    console.print(table)
    foreign = ", ".join(result.foreign) or "none"
    console.print(f"analyses apart by at most {result.apart:.1e} sd; operations that are not of ONNX: {foreign}")


def _bench_ingest(samples: Path | None, as_json: bool) -> None:
    from dacycle.cycler.timing.ingest import bench_ingest

    result = bench_ingest(samples or read_settings().samples)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    table = Table("what", "how much", "processor s", "a second", title="real samples" if result.real else "made files")
    day = f"a day of {result.stations} stations"
    for what, count, unit, seconds in (
        ("SYNOP in BUFR", result.synop_messages, f"messages, {result.synop_wanted} wanted", result.synop_seconds),
        ("ISD CSV", result.isd_reports, "reports", result.isd_seconds),
        (f"{day}, checked", result.day_values, "values", result.check_seconds),
        (f"{day}, superobbed", result.day_values, "values", result.superob_seconds),
    ):
        table.add_row(what, f"{count} {unit}", f"{seconds:.2f}", f"{count / seconds:.0f}")
    console.print(table)
    for chunks, size, peak, stays in result.memory:
        most = "not known" if peak is None else f"{peak:.0f} MB"
        console.print(f"a CSV file of {size:.0f} MB ({chunks} chunks): peak {most}, of which {stays:.0f} MB stay")
