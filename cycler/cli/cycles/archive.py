"""`dacycle archive`: check, back up and restore archives, and remove what their experiments do not keep."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.cli.options import ArchiveFolder, as_place
from dacycle.cycler.cli.show import AsJson, console, new_table, print_json, waiting
from dacycle.cycler.experiment import cycle_id
from dacycle.cycler.keeping import backup as copies
from dacycle.cycler.keeping import check as checking
from dacycle.cycler.keeping.tidy import Tidied
from dacycle.cycler.keeping.tidy import tidy as tidy_archive

app = typer.Typer()
archive_app = typer.Typer(
    no_args_is_help=True, help="Look after archives: check, back up, restore, and remove what is not kept."
)
app.add_typer(archive_app, name="archive")

Folder = Annotated[
    Path | None,
    typer.Argument(metavar="[ARCHIVE]", parser=as_place, help="The archive's folder, in place of --archive."),
]
PLACE = "a folder, or s3://BUCKET/PREFIX"


@archive_app.command()
def check(
    archive: ArchiveFolder,
    folder: Folder = None,
    backup: Annotated[
        Path | None, typer.Option(parser=as_place, metavar="BACKUP", help=f"Compare with this backup: {PLACE}.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a whole archive, compare it with its digests, and say how what is damaged is mended.

    Exit status 1 if something is damaged. With a backup, files are named that can be restored from it.

    Example: dacycle archive check archive --backup /mnt/backup/archive
    """
    opened = Archive(folder or archive)
    with waiting(f"reading {opened.folder}"):
        health = checking.check(opened, backup)
    remedies = checking.remedies(health, opened.folder, backup)
    if as_json:
        print_json({"archive": opened.folder, "damaged": health.damaged, "differing": health.differing, "do": remedies})
    else:
        for name, sentences in health.damaged.items():
            console.print(f"{name}: {'whole' if not sentences else f'{len(sentences)} damaged'}", markup=False)
            for sentence in sentences:
                console.print(f"  [red]damaged[/red] {escape(sentence)}", soft_wrap=True)
        if remedies:
            console.print("what mends it:")
            for line in remedies:
                console.print(f"  {line}", soft_wrap=True, markup=False)
        if not health.is_whole and backup is None:
            console.print("with --backup BACKUP, files that can be restored are named")
    if not health.is_whole:
        raise typer.Exit(1)


@archive_app.command()
def tidy(
    archive: ArchiveFolder,
    folder: Folder = None,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would be removed; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Remove the states that experiments do not keep (`keep` in their files), and what killed processes left.

    Records, departures, scores and headline fields stay. Nothing else may run in the archive meanwhile; a run that
    begins waits. After an interruption run the command again.

    Example: dacycle archive tidy archive --plan
    """
    opened = Archive(folder or archive)
    with waiting(f"tidying {opened.folder}"):
        tidied = tidy_archive(opened, plan)
    if as_json:
        print_json({"archive": opened.folder, "states": tidied.states, "bytes": tidied.bytes})
        return
    _print_tidied(tidied, plan)


def _print_tidied(tidied: Tidied, plan: bool) -> None:
    table = new_table("experiment", "states", numbers=("removed", "from", "to"))
    for name, groups in tidied.states.items():
        for group, times in groups.items():
            table.add_row(name, group, str(len(times)), cycle_id(times[0]), cycle_id(times[-1]))
    if tidied.states:
        console.print(table, markup=False)
    else:
        console.print("no experiment has states that its `keep` does not ask for")
    what = "garbage of earlier runs" if plan else "freed"
    console.print(f"{what}: {tidied.bytes / 1e6:.1f} MB")


@archive_app.command()
def backup(
    source: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The archive's folder.")],
    destination: Annotated[Path, typer.Argument(metavar="BACKUP", parser=as_place, help=f"Where to: {PLACE}.")],
) -> None:
    """Copy what is new of an archive, while its runs may go on; the copy is whole at every moment.

    After an interruption run the command again. The copy is an archive itself, to be read as one.

    Example: dacycle archive backup archive s3://backups/archive
    """
    with waiting(f"copying {source} to {destination}"):
        copied = copies.backup(Archive(source), destination)
    console.print(
        f"{destination}: {copied.files} files copied ({copied.bytes / 1e6:.1f} MB), {copied.removed} removed",
        markup=False,
    )


@archive_app.command()
def restore(
    source: Annotated[Path, typer.Argument(metavar="BACKUP", parser=as_place, help=f"The backup: {PLACE}.")],
    folder: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="The archive's folder, not there yet.")],
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Put back this file of an archive that is there; may be repeated."),
    ] = None,
) -> None:
    """Copy a backup to a new archive, or put back single files.

    Example: dacycle archive restore s3://backups/archive archive
    """
    with waiting(f"copying {source} to {folder}"):
        copied = copies.restore(source, folder, only or ())
    console.print(f"{folder}: {copied.files} files copied ({copied.bytes / 1e6:.1f} MB)", markup=False)
