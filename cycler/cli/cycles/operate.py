"""Commands that operate an installation: `serve`, `web`, `deploy`, `alerts`, `audit` and `doctor`."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli.options import ArchiveFolder, ExperimentFile, Threads
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json
from dacycle.cycler.experiment import cycle_id, load_experiment, parse_donor

if TYPE_CHECKING:
    from dacycle.cycler.operations.alerts import Alert
    from dacycle.cycler.operations.audit import Audit, StartAudit
    from dacycle.cycler.operations.doctor import Finding

app = typer.Typer()


@app.command()
def serve(
    experiment: ExperimentFile,
    archive: ArchiveFolder,
    forecasts: Annotated[bool, typer.Option(help="Make the forecasts that are due after the cycles.")] = True,
    metrics: Annotated[
        int | None,
        typer.Option(min=0, max=65535, metavar="PORT", help="Serve /metrics for Prometheus and /health on this port."),
    ] = None,
    threads: Threads = 1,
) -> None:
    """Run an experiment live on this machine, without a Prefect server: wake after each cutoff, run what is due.

    With `late` the late chain NAME-late is run as well, and with `drift.free_run` the free run NAME-free. SIGTERM or
    Ctrl-C stops the service after the cycle that is running. Started again, it catches up, in order.

    Example: dacycle serve live.yaml --archive /var/lib/dacycle
    """
    from dacycle.cycler.operations.metrics import served
    from dacycle.cycler.operations.service import Service

    service = Service(load_experiment(experiment), Archive(archive, create=True), forecasts, threads)
    with nullcontext() if metrics is None else served(archive, metrics):
        service.serve()


@app.command()
def web(
    archive: ArchiveFolder,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8710,
    host: Annotated[
        str, typer.Option(help="Address; another than that of this machine shows the archive to everybody there.")
    ] = "127.0.0.1",
) -> None:
    """Serve the operator's page of an archive: all experiments, cycles, stations and alerts, live and read-only.

    It reads what is committed and writes nothing. /metrics is for Prometheus, /health for a supervisor, /api for
    programs. SIGTERM or Ctrl-C stops it.

    Example: dacycle web --archive archive
    """
    from dacycle.cycler.web.app import serve as show

    show(archive, host, port)


@app.command()
def deploy(
    experiment: ExperimentFile,
    archive: ArchiveFolder,
    pool: Annotated[str, typer.Option(help="Work pool of process workers; it is made if need be.")] = "dacycle",
    recipe: Annotated[
        list[Path] | None,
        typer.Option(metavar="RECIPE.yaml", help="Also deploy the training of this recipe; may be repeated."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the Prefect deployments of an experiment: names, schedules and paths come from its file.

    A live experiment is woken five minutes after its longest cutoff, for cycles, then forecasts, and once a day for
    verification and the report; its late chain five minutes after the late cutoff. One with an end gets its replay,
    which a person starts, as do trainings. Flow runs start in the present folder, with the present DACYCLE_ settings.
    Run the command again after a change of the file.

    Example: dacycle deploy live.yaml --archive archive

    Example: dacycle deploy live.yaml --recipe deploy/recipes/fnp.yaml
    """
    from dacycle.cycler.operations.deployments import deploy as make

    deployments = make(experiment, archive, pool, recipe or ())
    if as_json:
        print_json({"pool": pool, "deployments": deployments})
        return
    table = new_table("deployment", "what it does", "schedule (UTC)")
    for made in deployments:
        table.add_row(made.name, made.text, made.cron or "started by hand")
    console.print(table)
    console.print(f"next, on each machine with this archive: prefect worker start --pool {pool}", soft_wrap=True)


@app.command()
def alerts(
    archive: ArchiveFolder,
    experiment: Annotated[
        str | None, typer.Argument(metavar="EXPERIMENT", help="Only this one; else all but free runs.")
    ] = None,
    tell: Annotated[
        bool, typer.Option("--tell", help="Tell those that were not told yet, as the service does (docs/alerts.md).")
    ] = False,
    past: Annotated[bool, typer.Option("--past", help="Also show those that are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look at the experiments of an archive, and show the alerts that are open.

    An alert says that a live run is late, a cycle fell back to its background, a source is silent or cannot be read, or
    that its reports, its departures or the increments differ from the run's own past. Run by cron, the command also
    notices that the service has stopped. Exit status 1 if a critical alert is open.

    Example: dacycle alerts --archive archive
    """
    from dacycle.common import clock
    from dacycle.common.settings import read_settings
    from dacycle.cycler.operations.alerts import alerts_of, watch
    from dacycle.cycler.operations.telling import ways_of_telling
    from dacycle.forecast_adapter.worlds.world import load_world

    opened = Archive(archive)
    branches = opened.branches()
    free_runs = {f"{name}-free" for name in branches}
    names = [experiment] if experiment else [name for name in branches if name not in free_runs]
    now, ways = clock.now(), ways_of_telling(read_settings()) if tell else {}
    found = []
    for name in names:
        branch = opened.branch(name)
        current = watch(branch, load_world(branch.experiment.world), now, ways)
        found += alerts_of(branch) if past else current
    if as_json:
        print_json({"archive": archive, "alerts": found})
    else:
        _print_alerts(found, names)
    if any(alert.severity == "critical" and alert.ended is None for alert in found):
        raise typer.Exit(1)


def _print_alerts(found: list["Alert"], names: list[str]) -> None:
    if not found:
        console.print(f"{', '.join(names) or 'no experiment'}: no alert", soft_wrap=True, markup=False)
        return
    table = new_table("experiment", "severity", "since cycle", "what")
    for alert in found:
        over = f" (over {alert.ended})" if alert.ended else ""
        table.add_row(alert.experiment, alert.severity, alert.cycle, escape(alert.text) + over)
    console.print(table)


@app.command()
def audit(
    cycle: Annotated[str, typer.Argument(metavar="EXPERIMENT@TIME", help="The cycle, e.g. demo@20240108T06.")],
    archive: ArchiveFolder,
    as_json: AsJson = False,
) -> None:
    """Show which files made a cycle, and check that no value was used that came after the cutoff.

    Of each source: the number of values that were assimilated, when they were received, the cutoff, and its files with
    the first digits of their SHA-256, and whether they are still the same. Where there is a late chain, also the cycle
    that this one starts from, which `dacycle audit` says more about in turn. Exit status 1 if a value that was used
    came too late.

    Example: dacycle audit demo@20240108T06
    """
    from dacycle.cycler.operations.audit import audit as examine

    try:
        name, time = parse_donor(cycle)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    found = examine(Archive(archive), name, time)
    if as_json:
        print_json(found)
    else:
        _print_audit(found)
    if not found.well:
        raise typer.Exit(1)


def _print_audit(found: "Audit") -> None:
    reason = f" ({found.reason})" if found.reason else ""
    console.print(f"{found.experiment}, {cycle_id(found.cycle)}: {found.status}{reason}", soft_wrap=True, markup=False)
    if found.start is not None:
        _print_start(found.start)
    values = new_table("source", numbers=("assimilated", "received from", "to", "cutoff", "too late"))
    files = new_table("source", "file", "SHA-256", "now")
    for source in found.sources:
        received = ("" if time is None else f"{time:%d %H:%M:%S}" for time in (source.first, source.last))
        cutoff = "none" if source.cutoff is None else f"{found.cycle + source.cutoff:%d %H:%M:%S}"
        values.add_row(source.source, str(source.assimilated), *received, cutoff, str(source.too_late))
        for file in source.files:
            files.add_row(source.source, file.path, file.digest, file.now)
    console.print(values)
    console.print(files)
    for key, digest in found.digests.items():
        console.print(f"{key}: {digest}", soft_wrap=True, markup=False)


def _print_start(start: "StartAudit") -> None:
    due = "" if start.due is None else f", due {start.due:%d %H:%M}{', which was TOO LATE' if start.too_early else ''}"
    console.print(
        f"starts from {start.experiment}@{cycle_id(start.cycle)}{due}; in the archive it is {start.now}",
        soft_wrap=True, markup=False,
    )  # fmt: skip
    if start.again:
        late = f"; TOO LATE: {', '.join(start.too_late)}" if start.too_late else ", with nothing later than the cutoff"
        console.print(f"cycles run again in between: {start.again}{late}", soft_wrap=True, markup=False)
    console.print(f"start: {start.digest}", soft_wrap=True, markup=False)


@app.command()
def doctor(
    archive: ArchiveFolder,
    experiment: Annotated[
        Path | None, typer.Argument(metavar="EXPERIMENT.yaml", help="Also check the needs of this experiment.")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Also show the checks that passed.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the installation, and what an experiment needs; print what is wrong and how to mend it.

    Exit status 1 if anything is wrong.

    Example: dacycle doctor deploy/experiments/demo.yaml
    """
    from dacycle.cycler.operations.doctor import check_experiment, check_installation, check_writing

    findings = [*check_installation(), *check_writing(archive)]
    if experiment is not None:
        findings += check_experiment(experiment, archive)
    wrong = any(finding.level == "wrong" for finding in findings)
    if as_json:
        print_json({"well": not wrong, "findings": findings})
    else:
        _print_findings(findings, verbose)
    if wrong:
        raise typer.Exit(1)


def _print_findings(findings: list["Finding"], verbose: bool) -> None:
    colours = {"ok": "green", "warning": "yellow", "wrong": "red"}
    shown = [f for f in findings if verbose or f.level != "ok" or not f.text[:1].isdigit()]
    for finding in shown:
        console.print(
            f"[{colours[finding.level]}]{finding.level:7}[/] {escape(f'{finding.subject}: {finding.text}')}",
            soft_wrap=True,
        )
        if finding.remedy:
            console.print(f"        {finding.remedy}", soft_wrap=True, markup=False)
    if len(findings) > len(shown):
        console.print(f"        and {len(findings) - len(shown)} more that passed (--verbose shows them)")
