"""How far two streams of a hindcast agree where they overlap, and whether a longer overlap would help.

The later stream begins cold, and its analyses approach those of the earlier one as observations come in. Where the
later stream takes over, their difference is the seam error: the step that a joined run has there. It is given in units
of the error of the earlier stream's analyses at the same times.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Archive, Branch
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import STEP
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE, NAMES
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["SMALL", "Seam", "compare_streams", "seams_of", "verdict"]

SMALL = 0.1
"""A seam error below this share of the analysis error counts as none."""
STEADY = 0.95
"""A difference that keeps more than this share of itself in a day no longer falls."""
REMOVED = "not known: retention has removed states of the last two days of the overlap"
_DAY = pd.Timedelta(days=1) // STEP
_GLOBE = list(scores.REGIONS).index("globe")
_HEADLINE = [NAMES.index(name) for name in HEADLINE]


@dataclass(frozen=True)
class Seam:
    """Hold what two streams have in common.

    Attributes:
        before, after: names of the two branches.
        time: the first cycle that is taken from the later stream.
        cycles: number of cycles of the overlap that both have.
        table: channel -> `seam_error`, RMS over the globe of the difference of the analyses in the last day of the
            overlap, SI; `analysis_error`, RMSE of the earlier stream's analyses in the same cycles, NaN where there is
            no reference; `share`, the former over the latter.
        share: root mean square of the shares of the headline channels; NaN without a reference.
        falls: what the difference keeps of itself in the last day; NaN in an overlap of less than two days.
        verdict: see `verdict`; `REMOVED`, and numbers are NaN, where states are missing.
    """

    before: str
    after: str
    time: pd.Timestamp
    cycles: int
    table: pd.DataFrame
    share: float
    falls: float
    verdict: str


def seams_of(branch: Branch, records: Sequence[CycleRecord], world: World) -> list[Seam]:
    """Compare the streams that a run was joined of, where they meet, as far as the archive still holds them.

    Args:
        branch, records: the run, and the records of its cycles, which say who ran them; a fork's past, and a run
            without streams, have no overlap.
        world: of the run.
    """
    archive = branch.archive
    there, found = set(archive.branches()) - {branch.name}, []
    for earlier, later in pairwise(records):
        names = earlier.experiment, later.experiment
        passes = names[0] != names[1] and there.issuperset(names)
        if passes and archive.branch(later.experiment).experiment.start < later.time:
            found.append(compare_streams(archive, *names, later.time, world))
    return found


def compare_streams(archive: Archive, before: str, after: str, time: pd.Timestamp, world: World) -> Seam:
    """Compare two streams in the overlap that ends before `time`, where the later one takes over.

    Raises:
        ArchiveError: a stream has not begun, or is damaged.
    """
    first, second = archive.branch(before), archive.branch(after)
    span = pd.date_range(second.experiment.start, time - STEP, freq=STEP)
    overlap = span.intersection(first.times).intersection(second.times)
    times = overlap[-2 * _DAY :]
    kept = times.isin(first.kept("analysis")) & times.isin(second.kept("analysis"))
    table, falls = _compare(first, second, times if kept.all() else times[:0], world)
    share = float(np.sqrt((table["share"].loc[list(HEADLINE)] ** 2).mean(skipna=False)))
    said = verdict(share, falls) if kept.all() else REMOVED
    return Seam(before, after, time, len(overlap), table, share, falls, said)


def _compare(first: Branch, second: Branch, times: pd.DatetimeIndex, world: World) -> tuple[pd.DataFrame, float]:
    """Return `table` and `falls` of a seam from the cycles of the last two days of the overlap."""
    difference, error = np.full((2, len(times), len(NAMES)), np.nan)
    for i, time in enumerate(times):
        states = [branch.state("analysis", time).values for branch in (first, second)]
        difference[i] = scores.mse(states[1], states[0], world.grid)[:, _GLOBE]
        when = np.datetime64(time, "h")
        if when in world.reference:
            error[i] = scores.mse(states[0], world.reference.array(when), world.grid)[:, _GLOBE]
    unit = _mean(np.where(error > 0, error, difference))
    late, early = (
        float(np.sqrt(_over(_mean(part), unit)[_HEADLINE].mean())) if len(part) == _DAY else np.nan
        for part in (difference[-_DAY:], difference[-2 * _DAY : -_DAY])
    )
    seam_error, analysis_error = (np.sqrt(_mean(squares[-_DAY:])) for squares in (difference, error))
    columns = {"seam_error": seam_error, "analysis_error": analysis_error, "share": _over(seam_error, analysis_error)}
    table = pd.DataFrame(columns, index=pd.Index(NAMES, name="channel"))
    return table, late / early if early > 0 else np.nan


def _over(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a ratio; of what is zero it is zero, and without bound of what is compared with zero."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(part == 0, 0.0, part / whole)


def _mean(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over cycles; NaN where there are none."""
    return squares.mean(axis=0) if len(squares) else np.full(squares.shape[1], np.nan)


def verdict(share: float, falls: float) -> str:
    """Say whether streams have converged at their seam.

    Args:
        share: seam error over analysis error; NaN where the latter is unknown.
        falls: what the difference keeps of itself in a day; NaN where the overlap does not tell.

    Returns:
        `converged`, with the reason, or `not converged`, with what to do.
    """
    if share <= SMALL:
        return f"converged: below {SMALL:.0%} of the analysis error"
    if np.isnan(falls):
        return "not converged: the overlap is too short to tell; give two days at least"
    if falls > STEADY:
        return "converged: no longer falling, a longer overlap would not help"
    if not np.isfinite(share):
        return f"not converged: falling by {1 - falls:.0%} a day"
    days = int(np.ceil(np.log(SMALL / share) / np.log(falls)))
    return f"not converged: falling by {1 - falls:.0%} a day; about {days} more days of overlap would do"
