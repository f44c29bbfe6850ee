"""`dacycle bench`: what a run, a command, a reader, a forecast or a network costs on this machine."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from dacycle.common.settings import read_settings
from dacycle.cycler.cli.options import Threads
from dacycle.cycler.cli.texts import need_torch
from dacycle.cycler.experiment import load_experiment
from dacycle.forecast_adapter.grid import get_grid

app = typer.Typer()
bench = typer.Typer(no_args_is_help=True, help="Measure what parts of dacycle cost on this machine.")
app.add_typer(bench, name="bench")
console = Console()

AsJson = Annotated[bool, typer.Option("--json", help="Print the numbers as JSON.")]
Demonstration = Annotated[
    Path, typer.Argument(metavar="[EXPERIMENT.yaml]", help="The experiment whose first cycles are run.")
]
DEMONSTRATION = Path("deploy/experiments/demo.yaml")
PUBLISHED_FNP = Path("deploy/recipes/era5/fnp-r64.yaml")


@bench.command()
def cycles(
    experiment: Demonstration = DEMONSTRATION,
    number: Annotated[int, typer.Option("--cycles", min=2, help="Number of cycles to run.")] = 12,
    forecasts: Annotated[bool, typer.Option(help="Also run them once more with their forecasts.")] = True,
    prefect: Annotated[bool, typer.Option(help="Also run the cycles through Prefect.")] = False,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Measure each stage of a cycle, with real cycles in a temporary archive.

    Example: dacycle bench cycles --cycles 20 --prefect
    """
    from dacycle.cycler.timing.cycles import bench as bench_cycles

    result = bench_cycles(load_experiment(experiment), number, forecasts, prefect, threads)
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
        console.print(
            f"with {result.forecasts} forecasts and their scores, as `dacycle hindcast --forecasts` makes them: "
            f"{result.with_forecasts:.1f} s\n"
            f"{result.rate_with_forecasts:.2f} cycles a second; "
            f"scaled by their number, a year of 1464 cycles takes {result.year:.1f} minutes"
        )
    if result.prefect is not None:
        console.print(f"Prefect: first flow run {result.prefect_start:.1f} s with its server's start, then ", end="")
        console.print(f"{result.prefect:+.1f} s for a flow run of {result.cycles} cycles")
    console.print(f"peak memory {result.peak_megabytes:.0f} MB")


@bench.command()
def control(
    experiment: Demonstration = DEMONSTRATION,
    number: Annotated[int, typer.Option("--cycles", min=2, help="Number of cycles of a run.")] = 40,
    pairs: Annotated[int, typer.Option(min=1, help="Runs by each way, in turns.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Measure what Prefect adds: the flow `hindcast` against the plain functions, in pairs of runs.

    Example: dacycle bench control deploy/experiments/demo.yaml --cycles 40 --pairs 5
    """
    from dacycle.cycler.timing.control import measure_control

    result = measure_control(load_experiment(experiment), number, pairs)
    if as_json:
        print(json.dumps(asdict(result)))
        return
    console.print(f"{result.pairs} pairs of {result.cycles} cycles of {experiment}\non {result.machine}")
    shares, walls = (", ".join(f"{share:+.1%}" for share in found) for found in (result.share, result.wall))
    console.print(f"plain {result.plain:.1f} ms of the processor a cycle, the flow {result.added:+.1f} ms: {shares}")
    console.print(f"wall time: {walls}; load {result.load:.1f}")
    console.print(f"Prefect's server takes {result.server:.1%} of a core beside, in a process of its own")


@bench.command()
def commands(
    experiment: Demonstration = DEMONSTRATION,
    number: Annotated[int, typer.Option("--cycles", min=2, help="Number of cycles to run.")] = 12,
    runs: Annotated[int, typer.Option(min=1, help="Times that each command runs; medians are shown.")] = 3,
    against: Annotated[
        str | None, typer.Option(metavar="PROGRAM", help="Another `dacycle`, run in turns with this one.")
    ] = None,
    compare: Annotated[
        Path | None, typer.Option(metavar="OLD.json", help="An earlier result of --json, shown beside this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure whole commands, each in a process of its own: wall time, processor time and memory.

    Example: dacycle bench commands --json > new.json

    Example: dacycle bench commands --compare docs/bench.json

    Example: dacycle bench commands --against ../old/.venv/bin/dacycle
    """
    from dacycle.cycler.timing.commands import bench_commands, find_program, read_bench, this_program

    programs = [this_program()] if against is None else [this_program(), find_program(against)]
    old = None if compare is None else read_bench(compare)
    result, *rival = bench_commands(load_experiment(experiment), number, runs, programs)
    old = rival[0] if rival else old
    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    console.print(f"{result.cycles} cycles of {experiment}, medians of {result.runs} runs\non {result.machine}")
    if old is not None and old.cycles != result.cycles:
        console.print(f"the other result is of {old.cycles} cycles: compare its times with care")
    table = Table(
        "command", "wall s", "processor s", "MB", *([] if old is None else ["wall before", "processor before"])
    )
    for name, times in result.commands.items():
        before = None if old is None else old.commands.get(name)
        others = [] if before is None else [f"{before.wall:.2f}", f"{before.processor:.2f}"]
        table.add_row(name, f"{times.wall:.2f}", f"{times.processor:.2f}", f"{times.memory:.0f}", *others)
    console.print(table)


@bench.command()
def profile(
    experiment: Demonstration = DEMONSTRATION,
    number: Annotated[int, typer.Option("--cycles", min=2, help="Number of cycles to run.")] = 12,
    days: Annotated[int, typer.Option(min=0, help="Also profile `dacycle demo` of so many days.")] = 0,
    share: Annotated[float, typer.Option(min=0, max=1, help="Stages that take less of a command are one line.")] = 0.03,
    as_json: AsJson = False,
) -> None:
    """Show where the processor time of whole commands goes, by stage.

    Each command runs in a process of its own, which is sampled every 5 ms with those that it starts.

    Example: dacycle bench profile --cycles 12 --days 2
    """
    from dacycle.cycler.timing.profile import profile_commands

    result = profile_commands(load_experiment(experiment), number, days)
    if as_json:
        print(json.dumps(asdict(result), indent=1))
        return
    console.print(f"{result.cycles} cycles of {experiment}\non {result.machine}")
    table = Table("command", "stage", "processor s", "share", "most of it in")
    for name, of_command in result.commands.items():
        table.add_row(name, "all", f"{of_command.processor:.2f}", "", "", style="bold")
        small = 0.0
        for stage, seconds in of_command.stages.items():
            part = seconds / of_command.processor
            if part < share:
                small += seconds
                continue
            table.add_row("", stage, f"{seconds:.2f}", f"{part:.0%}", of_command.most[stage])
        table.add_row("", "smaller ones", f"{small:.2f}", f"{small / of_command.processor:.0%}", "")
    console.print(table)


@bench.command()
def forecast(
    model: Annotated[str, typer.Option(help="An added model; a missing double is made.")] = "double-0.25deg",
    steps: Annotated[int, typer.Option(min=2, help="Number of 6-h steps.")] = 6,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Measure the cost of a forecast beyond the model's network.

    Example: dacycle bench forecast --model fengwu-v1
    """
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


@bench.command()
def network(
    recipe: Annotated[Path, typer.Option(help="A recipe; weights are untrained.")] = PUBLISHED_FNP,
    grid: Annotated[str, typer.Option(help="The grid.")] = "120x240",
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Measure an assimilator's network in ONNX Runtime and in torch.

    Example: dacycle bench network --recipe deploy/recipes/fnp-cpu.yaml --grid 5.625deg
    """
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


@bench.command()
def ingest(
    samples: Annotated[
        Path | None,
        typer.Option(help="Folder of real files (default: DACYCLE_SAMPLES); without one, files are generated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure the reading, checking and averaging of observations.

    Example: dacycle bench ingest --samples shared/data
    """
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
