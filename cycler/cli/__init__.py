"""The command line `dacycle`: one Typer app, its commands grouped by what they are for."""

import logging
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from dacycle.assimilators.base import AssimilatorError
from dacycle.assimilators.exceptions import DataError, ExportError, RecipeError, TrainingError
from dacycle.common.errors import DacycleError
from dacycle.cycler.archive.store import ArchiveError
from dacycle.cycler.cli.cycles import benchmark, errors, operate, run, single_observation, verify
from dacycle.cycler.cli.files import analyse, dataset, forecast, ingest, states, write
from dacycle.cycler.cli.models import listing, training, world
from dacycle.cycler.cycle.replay import RunStoppedError
from dacycle.cycler.experiment import ExperimentError
from dacycle.forecast_adapter.grid import GridError
from dacycle.forecast_adapter.models.model import ForecastError, ModelFileError
from dacycle.forecast_adapter.state import StateError
from dacycle.forecast_adapter.worlds.manifest import DatasetError
from dacycle.forecast_adapter.worlds.world import WorldError
from dacycle.obs_ingest.table import ObservationError

__all__ = ["app", "main"]

INTERRUPTED = 130
"""The exit status of a command that was interrupted: 128 and the number of SIGINT."""

USER_ERRORS = (
    ArchiveError,
    AssimilatorError,
    DataError,
    DatasetError,
    ExperimentError,
    ExportError,
    ForecastError,
    GridError,
    ModelFileError,
    ObservationError,
    RecipeError,
    DacycleError,
    StateError,
    TrainingError,
    WorldError,
)
"""What a user can mend: the message is shown without a traceback, and the exit status is 2."""


models_logger = logging.getLogger("dacycle.forecast_adapter.models")


class ClearErrors(TyperGroup):
    """A group of commands whose foreseen errors are sentences. Exit status: 2 to mend, 1 for a run that stopped."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        said = logging.StreamHandler(sys.stderr)  # what large models run on, and a GPU that is not used
        models_logger.addHandler(said)
        models_logger.setLevel(logging.INFO)
        try:
            return super().invoke(ctx)
        except USER_ERRORS as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except RunStoppedError as error:
            print(f"stopped: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        finally:
            models_logger.removeHandler(said)


app = typer.Typer(
    cls=ClearErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Cycling data assimilation with AI weather models.",
)
for part in (
    run, verify, errors, training, listing, benchmark, forecast, states, ingest, analyse, single_observation, operate,
    world, dataset, write,
):  # fmt: skip
    app.add_typer(part.app)


def main() -> None:
    """The console command.

    Interrupted, the process ends at once instead of through Python's own end: threads of the archive's library may
    still be at work, and abort the process when they find the interpreter gone.
    """
    try:
        app()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
