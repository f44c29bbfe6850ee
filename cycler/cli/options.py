"""Arguments and options that several commands take."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dacycle.common.places import place
from dacycle.common.settings import read_settings

__all__ = [
    "ArchiveFolder",
    "Dask",
    "ExperimentFile",
    "ExperimentName",
    "Threads",
    "Workers",
    "as_place",
    "quiet_cycles",
]


def _archive_folder() -> Path:
    return place(read_settings().archive or "archive")


def as_place(text: str | Path) -> Path:
    """Return the folder or the place in a bucket that an argument names."""
    return place(text)


ArchiveFolder = Annotated[
    Path,
    typer.Option(
        "--archive",
        default_factory=_archive_folder,
        parser=as_place,
        metavar="ARCHIVE",
        show_default="DACYCLE_ARCHIVE, else archive",
        help="The archive's folder; commands that only read take s3://BUCKET/PREFIX, too.",
    ),
]
ExperimentFile = Annotated[Path, typer.Argument(metavar="EXPERIMENT.yaml", help="The experiment's file.")]
ExperimentName = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Name of an experiment in the archive.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes that share the work, or workers of the Dask cluster.")
]
Dask = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Share the work on a Dask cluster: `local`, or a file such as deploy/dask/*.yaml."
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the networks; other numbers round differently.")]


@contextmanager
def quiet_cycles() -> Iterator[None]:
    """Leave out the log records of single cycles that people read, where a command shows the cycles itself."""
    logger = logging.getLogger("dacycle.cycler.cycle")
    level = logger.level
    if read_settings().log == "human":
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
