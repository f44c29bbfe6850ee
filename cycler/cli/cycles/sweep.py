"""The command that runs a study."""

from pathlib import Path
from typing import Annotated

import typer

from dacycle.cycler.cli.options import Dask, Workers, quiet_cycles
from dacycle.cycler.cli.show import AsJson, console, print_json
from dacycle.cycler.cli.texts import cycle_time
from dacycle.cycler.parallel.clusters import spread
from dacycle.cycler.sweep.run import Outlook, plan_study, run_study
from dacycle.cycler.sweep.study import load_study, trials_of
from dacycle.cycler.sweep.table import markdown, tables_of, write_table

__all__ = ["app"]

app = typer.Typer()


@app.command()
def sweep(
    study: Annotated[Path, typer.Argument(metavar="STUDY.yaml", help="The study, e.g. deploy/studies/oi.yaml.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of table.md and table.json; default: runs/ and the study's name.")
    ] = None,
    until: Annotated[
        str | None, typer.Option(help="Last cycle of all runs, e.g. 20240118T00; default: their own end.")
    ] = None,
    workers: Workers = None,
    dask: Dask = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would run and what it would cost.")] = False,
    table: Annotated[bool, typer.Option("--table", help="Only write the table of what the archive holds.")] = False,
    as_json: AsJson = False,
) -> None:
    """Run methods and settings in the same cycles, and compare them; run it again to continue.

    What is finished is not run again, and a trial whose settings have changed since its first cycle is refused. With
    --until the runs end early, and a later call goes on from there.

    Example: dacycle sweep deploy/studies/oi.yaml --plan

    Example: dacycle sweep deploy/studies/oi.yaml --workers 2
    """
    described, name = load_study(study), study.stem
    trials = trials_of(described, name)
    if plan:
        outlook = plan_study(described, trials)
        print_json({"study": name, **vars(outlook)}) if as_json else _print_plan(name, outlook)
        return
    if not table:

        def show(run: str) -> None:
            console.print(f"done: {run}", soft_wrap=True)

        count = sum(len(trial.experiments) for trial in trials)
        try:
            with quiet_cycles(), spread(workers, dask, described.archive / "prefect") as each:
                stopped = run_study(described, trials, each, show, cycle_time(until))
        except KeyboardInterrupt:
            console.print("interrupted; what was done is kept, the same command goes on")
            raise typer.Exit(130) from None
        for reason in stopped.values():
            console.print(f"stopped: {reason}", soft_wrap=True)
        console.print(f"{count - len(stopped)} of {count} runs are complete")
    tables = tables_of(described, name, trials)
    paths = write_table(tables, out or Path("runs") / name)
    if as_json:
        print_json([vars(one) for one in tables])
        return
    for one in tables:
        console.print(markdown(one), markup=False, soft_wrap=True)
    console.print(f"{', '.join(map(str, paths))}", soft_wrap=True)


def _print_plan(name: str, outlook: Outlook) -> None:
    trials = ", ".join(f"{method} {count}" for method, count in outlook.trials.items())
    console.print(f"{name}: trials: {trials}")
    console.print(f"{outlook.cycles} cycles, of which {outlook.done} are in the archive; {outlook.forecasts} forecasts")
    for method, cost in outlook.by_method.items():
        console.print(f"{method}: {cost.seconds:.2f} s and {cost.bytes / 1e6:.1f} MB a cycle")
    console.print(
        f"left: {outlook.seconds / 3600:.2g} h on one processor without forecasts, {outlook.bytes / 1e9:.2g} GB on disk"
    )
