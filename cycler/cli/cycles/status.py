"""Commands that say how the experiments of an archive stand. They import no pandas, xarray, network or figure."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from dacycle.common.times import cycle_id, parse_datetime
from dacycle.cycler.archive.commits import branch_names
from dacycle.cycler.archive.exceptions import ArchiveError
from dacycle.cycler.archive.progress import Progress, find_states, problems, read_progress, refuse_unknown
from dacycle.cycler.archive.record import read_content
from dacycle.cycler.cli.options import ArchiveFolder, ExperimentName, as_place
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json

app = typer.Typer()


@app.command()
def status(
    archive: ArchiveFolder,
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[ARCHIVE]", parser=as_place, help="The archive's folder, in place of --archive."),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Read the whole archive and name damaged parts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the progress of each experiment in an archive, and the input that its last cycle could not read.

    Exit status 1 if a part of the archive is damaged.

    Example: dacycle status --archive archive --check
    """
    archive = folder or archive
    damage: list[str] = []
    experiments: list[Progress] = []
    for name in branch_names(find_states(archive)):
        try:
            experiments.append(read_progress(archive, name))
            damage += _damaged(archive, name) if check else []
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


def _damaged(archive: Path, name: str) -> list[str]:
    from dacycle.cycler.archive.branches import Archive

    return Archive(archive).branch(name).damaged()


def _print_status(archive: str, experiments: list[Progress]) -> None:
    table = new_table("experiment", numbers=("cycles", "last", "degraded", "fallback"), title=archive)
    table.add_column("method", overflow="fold")
    for about in experiments:
        total = "live" if about.end is None else f"of {about.cycles_in_all}"
        last = "none" if about.last is None else cycle_id(about.last)
        numbers = (f"{about.cycles} {total}", last, str(about.degraded), str(about.fallback))
        table.add_row(about.experiment, *numbers, about.assimilator)
    console.print(table, markup=False)
    for about in experiments:
        if about.last is None:
            continue
        newest = f"{about.experiment} {cycle_id(about.last)}"
        if about.starts_from is not None:
            console.print(f"{newest} starts from {_said_of(about.starts_from)}", soft_wrap=True, markup=False)
        _print_problems(newest, about.problems)


def _said_of(start: Mapping[str, Any]) -> str:
    """Return the cycle that a cycle of an experiment with a late chain starts from."""
    again = len(start.get("again", ()))
    return f"{start['from']} {start['cycle']}" + (f", {again} cycles run again" if again else "")


def _print_problems(where: str, of_sources: Mapping[str, list[str]]) -> None:
    """Print a line for each source of a cycle that had files or messages which could not be read."""
    for name, (first, *more) in of_sources.items():
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
    messages that a source could not read, are listed below. Where there is a late chain, the last column says how long
    before the cycle the late analysis lies that it starts from; own, if it starts from the run's own.

    Example: dacycle log demo --last 40
    """
    states = find_states(archive)
    refuse_unknown(archive, name)
    cycles = _latest_cycles(states, name, last)
    arrivals = _arrivals(archive, name, last) if late else None
    if as_json:
        print_json({"experiment": name, "cycles": cycles, "come_since": arrivals})
        return
    _print_log(name, cycles)
    if arrivals is not None:
        _print_arrivals(arrivals)


USES = ("assimilated", "withheld", "rejected", "late")


def _latest_cycles(states: Path, name: str, last: int) -> list[dict[str, Any]]:
    """Return what `dacycle log` says about each of the `last` cycles."""
    from dacycle.cycler.archive.store import Store

    store = Store(states)
    if not len(store.times(name, "cycles")):
        return []
    texts = store.column(name, "cycles", "record", slice(-last, None))
    records = [read_content(str(text)) for text in texts]
    # Each is of one cycle, or of the two frames of the cold start.
    notes = {note["time"]: note for note in islice(store.notes(name), len(records))}
    return [_entry(record, notes.get(record["time"], {})) for record in records]


def _entry(record: dict[str, Any], notes: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `dacycle log` says about a cycle."""
    uses, written = record.get("uses", {}), notes.get("written")
    return {
        "cycle": parse_datetime(record["time"]),
        "status": record["status"],
        "values": {use: uses.get(use) for use in USES},
        "seconds": sum(notes["seconds"].values()) if "seconds" in notes else None,
        "written": None if written is None else parse_datetime(written),
        "reason": record.get("reason", ""),
        "start": record.get("start"),
        "problems": problems(record),
    }


def _print_log(name: str, cycles: list[dict[str, Any]]) -> None:
    heads = ("assimi-\nlated", "with-\nheld", "rejec-\nted", "late", "s", "written")
    table = new_table("cycle", "status", numbers=heads, title=name)
    has_late = any(cycle["start"] for cycle in cycles)
    if has_late:
        table.add_column("from", justify="right")
    for cycle in cycles:
        counts = ["" if count is None else str(count) for count in cycle["values"].values()]
        seconds = "" if cycle["seconds"] is None else f"{cycle['seconds']:.2f}"
        written = "" if cycle["written"] is None else f"{cycle['written']:%Y-%m-%d %H:%M}"
        start = [_lag(name, cycle)] if has_late else []
        table.add_row(cycle_id(cycle["cycle"]), cycle["status"], *counts, seconds, written, *start)
    console.print(table, markup=False)
    for cycle in cycles:
        if cycle["reason"]:
            console.print(f"{cycle_id(cycle['cycle'])}: {cycle['reason']}", soft_wrap=True, markup=False)
        _print_problems(cycle_id(cycle["cycle"]), cycle["problems"])


def _lag(name: str, cycle: Mapping[str, Any]) -> str:
    """Return how long before a cycle the late analysis lies that it starts from, or that it starts from its own."""
    start = cycle["start"]
    if not start or start["from"] == name:
        return "own" if start else ""
    return f"-{(cycle['cycle'] - parse_datetime(start['cycle'])).total_seconds() / 3600:.0f}h"


def _arrivals(archive: Path, name: str, last: int) -> list[dict[str, Any]]:
    """Return for each of the latest cycles and each source what has come since the cycle ran."""
    from dacycle.cycler.archive.branches import Archive
    from dacycle.cycler.cycle.inputs import load_inputs
    from dacycle.cycler.operations.arrivals import came_after

    branch = Archive(archive).branch(name)
    sources = load_inputs(branch.experiment).sources
    return [
        {
            "cycle": record.time,
            "source": arrival.source,
            "values": arrival.values,
            "gone": arrival.gone,
            "files": list(arrival.files),
        }
        for record in branch.recent_records(last)
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
