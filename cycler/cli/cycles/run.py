"""Commands that run experiments and look after their branches."""

from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from dacycle.common import clock
from dacycle.common.configuration import set_entry
from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, ArchiveError, Branch
from dacycle.cycler.archive.writer import write
from dacycle.cycler.cli.options import (
    ArchiveFolder,
    Dask,
    ExperimentFile,
    ExperimentName,
    Threads,
    Workers,
    quiet_cycles,
)
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, progress_bar
from dacycle.cycler.cli.texts import cycle_time, duration, parse_setting
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import each_due_cycle, run_due_cycles
from dacycle.cycler.cycle.run_cycle import RunStoppedError
from dacycle.cycler.experiment import (
    STEP,
    Experiment,
    ExperimentError,
    cycle_id,
    load_experiment,
    parse_donor,
    parse_experiment,
    write_experiment,
)
from dacycle.cycler.operations.plan import Plan
from dacycle.cycler.operations.plan import plan as plan_run
from dacycle.cycler.verification.beside import Forecasting, forecasting, starts_until

app = typer.Typer()


@app.command()
def plan(experiment: ExperimentFile, archive: ArchiveFolder, threads: Threads = 1, as_json: AsJson = False) -> None:
    """Show what a run would do: cycles, inputs that are there or missing, cost. Nothing is written.

    Exit status 2 if an input is missing.

    Example: dacycle plan deploy/experiments/demo.yaml
    """
    described = load_experiment(experiment)
    exists = (archive / "states.icechunk").is_dir()
    outlook = plan_run(described, Archive(archive) if exists else None, threads)
    if as_json:
        print_json({"experiment": described.name, "archive": archive, **asdict(outlook)})
    else:
        _print_plan(outlook, f"{described.name} in {archive}{'' if exists else ' (not there yet)'}")
    if outlook.missing:
        raise typer.Exit(2)


def _print_plan(outlook: Plan, title: str) -> None:
    last = "no end, live" if outlook.last is None else cycle_id(outlook.last)
    table = new_table("", "", title=title)
    table.show_header = False
    table.columns[0].no_wrap = True
    if outlook.first is None:
        table.add_row("to run", f"nothing: all {outlook.done} cycles are in the archive")
    else:
        table.add_row("to run", f"{outlook.cycles or 'all'} cycles, {cycle_id(outlook.first)} to {last}")
        table.add_row("done", f"{outlook.done} cycles")
        for name, contents in outlook.sources.items():
            table.add_row(f"source {name}", "; ".join(str(content) for content in contents))
        if outlook.late:
            table.add_row("late chain", outlook.late)
        seconds = outlook.chain_steps * outlook.step_seconds
        table.add_row("model", f"{outlook.step_seconds:.3f} s for each 6-h step, {seconds:.0f} s in all")
        table.add_row(
            "forecasts", f"{outlook.forecast_steps} steps, {outlook.forecast_steps * outlook.step_seconds:.0f} s"
        )
        table.add_row("disk", f"{outlook.megabytes:.0f} MB of states before compression")
        table.add_row("missing", "\n".join(outlook.missing) or "nothing")
    console.print(table, markup=False)


@app.command()
def hindcast(
    experiment: ExperimentFile,
    archive: ArchiveFolder,
    until: Annotated[
        str | None, typer.Option(help="Last cycle, e.g. 20240110T00; default: the experiment's end.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Run at most this many cycles.")] = None,
    forecasts: Annotated[
        bool,
        typer.Option("--forecasts", help="Also make and score the forecasts; on a second core, while the cycles run."),
    ] = False,
    threads: Threads = 1,
    prefect: Annotated[
        bool, typer.Option("--prefect", help="As a Prefect flow, with forecasts and report, on a server of its own.")
    ] = False,
    streams: Annotated[
        int | None, typer.Option(min=2, help="Cut the period into so many streams, run in parallel and then joined.")
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(help="Spin-up of each stream before its part, e.g. 36h; default: 5d.")
    ] = None,
    workers: Workers = None,
    dask: Dask = None,
) -> None:
    """Run all cycles that are not yet in the archive; run the command again to continue after an interruption.

    With `late` the late chain NAME-late runs first. With `drift.free_run` the free run NAME-free, the same run without
    assimilation, follows. With `--streams` the parts run on the branches NAME-1, NAME-2 ..., and `dacycle seams NAME`
    says how far they agree where they meet.

    Example: dacycle hindcast deploy/experiments/demo.yaml --archive archive

    Example: dacycle hindcast year.yaml --forecasts

    Example: dacycle hindcast year.yaml --streams 4 --overlap 7d --dask deploy/dask/slurm.yaml
    """
    if streams is not None:
        if until is not None or limit is not None or prefect:
            raise typer.BadParameter("--streams runs the whole experiment; leave --until, --limit and --prefect out")
        from dacycle.cycler.cli.cycles.streams import hindcast_in_streams

        spin_up = duration(overlap or "5d", "--overlap")
        hindcast_in_streams(
            load_experiment(experiment), archive, streams, spin_up, workers, dask, forecasts, threads
        )  # fmt: skip
        return
    if workers is not None or dask is not None or overlap is not None:
        raise typer.BadParameter(
            "--workers, --dask and --overlap go with --streams: one chain of cycles runs in one process"
        )
    if prefect:
        if until is not None or limit is not None or forecasts or threads != 1:
            raise typer.BadParameter("--prefect runs the whole experiment on one thread; leave the other options out")
        from dacycle.cycler.operations import flows  # a second to import

        with flows.embedded_server(archive / "prefect"):
            flows.hindcast(str(experiment), str(archive))
        return
    last, described, opened = cycle_time(until), load_experiment(experiment), Archive(archive, create=True)
    runs, stopped = described.runs(), None
    expected = [starts_until(run, last) for run in runs] if forecasts else []
    number = sum(expected if limit is None else (min(starts, limit) for starts in expected))
    with forecasting(opened, [run.name for run in runs if run.drift.starts], number, threads) as making:
        for run in runs:
            try:
                _run(run, opened, last, limit, threads)
            except RunStoppedError as error:
                if run.name != described.late_name:
                    raise
                stopped = error  # the experiment goes on from its own analyses
        if forecasts:
            _forecast(making)
    if stopped is not None:
        raise stopped


def _forecast(making: Forecasting) -> None:
    """Make the forecasts that are left, with a progress bar."""
    with progress_bar() as bar:
        task = bar.add_task("forecasts", total=making.due())
        try:
            for name, start in making.rest():
                bar.update(task, advance=1, description=f"{name} {cycle_id(start)}")
        except KeyboardInterrupt:
            console.print("interrupted; what was made is kept, the same command goes on")
            raise typer.Exit(130) from None


def _run(experiment: Experiment, archive: Archive, until: pd.Timestamp | None, limit: int | None, threads: int) -> None:
    """Run one experiment with a progress bar."""
    last = min(time for time in (until, experiment.end, pd.Timestamp.max) if time is not None)
    done: list[tuple[str, dict[str, float]]] = []  # without records, which add up
    running = each_due_cycle(experiment, archive, until=until, limit=limit, threads=threads)
    with progress_bar() as bar, quiet_cycles(), closing(running):
        task = bar.add_task(experiment.name, total=limit)
        try:
            for cycle in running:
                left = int((last - cycle.time) / STEP) + len(done)
                done.append((cycle.record.status, cycle.seconds))
                total = left + 1 if limit is None else min(left + 1, limit)
                description = f"{experiment.name} {cycle.record.id} {cycle.record.status}"
                bar.update(task, completed=len(done), total=total, description=description)
        except KeyboardInterrupt:
            console.print(f"interrupted after {len(done)} cycles; the archive is whole, the same command goes on")
            raise typer.Exit(130) from None
    _summarise(experiment, archive, done)


def _summarise(experiment: Experiment, archive: Archive, done: list[tuple[str, dict[str, float]]]) -> None:
    statuses = pd.Series([status for status, _ in done], dtype=str).value_counts()
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "nothing was due"
    seconds = pd.DataFrame([seconds for _, seconds in done]).mean()
    stages = ", ".join(f"{stage} {value * 1000:.0f}" for stage, value in seconds.items())
    console.print(f"{experiment.name}: {counts}; it stands at {cycle_id(archive.branch(experiment.name).times[-1])}")
    if stages:
        console.print(f"  milliseconds a cycle: {stages}")


@app.command()
def cycle(experiment: ExperimentFile, archive: ArchiveFolder, threads: Threads = 1) -> None:
    """Run the next cycle of the archive, if the cutoffs of its observations have passed.

    With `late` the cycles of the late chain run first, as far as this one needs them.

    Example: dacycle cycle deploy/experiments/demo.yaml
    """
    described = load_experiment(experiment)
    now = clock.now()
    opened = Archive(archive, create=True)
    with quiet_cycles():
        done = run_due_cycles(described, opened, now=now, limit=1, threads=threads)
    if not done:
        next_time = opened.branch(described.name).next_time
        console.print(f"{described.name}: nothing is due yet; next is {next_time and cycle_id(next_time)}")
        return
    record = done[0].record
    uses = ", ".join(f"{count} {use}" for use, count in record.uses.items())
    reason = f" ({record.reason})" if record.reason else ""
    start = f"; from {record.start['from']} {record.start['cycle']}" if record.start else ""
    console.print(f"{described.name} {record.id}: {record.status}{reason}; values: {uses}{start}")


@app.command()
def fork(
    donor: Annotated[
        str,
        typer.Argument(metavar="EXPERIMENT@TIME", help="The cycle to start from; without @TIME its start."),
    ],
    name: Annotated[str, typer.Argument(help="Name of the new experiment.")],
    archive: ArchiveFolder,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Key to change and its value; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new experiment's file; default NAME.yaml.")] = None,
) -> None:
    """Begin an experiment on the past of another one, with some settings changed.

    It needs no free run of its own: that of the other experiment is used, unless `model` is changed. Its late chain
    begins on the past of the other's. Run the command again to finish after an interruption; what is there already is
    kept.

    Example: dacycle fork demo@20240110T00 no-olr --set 'deny=[olr]'

    Example: dacycle fork demo demo-oi --set assimilator=oi
    """
    path = out or Path(f"{name}.yaml")
    opened = Archive(archive)
    origin, time = _donor(donor, opened)
    content = opened.branch(origin).experiment.as_dict()
    content |= {"name": name, "start": cycle_id(time + STEP), "cold_start": {"from": f"{origin}@{cycle_id(time)}"}}
    changes = dict(parse_setting(setting, "--set") for setting in change or [])
    if "model" not in changes:
        changes = {"drift.free_run": False, **changes}
    if content.get("late"):
        content["late"].pop("from", None)  # of the other experiment
    for key, value in changes.items():
        set_entry(content, key, value, "--set", ExperimentError)
    if content.get("late"):
        content["late"] |= {} if "from" in content["late"] else _late_origin(opened, origin, time)
    text = write_experiment(content)
    if path.exists() and path.read_bytes() != text.encode():
        raise ExperimentError(f"{path} exists; give another --out")
    described = parse_experiment(text, f"{path} (not written)")
    if name in opened.branches() and opened.branch(name).experiment != described:
        raise ExperimentError(f"{archive} already has an experiment {name}")
    load_inputs(described)
    for run in described.runs():
        if run.cold_start.from_ is None or run.name == f"{name}-free":
            continue
        with write(opened, run) as writer:
            if run.name == name:
                write_whole(path, text.encode())
            if writer.next_time is None:
                writer.fork()
    console.print(
        f"{name} begins after {origin}@{cycle_id(time)}; go on with `dacycle hindcast {path} --archive {archive}`"
    )


def _donor(text: str, archive: Archive) -> tuple[str, pd.Timestamp]:
    """Return the experiment and the cycle of `EXPERIMENT@TIME`; of an experiment alone the cycle before its first."""
    if "@" not in text:
        return text, archive.branch(text).experiment.start - STEP
    try:
        return parse_donor(text)
    except ValueError as error:
        raise ExperimentError(str(error)) from None


def _late_origin(archive: Archive, origin: str, time: pd.Timestamp) -> dict[str, str]:
    """Return `from` of the late chain of a fork: the other's late cycle at the time of the fork, or its newest."""
    late = f"{origin}-late"
    stands = archive.branch(late).times[-1] if late in archive.branches() else None
    return {} if stands is None else {"from": f"{late}@{cycle_id(min(stands, time))}"}


def _cycles_after(branch: Branch, time: pd.Timestamp) -> int:
    """Return the number of cycles after a time: where they are damaged, as far as the list of commits says."""
    try:
        return int((branch.times > time).sum())
    except ArchiveError:
        return sum(note["time"] > cycle_id(time) for note in branch.archive.states.notes(branch.name))


@app.command()
def rewind(
    name: ExperimentName,
    time: Annotated[str, typer.Argument(help="The cycle that will be its last, e.g. 20240110T00.")],
    archive: ArchiveFolder,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Take an experiment back to one of its cycles; later cycles are dropped and can be run again.

    Of a late chain: cycles of the experiment that started from dropped ones stay as they are, and are named.

    Example: dacycle rewind demo 20240110T00
    """
    opened, target = Archive(archive), cycle_time(time)
    assert target is not None
    later = _cycles_after(opened.branch(name), target)
    if remark := _said_of_early(opened, name, target):
        console.print(remark, soft_wrap=True, markup=False)
    if not yes:
        typer.confirm(f"drop {later} cycles of {name} after {cycle_id(target)}?", abort=True)
    opened.rewind(name, target)
    console.print(f"{name} stands at {cycle_id(target)}; {later} cycles were dropped")


def _said_of_early(archive: Archive, late: str, target: pd.Timestamp) -> str:
    """Return a sentence about cycles that started from cycles of a late chain after `target`; empty without any."""
    name = late.removesuffix("-late")
    if name == late or name not in archive.branches():
        return ""
    branch = archive.branch(name)
    started = [r for r in branch.records if r.start and r.start["from"] == late and r.start["cycle"] > cycle_id(target)]
    if not started:
        return ""
    first, before = started[0].id, cycle_id(started[0].time - STEP)
    return (
        f"{branch.name}: {len(started)} cycles, from {first} on, started from these; they stay as they were run. To "
        f"run them again, too: dacycle rewind {branch.name} {before}"
    )
