"""The command line `dacycle`: one Typer app, with its commands in three rooms.

`cycles` holds the commands on experiments and archives, `files` those on files of states and observations, `models`
those on networks and worlds. `options` holds what several of them take. A new command is a function in a module of one
of the rooms, whose `app` is added below.
"""

import errno
import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from dacycle.common import logs
from dacycle.common.errors import DacycleError
from dacycle.common.settings import read_settings
from dacycle.cycler.cli.cycles import benchmark, errors, operate, run, single_observation, verify
from dacycle.cycler.cli.files import analyse, dataset, forecast, ingest, states, write
from dacycle.cycler.cli.models import listing, training, world
from dacycle.cycler.cycle.replay import RunStoppedError

__all__ = ["app", "main"]

INTERRUPTED = 130
"""The exit status of a command that was interrupted: 128 and the number of SIGINT."""


class ClearErrors(TyperGroup):
    """Print errors that a user can mend as sentences, with exit status 2, or 1 for a run that stopped itself.

    Errors of the system are among them: a file that may not be read or written, a full disk.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run a command; its log records go to standard error."""
        try:
            logs.configure(read_settings().log)
            return super().invoke(ctx)
        except RunStoppedError as error:
            print(f"stopped: {error}", file=sys.stderr)
            raise typer.Exit(1) from error
        except DacycleError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error
        except BrokenPipeError:
            raise  # the reader of the output has gone; Typer ends without a word
        except OSError as error:
            print(f"error: {_explain(error)}", file=sys.stderr)
            raise typer.Exit(2) from error


_REMEDIES = {
    errno.EACCES: "change its permissions, or name another place",
    errno.EPERM: "change its permissions, or name another place",
    errno.EROFS: "name a place on a disk that may be written to",
    errno.ENOSPC: "make room, or name a place on another disk",
    errno.EDQUOT: "make room, or name a place on another disk",
    errno.EISDIR: "it is a folder; name a file",
    errno.ENOTDIR: "a part of this path is a file; name another place",
    errno.EEXIST: "name another place",
}


def _explain(error: OSError) -> str:
    """Return which file the system does not let us read or write, why, and what mends it."""
    what = f"{error.filename}: " if error.filename else ""
    remedy = f"; {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return f"{what}{error.strerror or error}{remedy}"


app = typer.Typer(
    cls=ClearErrors,
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Cycling data assimilation with AI weather models.",
)
for module in (
    run, verify, errors, training, listing, benchmark, forecast, states, ingest, analyse, single_observation, operate,
    world, dataset, write,
):  # fmt: skip
    app.add_typer(module.app)


def main() -> None:
    """Run the console command.

    An interrupted process ends at once instead of through Python's own shutdown: threads of the archive's library may
    still be at work, and they abort the process when the interpreter is gone.
    """
    try:
        app()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)
