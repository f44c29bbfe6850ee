"""Forecasts from committed analyses, made side by side: every start is a piece of its own.

A piece makes and scores the forecasts of a start, of members too, exactly as `verification.drift` does, and leaves the
headline fields in a file beside the scores. The process that called commits them in order of their start, as the one
writer of the branch. What a killed run leaves of such files is removed by the next one.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.common.pieces import Each
from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.experiment import cycle_id
from dacycle.cycler.verification.drift import Due, Made, commit_forecasts, make_one
from dacycle.forecast_adapter.models.model import ForecastModel, load_model
from dacycle.forecast_adapter.worlds.world import load_world

__all__ = ["make_forecasts"]


def make_forecasts(branch: Branch, each: Each, threads: int = 1) -> Iterator[pd.Timestamp]:
    """Make and score the forecasts that are due, side by side, and yield each start once it is committed, in order.

    Args:
        branch: of the run.
        each: where the pieces run; its processes see the archive's folder.
        threads: of the model in each piece.

    Raises:
        ArchiveError, PieceError: as `drift.make_forecasts`, and as `each`.
    """
    folder = branch.archive.folder

    def make(starts: Sequence[Due]) -> Iterator[Made]:
        waiting: dict[int, str] = {}
        following = 0
        for number, model in each(_make_piece, [(folder, branch.name, one, threads) for one in starts]):
            waiting[number] = model
            while following in waiting:
                yield _taken(branch, starts[following], waiting.pop(following))
                following += 1

    yield from commit_forecasts(branch, load_world(branch.experiment.world), make)


def _make_piece(folder: Path, name: str, one: Due, threads: int) -> str:
    """Make the forecasts of a start, and leave the fields in a file; return the model's name."""
    branch = Archive(folder).branch(name)
    made = make_one(branch, load_world(branch.experiment.world), _model(branch.experiment.model, threads), one)
    if made.fields is not None:
        with _fields_file(branch, one).open("wb") as file:
            np.save(file, made.fields)
    return made.model


def _taken(branch: Branch, one: Due, model: str) -> Made:
    path = _fields_file(branch, one)
    if not one.chain:
        return Made(one, None, model)
    fields = np.load(path)
    path.unlink()
    return Made(one, fields, model)


def _fields_file(branch: Branch, one: Due) -> Path:
    """Return a name that the next holder of the lock removes."""
    return branch.folder / "drift" / f".{cycle_id(one.start)}.part.npy"


@lru_cache(maxsize=1)
def _model(name: str, threads: int) -> ForecastModel:
    return load_model(name, threads)
