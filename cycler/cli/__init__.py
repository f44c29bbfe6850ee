"""The command line `dacycle`: one Typer app, with its commands in three sub-packages.

`cycles` holds the commands on experiments and archives, `files` those on files of states and observations, `models`
those on networks and worlds. `options` holds the arguments that several of them take. A new command is a function in
a module of one of the three, and a line in `COMMANDS`.
"""

import errno
import os
import signal
import sys
from importlib import import_module
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from dacycle import __version__
from dacycle.common.blas import limit_blas
from dacycle.common.errors import DacycleError

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

__all__ = ["COMMANDS", "app", "main"]

limit_blas()

INTERRUPTED = 130
"""The exit status of a command that was interrupted: 128 and the number of SIGINT."""

COMMANDS: dict[str, dict[str, str]] = {
    "cycles.start": {
        "demo": "Run the demonstration: cycles, forecasts and the report; run it again to continue.",
        "init": "Write a commented experiment for a situation, and say what it still needs.",
    },
    "cycles.run": {
        "plan": "Show what a run would do: cycles, inputs that are there or missing, cost.",
        "hindcast": "Run all cycles that are not yet in the archive; run the command again to continue after "
        "an interruption.",
        "cycle": "Run the next cycle of the archive, if the cutoffs of its observations have passed.",
        "fork": "Begin an experiment on the past of another one, with some settings changed.",
        "rewind": "Take an experiment back to one of its cycles; later cycles are dropped and can be run again.",
    },
    "cycles.streams": {
        "seams": "Show how far the streams of a hindcast agree where one takes over from another.",
    },
    "cycles.status": {
        "status": "Show the progress of each experiment in an archive, and the input that its last cycle "
        "could not read.",
        "log": "Show the latest cycles of an experiment: status, counts of values and time of writing.",
    },
    "cycles.archive": {
        "archive": "Look after archives: check, back up, restore, and remove what is not kept.",
    },
    "cycles.verify": {
        "drift": "Make the missing forecasts from committed analyses, and score them against the reference.",
        "verify": "Verify cycles and kept forecasts at the times that the reference has gained since.",
        "scores": "Print the errors of a period of cycles, those of the free run, the fit to withheld sites, "
        "and the trend.",
        "report": "Write the report of an experiment: one HTML page that needs no other file.",
        "compare": "Compare experiments with the first, at the times all have: changes of RMSE with paired 95 % "
        "intervals.",
    },
    "cycles.errors": {
        "errors": "Estimate observation errors from departures.",
    },
    "models.training": {
        "backgrounds": "Make the backgrounds that an assimilator is trained with: errors of 6- to 48-h forecasts, "
        "or of cycles.",
        "train": "Train a network, or estimate statistics of errors (recipes of `kind: oi`, `3dvar`, `bias`).",
        "export": "Write a run's network as ONNX with its metadata and check it against torch.",
        "gradient": "Write the tangent linear and the adjoint of a forecast model or learned operator, checked.",
        "gate": "Judge a trained assimilator and write its card: parity, single observations, single analyses, cycles.",
        "evaluate": "Score single analyses of held-out backgrounds: errors over the globe, against the "
        "background and another method.",
    },
    "models.listing": {
        "models": "List the forecast models, assimilators and observation operators; `dacycle models NAME` "
        "shows a card.",
    },
    "cycles.bench": {
        "bench": "Measure what parts of dacycle cost on this machine.",
    },
    "cycles.benchmark": {
        "benchmark": "Compare methods on the same single analyses, and in the same cycles; run it again to continue.",
    },
    "cycles.sweep": {
        "sweep": "Run methods and settings in the same cycles, and compare them; run it again to continue.",
    },
    "files.forecast": {
        "forecast": "Run a forecast model from a state in a file; write its states in the WeatherBench2 "
        "schema, or as GRIB2.",
    },
    "files.states": {
        "states": "List the states of a product, newest first: whole, or why they cannot be used.",
    },
    "files.ingest": {
        "ingest": "Read observations of one window, (time - 3 h, time + 3 h], or of a period, into tables; "
        "print what was found.",
    },
    "files.fetch": {
        "fetch": "Fetch whole years of a source's files from its public archive; run it again to continue.",
    },
    "files.analyse": {
        "analyse": "Make one analysis of surface fields by optimal interpolation with an isotropic background error.",
    },
    "cycles.single_observation": {
        "single-observation": "Assimilate one observation with the experiment's assimilator, and draw its increment.",
    },
    "cycles.operate": {
        "serve": "Run an experiment live on this machine, without a Prefect server: wake after each cutoff, "
        "run what is due.",
        "web": "Serve the operator's page of an archive: all experiments, cycles, stations and alerts, live and "
        "read-only.",
        "deploy": "Make the Prefect deployments of an experiment: names, schedules and paths come from its file.",
        "alerts": "Look at the experiments of an archive, and show the alerts that are open.",
        "audit": "Show which files made a cycle, and check that no value was used that came after the cutoff.",
        "doctor": "Check the installation, and what an experiment needs; print what is wrong and how to mend it.",
    },
    "cycles.up": {
        "up": "Bring up Prefect on this machine and keep it up: database, server, workers, deployments of experiments.",
    },
    "models.world": {
        "nature-run": "Run SPEEDY and write its states, precipitation and OLR.",
        "world": "Make a world from a nature run or a dataset: statistics and climatology of its training "
        "years, and a reference.",
        "simulate": "Draw an experiment's observations from its world, and write the files that it reads.",
    },
    "files.dataset": {
        "dataset": "Make a dataset: states of a product on a chosen grid, for training and verification.",
    },
    "files.write": {
        "write": "Write committed analyses, backgrounds or forecasts to one file, for other tools.",
    },
}
"""The commands by module, in the order of the help, each with the first sentence of its own help.

A module is imported when its command runs, so that the help and completion need no other library.
"""


class Commands(TyperGroup):
    """Import the module of a command when it runs; print errors that a user can mend as sentences.

    Errors of the system are among them: a file that may not be read or written, a full disk.
    """

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the name of a command, the command itself in place of its entry in the list, and its arguments."""
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None:
            module = next(module for module, commands in COMMANDS.items() if name in commands)
            loaded = import_module(f"dacycle.cycler.cli.{module}")
            command = typer.main.get_group(loaded.app).commands[name]
            _prepare_help(command, ctx)
            rest = _with_present_names(name, rest)
        return name, command, rest

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the list of commands."""
        _hide_types_of_flags(self, ctx)
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> Any:
        """Run a command, with its log records on standard error and the exit status that its error states."""
        # these import pydantic, which the help does not need
        from dacycle.common import logs
        from dacycle.common.settings import read_settings
        from dacycle.cycler.cli.costs import costs_kept

        try:
            settings = read_settings()
            logs.configure(settings.log)
            with costs_kept(settings.costs, sys.argv[1:]):
                return super().invoke(ctx)
        except DacycleError as error:
            print(f"{error.label}: {error}", file=sys.stderr)
            raise typer.Exit(error.exit_status) from error
        except BrokenPipeError:
            raise  # the reader of the output has gone; Typer ends without a word
        except OSError as error:
            print(f"error: {_explain(error)}", file=sys.stderr)
            raise typer.Exit(2) from error


FORMER_OPTIONS: dict[str, dict[str, str]] = {
    "compare": {"--output": "--out"},
    "dataset": {"--from": "--since", "--to": "--until"},
    "errors": {"--from": "--since", "--to": "--until"},
    "fork": {"--output": "--out"},
    "ingest": {"--start": "--since", "--end": "--until"},
    "report": {"--output": "--out"},
    "sweep": {"--processes": "--workers"},
    "world": {"--start": "--since"},
}
"""Names that options had in earlier versions, by command: still understood, not shown."""


def _with_present_names(command: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command with the present names of its options."""
    former = FORMER_OPTIONS.get(command, {})
    parts = (argument.partition("=") for argument in arguments)
    return [former.get(option, option) + equals + value for option, equals, value in parts]


def _prepare_help(command: Any, context: Any) -> None:
    """Let the help of a command show its brackets, which rich would take for markup, and no type of its flags.

    Paragraphs are filled to the width of the terminal, not broken where the source breaks them.
    """
    command.help = command.help and _as_written(_fill(command.help))
    for parameter in command.get_params(context):
        if getattr(parameter, "help", None):
            parameter.help = _as_written(parameter.help)
    _hide_types_of_flags(command, context)
    for part in getattr(command, "commands", {}).values():
        _prepare_help(part, context)


def _hide_types_of_flags(command: Any, context: Any) -> None:
    for parameter in command.get_params(context):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""


def _fill(text: str) -> str:
    """Return paragraphs without line breaks of their own."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _as_written(text: str) -> str:
    """Return a text of which rich prints every character."""
    return text.replace("[", "\\[")


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


app = typer.Typer(cls=Commands, no_args_is_help=True, rich_markup_mode="rich")


def _entry() -> None:
    """Stand for a command in the list; `Commands` runs the command itself."""


for _commands in COMMANDS.values():
    for _name, _sentence in _commands.items():
        app.command(_name, help=_sentence)(_entry)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"dacycle {__version__}")
        raise typer.Exit


@app.callback()
def dacycle(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Cycling data assimilation with AI weather models."""


def main() -> None:
    """Run the console command.

    An interrupted process ends at once instead of through Python's own shutdown: threads of the archive's library may
    still be at work, and they abort the process when the interpreter is gone.
    """
    sys.unraisablehook = _interrupt_again
    try:
        app()
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED)


def _interrupt_again(lost: "UnraisableHookArgs") -> None:
    """Send an interrupt again that Python has dropped, as it does in callbacks of weak references."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)
