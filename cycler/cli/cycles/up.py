"""`dacycle up`: everything under Prefect on one machine, in the foreground."""

from pathlib import Path
from typing import Annotated

import typer

from dacycle.cycler.cli.options import ArchiveFolder
from dacycle.cycler.cli.show import console

app = typer.Typer()


@app.command()
def up(
    experiments: Annotated[list[Path], typer.Argument(metavar="EXPERIMENT.yaml...", help="Files of experiments.")],
    archive: ArchiveFolder,
    workers: Annotated[int, typer.Option(min=1, help="Number of worker processes.")] = 1,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Database, ports and logs.", show_default="the archive's name and .up"),
    ] = None,
    database: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="postgresql://USER:PASSWORD@HOST/NAME, or sqlite.", show_default="a private PostgreSQL"
        ),
    ] = None,
    user: Annotated[
        str | None,
        typer.Option(help="What a private PostgreSQL runs as if this is root.", show_default="postgres"),
    ] = None,
    host: Annotated[str, typer.Option(help="Address at which the server listens.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(min=1, max=65535, help="Port of the page.", show_default="the last one, or a free one from 4200"),
    ] = None,
    pool: Annotated[str, typer.Option(help="Name of the work pool.")] = "dacycle",
    patience: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Time for running cycles to end.")] = 900,
    recipe: Annotated[
        list[Path] | None,
        typer.Option(metavar="RECIPE.yaml", help="Also a deployment that trains by this recipe; may be repeated."),
    ] = None,
) -> None:
    """Bring up Prefect on this machine and keep it up: database, server, workers, deployments of experiments.

    Whatever dies is started again. Ctrl-C or SIGTERM ends all, after the cycles that are running; a second one does not
    wait for them. Run it again to go on, also after a kill.

    Example: dacycle up live.yaml --archive /var/lib/dacycle/live
    """
    from dacycle.cycler.up.bring_up import Plan, bring_up

    whole = archive.resolve()
    folder = whole.with_name(f"{whole.name}.up") if state is None else state
    plan = Plan(experiments, archive, folder, workers, pool, host, port, database, user, patience, recipe or ())
    bring_up(plan, lambda sentence: console.print(sentence, soft_wrap=True, markup=False, highlight=False))
