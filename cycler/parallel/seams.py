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

from dacycle.cycler.archive.branches import Archive
from dacycle.cycler.experiment import STEP
from dacycle.cycler.parallel.streams import Stream
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE, NAMES
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["SMALL", "Seam", "seams", "verdict"]

SMALL = 0.1
"""A seam error below this share of the analysis error counts as none."""
STEADY = 0.95
"""A difference that keeps more than this share of itself in a day no longer falls."""
_DAY = pd.Timedelta(days=1) // STEP
_GLOBE = list(scores.REGIONS).index("globe")


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
        a_day_before: the same a day earlier; NaN in an overlap of less than two days.
        falls: what the difference keeps of itself in the last day; NaN in an overlap of less than two days.
        verdict: see `verdict`.
    """

    before: str
    after: str
    time: pd.Timestamp
    cycles: int
    table: pd.DataFrame
    share: float
    a_day_before: float
    falls: float
    verdict: str


def seams(archive: Archive, streams: Sequence[Stream], world: World) -> list[Seam]:
    """Compare neighbouring streams in their overlaps.

    Raises:
        ArchiveError: a stream has not begun, or is damaged.
    """
    return [_seam(archive, before, after, world) for before, after in pairwise(streams)]


def _seam(archive: Archive, before: Stream, after: Stream, world: World) -> Seam:
    first, second = (archive.branch(stream.experiment.name) for stream in (before, after))
    span = pd.date_range(after.experiment.start, after.first - STEP, freq=STEP)
    times = span.intersection(first.times).intersection(second.times)
    difference, error = np.full((2, len(times), len(NAMES)), np.nan)
    for i, time in enumerate(times):
        states = [branch.state("analysis", time).values for branch in (first, second)]
        difference[i] = scores.mse(states[1], states[0], world.grid)[:, _GLOBE]
        when = np.datetime64(time, "h")
        if when in world.reference:
            error[i] = scores.mse(states[0], world.reference.array(when), world.grid)[:, _GLOBE]
    seam_error, analysis_error = (np.sqrt(_mean(squares[-_DAY:])) for squares in (difference, error))
    table = pd.DataFrame(
        {"seam_error": seam_error, "analysis_error": analysis_error, "share": seam_error / analysis_error},
        index=pd.Index(NAMES, name="channel"),
    )
    headline = [NAMES.index(name) for name in HEADLINE]
    unit = _mean(np.where(np.isnan(error), difference, error)[:, headline])
    late, early = (
        float(np.sqrt((_mean(part[:, headline]) / unit).mean())) if len(part) == _DAY else np.nan
        for part in (difference[-_DAY:], difference[-2 * _DAY : -_DAY])
    )
    share = float(np.sqrt((table["share"].loc[list(HEADLINE)] ** 2).mean()))
    falls = late / early if early > 0 else np.nan
    before_last = share / falls if np.isfinite(falls) else np.nan
    return Seam(
        first.name, second.name, after.first, len(times), table, share, before_last, falls, verdict(share, falls)
    )


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
    if np.isnan(share):
        return f"not converged: falling by {1 - falls:.0%} a day"
    days = int(np.ceil(np.log(SMALL / share) / np.log(falls)))
    return f"not converged: falling by {1 - falls:.0%} a day; about {days} more days of overlap would do"
