"""The command that compares all methods."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from dacycle.cycler.benchmark.page import write_report
from dacycle.cycler.benchmark.run import cycled_results, load_benchmark, run_cycles, run_single_analyses
from dacycle.cycler.cli.options import Dask, Workers
from dacycle.cycler.cli.show import console
from dacycle.cycler.parallel.clusters import spread
from dacycle.cycler.timing.measure import machine

__all__ = ["app"]

app = typer.Typer()


@app.command()
def benchmark(
    file: Annotated[Path, typer.Argument(help="The benchmark's file, e.g. deploy/benchmarks/demonstration.yaml.")],
    out: Annotated[Path, typer.Option(help="Folder of README.md, CSV files and figures.")],
    kept: Annotated[Path, typer.Option(help="Folder of scores; stored scores are not computed again.")] = Path(
        "runs/benchmark"
    ),
    method: Annotated[list[str] | None, typer.Option(help="Only these methods of the file; may be repeated.")] = None,
    cycles: Annotated[bool, typer.Option(help="Also run and show the file's experiment in cycles.")] = True,
    workers: Workers = None,
    dask: Dask = None,
) -> None:
    """Compare methods on the same single analyses, and in the same cycles; run it again to continue.

    Example: dacycle benchmark deploy/benchmarks/demonstration.yaml --out docs/benchmark
    """
    comparison = load_benchmark(file)
    if method:
        unknown = [name for name in method if name not in comparison.methods]
        if unknown:
            raise typer.BadParameter(
                f"{', '.join(unknown)} not among the methods of {file}: {', '.join(comparison.methods)}"
            )
        comparison = comparison.model_copy(update={"methods": method})
    if not cycles:
        comparison = comparison.model_copy(update={"cycled": None})
    try:
        with spread(workers, dask, kept / "prefect") as each:
            single = run_single_analyses(comparison, kept, each)
            run_cycles(comparison, each)
    except KeyboardInterrupt:
        console.print("interrupted; what was done is kept, the same command goes on")
        raise typer.Exit(130) from None
    command = shlex.join(["dacycle", *sys.argv[1:]])
    made_by = [f"    {command}", f"on {machine()}."]
    console.print(str(write_report(comparison, single, cycled_results(comparison), made_by, out)), soft_wrap=True)
