"""Scores that all runs of an archive share: of the forecast from the reference, persistence and climatology.

They do not depend on a run. Whichever run first asks for those of a start makes and keeps them:

    shared/drift/START-DIGEST.parquet       kind, lead, channel, region -> mse, mae, bias, acc

The digest is of everything that goes into them: the model and what it runs on, the leads, the climatology, the states
of the reference. Where any of it changes, they are made again. A file can be deleted at any time.
"""

import hashlib
import logging
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dacycle.common.arrow import to_pandas
from dacycle.common.files import write_whole
from dacycle.common.locks import locked
from dacycle.cycler.archive.branches import Archive, ArchiveError
from dacycle.cycler.archive.sealed_tables import read_sealed_table, seal_table
from dacycle.cycler.experiment import STEP, cycle_id
from dacycle.cycler.verification.drift_scores import score_states
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["forecast_states", "shared_scores", "simple_states", "try_shared_scores"]

_LAYOUT = "1"
"""Part of the digest; with another number, scores of an older layout are made again."""

_LOCKS = 8

logger = logging.getLogger(__name__)


def try_shared_scores(
    archive: Archive, world: World, model: ForecastModel, start: pd.Timestamp, leads: Sequence[int]
) -> pd.DataFrame | None:
    """Return what `shared_scores` does; None where another process is making these or other scores under its lock."""
    try:
        return shared_scores(archive, world, model, start, leads, wait=False)
    except ArchiveError:
        return None


def shared_scores(
    archive: Archive, world: World, model: ForecastModel, start: pd.Timestamp, leads: Sequence[int], wait: bool = True
) -> pd.DataFrame:
    """Return the scores at `leads` (hours), which the reference holds; the first run that asks makes them.

    Without both frames of the start in the reference there is no forecast from it, and nothing is kept.

    Raises:
        ArchiveError: the folder cannot be written to; without `wait`, another process holds the lock.
    """
    if world.reference.missing(_frames(start)):
        states = ((lead, simple_states(world, _frames(start)[1], lead)) for lead in leads)
        return score_states(world, _frames(start)[1], states)
    digest = _digest(world, model, start, leads)
    path = archive.folder / "shared/drift" / f"{cycle_id(start)}-{digest}.parquet"
    # Another process may be making the same scores now; then they are waited for and not made twice.
    lock = path.with_name(f"lock{_frames(start)[1].astype(int) // 6 % _LOCKS}")
    with locked(lock, f"{path.parent}", ArchiveError, wait=wait):
        stored = _read(path)
        if stored is not None:
            return stored
        made = _make(world, model, start, leads)
        try:
            write_whole(path, seal_table(pa.Table.from_pandas(made, preserve_index=False)))
        except OSError as error:
            logger.warning("%s; the scores are used, but not kept", error)
        return made


def forecast_states(
    model: ForecastModel, previous: NDArray, current: NDArray, leads: Sequence[int] | NDArray
) -> Iterator[tuple[int, NDArray]]:
    """Yield lead (hours) and state (69, H, W) of a forecast at `leads`, one state in memory at a time."""
    steps = model.forecast(previous[None], current[None], int(leads[-1]) // 6) if len(leads) else ()
    for step, state in enumerate(chain([current[None]], steps)):
        if 6 * step in leads:
            yield 6 * step, state[0]


def simple_states(world: World, start: np.datetime64, lead: int) -> dict[str, NDArray]:
    """Return states (69, H, W), SI: climatology at the valid time; where the reference has the start, persistence."""
    states: dict[str, NDArray] = {"climatology": world.climatology.at(start + lead)}
    if start in world.reference:
        states["persistence"] = world.reference.array(start)
    return states


def _make(world: World, model: ForecastModel, start: pd.Timestamp, leads: Sequence[int]) -> pd.DataFrame:
    previous, current = (world.reference.array(time) for time in _frames(start))
    when = _frames(start)[1]
    states = (
        (lead, {"reference": state, **simple_states(world, when, lead)})
        for lead, state in forecast_states(model, previous, current, leads)
    )
    return score_states(world, when, states)


def _read(path: Path) -> pd.DataFrame | None:
    """Return the scores that are kept; None where there are none, or they are damaged."""
    if not path.is_file():
        return None
    try:
        return to_pandas(read_sealed_table(path, "its scores are made again"))
    except ArchiveError as error:
        logger.warning("%s", error)
        return None


def _frames(start: pd.Timestamp) -> list[np.datetime64]:
    """Return the times of the two frames that a forecast starts from."""
    return [np.datetime64(start - STEP, "h"), np.datetime64(start, "h")]


def _digest(world: World, model: ForecastModel, start: pd.Timestamp, leads: Sequence[int]) -> str:
    """Return a digest of everything that decides the scores."""
    running = getattr(model, "running", "")  # another provider or number of threads rounds differently
    found = hashlib.sha256(repr((_LAYOUT, model.digest, running, cycle_id(start), list(leads))).encode())
    found.update(_climatology_digest(world).encode())
    when = _frames(start)[1]
    for time in dict.fromkeys([*_frames(start), *(when + lead for lead in leads)]):
        found.update(np.ascontiguousarray(world.reference.array(time)).data)
    return found.hexdigest()[:32]


@lru_cache(maxsize=4)
def _climatology_digest(world: World) -> str:
    coefficients = np.ascontiguousarray(world.climatology.coefficients)
    return hashlib.sha256(coefficients.data).hexdigest() + repr((world.grid.shape, world.grid.latitude.tolist()))
