"""Commands that run experiments and look after their branches."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from rich.markup import escape

from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import Archive, ArchiveError, Branch
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.cli.options import (
    ArchiveFolder,
    ExperimentFile,
    ExperimentName,
    Threads,
    cycle_time,
    parse_setting,
    quiet_cycles,
)
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, progress_bar
from dacycle.cycler.cycle.inputs import load_inputs
from dacycle.cycler.cycle.replay import Cycle, run_due_cycles
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
from dacycle.cycler.operations.arrivals import came_after
from dacycle.cycler.operations.plan import Plan
from dacycle.cycler.operations.plan import plan as plan_run

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
        seconds = outlook.cycles * outlook.step_seconds
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
    threads: Threads = 1,
    prefect: Annotated[
        bool, typer.Option("--prefect", help="As a Prefect flow, with forecasts and report, on a server of its own.")
    ] = False,
) -> None:
    """Run all cycles that are not yet in the archive; run the command again to continue after an interruption.

    With `drift.free_run` the free run NAME-free, the same run without assimilation, follows.

    Example: dacycle hindcast deploy/experiments/demo.yaml --archive archive
    """
    if prefect:
        if until is not None or limit is not None or threads != 1:
            raise typer.BadParameter("--prefect runs the whole experiment on one thread; leave the other options out")
        from dacycle.cycler.operations import flows  # a second to import

        with flows.embedded_server(archive / "prefect"):
            flows.hindcast(str(experiment), str(archive))
        return
    last = cycle_time(until)
    for run in load_experiment(experiment).runs():
        _run(run, Archive(archive, create=True), last, limit, threads)


def _run(experiment: Experiment, archive: Archive, until: pd.Timestamp | None, limit: int | None, threads: int) -> None:
    """Run one experiment with a progress bar."""
    last = min(time for time in (until, experiment.end, pd.Timestamp.max) if time is not None)
    done: list[Cycle] = []
    with progress_bar() as bar, quiet_cycles():
        task = bar.add_task(experiment.name, total=limit)

        def show(cycle: Cycle) -> None:
            left = int((last - cycle.time) / STEP) + len(done)
            done.append(cycle)
            total = left + 1 if limit is None else min(left + 1, limit)
            description = f"{experiment.name} {cycle.record.id} {cycle.record.status}"
            bar.update(task, completed=len(done), total=total, description=description)

        try:
            run_due_cycles(experiment, archive, progress=show, until=until, limit=limit, threads=threads)
        except KeyboardInterrupt:
            console.print(f"interrupted after {len(done)} cycles; the archive is whole, the same command goes on")
            raise typer.Exit(130) from None
    _summarise(experiment, archive, done)


def _summarise(experiment: Experiment, archive: Archive, done: list[Cycle]) -> None:
    statuses = pd.Series([cycle.record.status for cycle in done], dtype=str).value_counts()
    counts = ", ".join(f"{count} {status}" for status, count in statuses.items()) or "nothing was due"
    seconds = pd.DataFrame([cycle.seconds for cycle in done]).mean()
    stages = ", ".join(f"{stage} {value * 1000:.0f}" for stage, value in seconds.items())
    console.print(f"{experiment.name}: {counts}; it stands at {cycle_id(archive.branch(experiment.name).times[-1])}")
    if stages:
        console.print(f"  milliseconds a cycle: {stages}")


@app.command()
def cycle(experiment: ExperimentFile, archive: ArchiveFolder, threads: Threads = 1) -> None:
    """Run the next cycle of the archive, if the cutoffs of its observations have passed.

    Example: dacycle cycle deploy/experiments/demo.yaml
    """
    described = load_experiment(experiment)
    now = pd.Timestamp.now("UTC").tz_localize(None)
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
    console.print(f"{described.name} {record.id}: {record.status}{reason}; values: {uses}")


@app.command()
def status(
    archive: ArchiveFolder,
    folder: Annotated[
        Path | None, typer.Argument(metavar="ARCHIVE", help="The archive's folder, in place of --archive.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the whole archive and name damaged parts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the progress of each experiment in an archive, and the input that its last cycle could not read.

    Exit status 1 if a part of the archive is damaged.

    Example: dacycle status --archive archive --check
    """
    archive = folder or archive
    opened = Archive(archive)
    damage: list[str] = []
    experiments: list[dict[str, Any]] = []
    for name in opened.branches():
        branch = opened.branch(name)
        try:
            experiments.append(_progress_of(branch))
            damage += branch.damaged() if check else []
        except ArchiveError as error:
            damage.append(str(error))
    damage = list(dict.fromkeys(damage))  # runs share scores
    if as_json:
        print_json({"archive": archive, "experiments": experiments, "damaged": damage})
    else:
        _print_status(str(archive), experiments)
        for sentence in damage:
            console.print(f"[red]damaged[/red] {escape(sentence)}", soft_wrap=True)
    if damage:
        raise typer.Exit(1)


def _progress_of(branch: Branch) -> dict[str, Any]:
    """Return what `dacycle status` says about an experiment."""
    records, experiment = branch.records, branch.experiment
    statuses = [record.status for record in records]
    done = sum(status != "cold_start" for status in statuses)
    last = records[-1].time if records else experiment.start - STEP
    return {
        "experiment": branch.name,
        "assimilator": experiment.assimilator,
        "cycles": done,
        "cycles_in_all": None if experiment.end is None else done + max(int((experiment.end - last) / STEP), 0),
        "start": experiment.start,
        "last": records[-1].time if records else None,
        "end": experiment.end,
        "degraded": statuses.count("degraded"),
        "fallback": statuses.count("fallback"),
        "problems": _problems(records[-1]) if records else {},
    }


def _print_status(archive: str, experiments: list[dict[str, Any]]) -> None:
    table = new_table("experiment", numbers=("cycles", "last", "degraded", "fallback"), title=archive)
    table.add_column("method", overflow="fold")
    for about in experiments:
        total = "live" if about["end"] is None else f"of {about['cycles_in_all']}"
        last = "none" if about["last"] is None else cycle_id(about["last"])
        numbers = (f"{about['cycles']} {total}", last, str(about["degraded"]), str(about["fallback"]))
        table.add_row(about["experiment"], *numbers, about["assimilator"])
    console.print(table, markup=False)
    for about in experiments:
        if about["last"] is not None:
            _print_problems(f"{about['experiment']} {cycle_id(about['last'])}", about["problems"])


def _problems(record: CycleRecord) -> dict[str, list[str]]:
    """Return by source the files or messages of a cycle that could not be read."""
    return {name: list(source.problems) for name, source in record.sources.items() if source.problems}


def _print_problems(where: str, problems: Mapping[str, list[str]]) -> None:
    """Print a line for each source of a cycle that had files or messages which could not be read."""
    for name, (first, *more) in problems.items():
        rest = f", and {len(more)} more" if more else ""
        console.print(f"{where}, source {name}: {first}{rest}", soft_wrap=True, markup=False)


@app.command()
def log(
    name: ExperimentName,
    archive: ArchiveFolder,
    last: Annotated[int, typer.Option(min=1, help="Number of cycles.")] = 20,
    late: Annotated[
        bool, typer.Option("--late", help="Read their files again, and show what has changed since they ran.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the latest cycles of an experiment: status, counts of values and time of writing.

    Rejected values include denied ones; s is seconds, written the time (UTC) of the commit. Reasons, and files and
    messages that a source could not read, are listed below.

    Example: dacycle log demo --last 40
    """
    branch = Archive(archive).branch(name)
    commits = {commit.metadata.get("time"): commit.metadata for commit in branch.archive.states.commits(name)}
    records = branch.recent_records(last)
    cycles = [_entry(record, commits.get(record.id, {})) for record in records]
    arrivals = _arrivals(branch, records) if late else None
    if as_json:
        print_json({"experiment": name, "cycles": cycles, "come_since": arrivals})
        return
    _print_log(name, cycles)
    if arrivals is not None:
        _print_arrivals(arrivals)


USES = ("assimilated", "withheld", "rejected", "late")


def _entry(record: CycleRecord, notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `dacycle log` says about a cycle."""
    written = notes.get("written")
    return {
        "cycle": record.time,
        "status": record.status,
        "values": {use: record.uses.get(use) for use in USES},
        "seconds": sum(notes["seconds"].values()) if "seconds" in notes else None,
        "written": None if written is None else pd.Timestamp(written),
        "reason": record.reason,
        "problems": _problems(record),
    }


def _print_log(name: str, cycles: list[dict[str, Any]]) -> None:
    heads = ("assimi-\nlated", "with-\nheld", "rejec-\nted", "late", "s", "written")
    table = new_table("cycle", "status", numbers=heads, title=name)
    for cycle in cycles:
        counts = ["" if count is None else str(count) for count in cycle["values"].values()]
        seconds = "" if cycle["seconds"] is None else f"{cycle['seconds']:.2f}"
        written = "" if cycle["written"] is None else f"{cycle['written']:%Y-%m-%d %H:%M}"
        table.add_row(cycle_id(cycle["cycle"]), cycle["status"], *counts, seconds, written)
    console.print(table, markup=False)
    for cycle in cycles:
        if cycle["reason"]:
            console.print(f"{cycle_id(cycle['cycle'])}: {cycle['reason']}", soft_wrap=True, markup=False)
        _print_problems(cycle_id(cycle["cycle"]), cycle["problems"])


def _arrivals(branch: Branch, records: list[CycleRecord]) -> list[dict[str, Any]]:
    """Return for each cycle and source what has come since the cycle ran."""
    sources = load_inputs(branch.experiment).sources
    return [
        {
            "cycle": record.time,
            "source": arrival.source,
            "values": arrival.values,
            "gone": arrival.gone,
            "files": list(arrival.files),
        }
        for record in records
        for source in sources
        if (arrival := came_after(branch, source, record))
    ]


def _print_arrivals(arrivals: list[dict[str, Any]]) -> None:
    if not arrivals:
        console.print("nothing has come since these cycles ran")
        return
    table = new_table("cycle", "source", numbers=("values", "gone"), title="come since")
    table.add_column("files, new or changed", overflow="fold")
    for arrival in arrivals:
        files = ", ".join(Path(file).name for file in arrival["files"])
        counts = (str(arrival["values"]), str(arrival["gone"]))
        table.add_row(cycle_id(arrival["cycle"]), arrival["source"], *counts, files)
    console.print(table, markup=False)


@app.command()
def fork(
    donor: Annotated[str, typer.Argument(metavar="EXPERIMENT@TIME", help="The cycle to start from.")],
    name: Annotated[str, typer.Argument(help="Name of the new experiment.")],
    archive: ArchiveFolder,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Key to change and its value; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The new experiment's file; default NAME.yaml.")] = None,
) -> None:
    """Begin an experiment on the past of another one, with some settings changed.

    Run it again to finish after an interruption; what is there already is kept.

    Example: dacycle fork demo@20240110T00 no-olr --set 'deny=[olr]'
    """
    try:
        origin, time = parse_donor(donor)
    except ValueError as error:
        raise ExperimentError(str(error)) from None
    path = out or Path(f"{name}.yaml")
    opened = Archive(archive)
    content = opened.branch(origin).experiment.as_dict()
    content |= {"name": name, "start": cycle_id(time + STEP), "cold_start": {"from": f"{origin}@{cycle_id(time)}"}}
    for setting in change or []:
        _change(content, setting)
    text = write_experiment(content)
    if path.exists() and path.read_bytes() != text.encode():
        raise ExperimentError(f"{path} exists; give another --out")
    described = parse_experiment(text, str(path))
    if name in opened.branches() and opened.branch(name).experiment != described:
        raise ExperimentError(f"{archive} already has an experiment {name}")
    load_inputs(described)
    with opened.write(described) as writer:
        write_whole(path, text.encode())
        if writer.next_time is None:
            writer.fork()
    console.print(f"{name} begins after {donor}; go on with `dacycle hindcast {path} --archive {archive}`")


def _change(content: Any, setting: str) -> None:
    """Change one entry of an experiment's content, `a.b=VALUE`."""
    key, value = parse_setting(setting, "--set")
    *parents, leaf = key.split(".")
    for parent in parents:
        content = content.get(parent)
        if not isinstance(content, dict):
            raise ExperimentError(f"--set {setting}: there is no {parent!r} to set a part of")
    content[leaf] = value


@app.command()
def rewind(
    name: ExperimentName,
    time: Annotated[str, typer.Argument(help="The cycle that will be its last, e.g. 20240110T00.")],
    archive: ArchiveFolder,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Take an experiment back to one of its cycles; later cycles are dropped and can be run again.

    Example: dacycle rewind demo 20240110T00
    """
    opened, target = Archive(archive), cycle_time(time)
    assert target is not None
    # Counted in the list of commits, which can be read even where later cycles are damaged.
    commits = opened.states.commits(opened.branch(name).name)
    later = sum(commit.metadata.get("time", "") > cycle_id(target) for commit in commits)
    if not yes:
        typer.confirm(f"drop {later} cycles of {name} after {cycle_id(target)}?", abort=True)
    opened.rewind(name, target)
    console.print(f"{name} stands at {cycle_id(target)}; {later} cycles were dropped")
