"""The command `dacycle fetch`: whole years of a source's files from its public archive."""

from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from dacycle.common.locks import locked
from dacycle.common.settings import read_settings
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, progress_bar, waiting
from dacycle.cycler.cli.texts import parse_years
from dacycle.obs_ingest.archives.catalogue import ARCHIVES
from dacycle.obs_ingest.archives.choice import Choice
from dacycle.obs_ingest.archives.fetching import LINE, Plan, Summary, make_plan
from dacycle.obs_ingest.archives.fetching import fetch as transfer
from dacycle.obs_ingest.archives.transfer import Connection
from dacycle.obs_ingest.table import ObservationError

app = typer.Typer()

_MOST = 20
"""Most sentences of a kind that are printed."""


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=f"One of {', '.join(ARCHIVES)}.")],
    out: Annotated[Path, typer.Option(help="The folder to write, with a subfolder for each year.")],
    years: Annotated[str, typer.Option(help="Years, e.g. 2020,2021 or 2020-2022.")],
    station: Annotated[
        list[str] | None, typer.Option(help="A station's identifier in the archive; may be repeated.")
    ] = None,
    nearest_to: Annotated[
        str | None,
        typer.Option(
            metavar="GRID",
            help="Of each cell of a grid, e.g. 5.625deg, the station nearest to its centre, of those that report much.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All stations that have reports.")] = False,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Say how many files and bytes there are, and how long they take; then end.")
    ] = False,
    mirror: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            show_default="DACYCLE_MIRROR, else the archive's own",
            help="Server in place of the archive's own, with the same folders.",
        ),
    ] = None,
    connections: Annotated[int, typer.Option(min=1, max=8, help="Transfers at a time.")] = 4,
    rate: Annotated[float, typer.Option(min=0.01, max=1000, help="Requests a second, at most.")] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Fetch whole years of a source's files from its public archive; run it again to continue.

    An interrupted or killed command continues where it was, in the middle of a file too. Files that are here are asked
    for again only when the archive's index names another version. Each is checked before it gets its name.

    Example: dacycle fetch isd --years 2022 --nearest-to 5.625deg --out observations/isd --plan

    Example: dacycle fetch igra --years 2022 --all --out observations/igra
    """
    chosen = bool(station) or nearest_to is not None or everything
    choice = Choice(tuple(station or ()), nearest_to, everything) if chosen else None
    with (
        closing(Connection(mirror or read_settings().mirror, rate)) as connection,
        locked(out / ".lock", str(out), ObservationError),
    ):
        with waiting(f"reading the index of {source}"):
            plan = make_plan(source, sorted(set(parse_years(years))), choice, out, connection)
        if only_plan:
            _show_plan(plan, rate, as_json)
            return
        summary = _fetch(source, plan, connection, connections)
    _show_summary(plan, summary, as_json)
    if summary.failures:
        shown = "\n".join(summary.failures[:_MOST])
        more = len(summary.failures) - _MOST
        raise ObservationError(
            shown + (f"\nand {more} more" if more > 0 else "") + "\nthe same command tries them again"
        )
    if not plan.wanted or summary.fetched + summary.unchanged == 0:
        reason = f"; {len(summary.damaged)} are damaged there" if summary.damaged else ""
        raise ObservationError(f"{source} {years}: the archive has none of these files{reason}")


def _fetch(source: str, plan: Plan, connection: Connection, connections: int) -> Summary:
    with progress_bar() as bar:
        task = bar.add_task(source, total=len(plan.due))
        try:
            return transfer(plan, connection, connections, lambda name: bar.advance(task))
        except KeyboardInterrupt:
            console.print("interrupted; the same command goes on")
            raise typer.Exit(130) from None


def _show_plan(plan: Plan, rate: float, as_json: bool) -> None:
    seconds = plan.seconds(rate)
    if as_json:
        print_json(
            {
                "files": len(plan.wanted),
                "due": len(plan.due),
                "bytes": plan.bytes,
                "seconds": seconds,
                "free": plan.free,
                "lacking": plan.lacking,
            }
        )
        return
    rows: dict[str, Any] = {
        "files": len(plan.wanted),
        "of them here": len(plan.wanted) - len(plan.due),
        "to fetch": "unknown" if plan.bytes is None else f"about {_size(plan.bytes)}",
        f"time at {LINE / 1e6:g} MB/s and {rate:g} requests/s": "unknown" if seconds is None else _duration(seconds),
        f"free in {plan.folder}": _size(plan.free),
    }
    table = new_table("", title="to fetch")
    table.show_header = False
    table.add_column("", justify="right", no_wrap=True)
    for name, value in rows.items():
        table.add_row(name, str(value))
    console.print(table, markup=False)
    _show("not in the archive", plan.lacking)


def _show_summary(plan: Plan, summary: Summary, as_json: bool) -> None:
    if as_json:
        print_json(summary)
        return
    _show("not in the archive", summary.lacking)
    _show("damaged in the archive, left out", summary.damaged)
    counts = f"{summary.fetched} files fetched ({_size(summary.bytes)}), {summary.unchanged} unchanged"
    if summary.damaged:
        counts += f", {len(summary.damaged)} damaged"
    console.print(
        f"{plan.folder}: {counts}; a source's `path` is {plan.folder}/{plan.archive.files}",
        soft_wrap=True,
        markup=False,
    )


def _show(what: str, sentences: list[str]) -> None:
    for sentence in sentences[:_MOST]:
        console.print(f"{what}: {sentence}", soft_wrap=True, markup=False)
    if len(sentences) > _MOST:
        console.print(f"{what}: {len(sentences) - _MOST} more")


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{max(seconds / 60, 1):.0f} min"
