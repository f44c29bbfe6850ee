"""Commands to begin with: the demonstration, and experiments from templates."""

import sys
import time
from importlib.resources import files
from pathlib import Path
from shutil import which
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dacycle.common.errors import DacycleError
from dacycle.common.files import write_whole
from dacycle.cycler.cli.options import quiet_cycles

app = typer.Typer()
console = Console()

SITUATIONS = {
    "demonstration": "demo.yaml",
    "era5": "era5-laptop.yaml",
    "fengwu": "hindcast-2024.yaml",
    "fengwu-1.40625deg": "fengwu-1.40625deg.yaml",
    "live": "live.yaml",
}
"""Situations that an experiment can be begun for, and the template of each."""

RECIPES = {
    "era5": {f"era5-{name}.yaml": f"era5/{name}-5.625deg.yaml" for name in ("mini", "oi", "fnp")},
    "fengwu-1.40625deg": {"fengwu-oi.yaml": "era5/oi-fengwu.yaml"},
}
"""Recipes that are written beside the experiment of a situation, which needs what is made on its own data."""

SECONDS = 5.0
"""Where nobody looks, progress is printed at most once in so many seconds."""


class StartError(DacycleError, ValueError):
    """An experiment cannot be begun as asked; the message says why."""


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Folder for its files and its archive.")] = Path("dacycle-demo"),
    days: Annotated[int, typer.Option(min=1, max=14, help="Length of the period; more days can be run later.")] = 14,
) -> None:
    """Run the demonstration: cycles, forecasts and the report; run it again to continue.

    It needs no other file and no network connection.

    Example: dacycle demo my-demo
    """
    from dacycle.cycler.experiment import cycle_id
    from dacycle.cycler.operations.demonstration import run_demonstration

    begun = time.monotonic()
    with quiet_cycles(), _Display() as display:
        summary = run_demonstration(folder.absolute(), days, display.show)
    free, rival = summary.against.values()
    since = f"{summary.since.day} {summary.since:%B}"
    console.print(
        f"\nThe demonstration is complete, after {time.monotonic() - begun:.0f} s.\n"
        f"Errors of FNP's analyses: {1 - free:.0%} below those of the free run, "
        f"{1 - rival:.0%} below those of optimal interpolation (mean of six channels, from {since} on).\n"
        f"Report: {summary.report}\n\nTo go on:\n"
        f"{_activation()}  cd {folder}\n"
        "  dacycle compare demo-oi demo                # the two methods, channel by channel\n"
        f"  dacycle fork demo@{cycle_id(summary.since)} no-olr --set 'deny=[olr]'  # without OLR from {since} on\n"
        "  dacycle init era5 my-experiment.yaml        # an experiment of your own",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip


def _activation() -> str:
    """Return the line that puts `dacycle` on the path; empty where it is."""
    script = Path(sys.prefix) / "bin/activate"
    return f"  source {script}\n" if which("dacycle") is None and script.exists() else ""


class _Display:
    """Show the progress of several tasks: bars in a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._bars = Progress(*columns, console=console, disable=not sys.stdout.isatty())
        self._tasks: dict[str, TaskID] = {}
        self._printed = -SECONDS

    def __enter__(self) -> "_Display":
        self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bars.stop()

    def show(self, name: str, done: int, total: int) -> None:
        """Show that so much of a task is done."""
        if self._bars.disable:
            if done == total or time.monotonic() - self._printed > SECONDS:
                self._printed = time.monotonic()
                print(f"{name}: {done} of {total}", flush=True)
            return
        if name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._tasks[name], completed=done, total=total)


@app.command()
def init(
    situation: Annotated[str, typer.Argument(help=f"One of {', '.join(SITUATIONS)}.")],
    file: Annotated[Path, typer.Argument(help="The experiment to write.")] = Path("experiment.yaml"),
) -> None:
    """Write a commented experiment for a situation, and say what it still needs.

    The situations: the demonstration, ERA5 at 5.625 degrees on a laptop (era5), FengWu at 0.25 or 1.40625 degrees on
    past years (fengwu, fengwu-1.40625deg), and FengWu live. What a situation needs beside the experiment is named with
    the command that gets it.

    Example: dacycle init live feed.yaml
    """
    from dacycle.cycler.operations.doctor import check_experiment

    if situation not in SITUATIONS:
        raise StartError(f"no situation {situation!r}; there are {', '.join(SITUATIONS)}")
    templates = {file.parent / name: f"recipes/{recipe}" for name, recipe in RECIPES.get(situation, {}).items()}
    templates[file] = f"experiments/{SITUATIONS[situation]}"
    for place in (file, *templates):
        if place.exists():
            raise StartError(f"{place} exists; give another name or folder, or move it away")
    for place, template in templates.items():
        write_whole(place, files("dacycle.deploy").joinpath(template).read_bytes())
        console.print(f"{place} is written", soft_wrap=True, highlight=False)
    findings = [finding for finding in check_experiment(file, Path("archive")) if finding.level != "ok"]
    for finding in findings:
        console.print(f"{finding.subject}: {finding.text}", soft_wrap=True, markup=False)
        if finding.remedy:
            console.print(f"  {finding.remedy}", soft_wrap=True, markup=False)
    following = f"dacycle hindcast {file}" if not findings else f"dacycle doctor {file}"
    console.print(f"{'It needs nothing more' if not findings else 'When that is mended'}: {following}", soft_wrap=True)
