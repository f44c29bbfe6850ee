"""How small errors grow in a forecast model and in the nature run, from the same pairs of states.

`dacycle nature-run FOLDER --pairs N` makes the pairs: runs of SPEEDY from slightly different states. A forecast model
starts from the same states a day later, when the difference has taken SPEEDY's own form.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.variational.harmonics import Harmonics
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.state import STEP_HOURS
from dacycle.forecast_adapter.worlds.nature import TWIN_DAYS
from dacycle.forecast_adapter.worlds.reference import Reference, ReferenceDataError

__all__ = ["BANDS", "ErrorGrowth", "measure_growth"]

BANDS = {"1-5": slice(1, 6), "6-12": slice(6, 13), "13-31": slice(13, 32)}
"""Total wavenumbers by which the differences are given."""
TRUNCATION = 31
STEPS_A_DAY = 24 // STEP_HOURS
_FRAMES = (STEPS_A_DAY - 2, STEPS_A_DAY - 1)
"""The frames of a run that a forecast starts from, the newer one a day after the perturbation."""
_HEADLINE = [index(name) for name in HEADLINE]


@dataclass(frozen=True)
class ErrorGrowth:
    """Hold the sizes of the differences, (lead, band, headline channel) in SI, after 0, 6, 12 ... hours.

    Attributes:
        nature, model: geometric mean over the pairs of the root mean square difference.
        pairs: number of pairs.
    """

    nature: NDArray[np.float64]
    model: NDArray[np.float64]
    pairs: int

    def doubling_days(self, sizes: NDArray[np.float64], since: int = 1, until: int = 5) -> NDArray[np.float64]:
        """Return the doubling time (band, channel) between two days; negative where the differences shrink."""
        doublings = np.log2(sizes[until * STEPS_A_DAY] / sizes[since * STEPS_A_DAY])
        with np.errstate(divide="ignore"):
            return (until - since) / doublings


def measure_growth(model: ForecastModel, folder: Path) -> ErrorGrowth:
    """Follow the differences of the pairs in a folder of `nature.run_twins` over ten days, and the model's from them.

    Raises:
        ReferenceDataError: the folder has no whole pairs on the model's grid.
        ForecastError: a forecast is not finite.
    """
    runs = [Reference(folder / kind) for kind in ("control", "twin")]
    times = runs[0].times
    length = STEPS_A_DAY * TWIN_DAYS
    whole = len(times) % length == 0 and np.array_equal(times, runs[1].times) and runs[0].grid.matches(model.grid)
    if not whole:
        raise ReferenceDataError(
            f"{folder}: no pairs of {TWIN_DAYS} days on {model.grid.name}; `dacycle nature-run FOLDER --pairs N` makes "
            "them"
        )
    harmonics = Harmonics(model.grid, TRUNCATION)
    forecasts = []
    for run in runs:
        previous, current = (np.stack([run.array(times[k]) for k in range(at, len(times), length)]) for at in _FRAMES)
        steps = model.forecast(previous, current, length - 1 - _FRAMES[1])
        forecasts.append(np.stack([current, *steps])[:, :, _HEADLINE])
    modelled = _sizes(forecasts[1] - forecasts[0], harmonics)
    states = [np.stack([run.array(time)[_HEADLINE] for time in times]) for run in runs]
    pairs = (states[1] - states[0]).reshape(len(times) // length, length, *states[0].shape[1:]).swapaxes(0, 1)
    return ErrorGrowth(_sizes(pairs[_FRAMES[1] :], harmonics), modelled, len(times) // length)


def _sizes(differences: NDArray, harmonics: Harmonics) -> NDArray[np.float64]:
    """Return (lead, band, channel) of differences (lead, pair, channel, H, W): the geometric mean over the pairs."""
    leads, pairs, channels = differences.shape[:3]
    waves = harmonics.analysis(differences.reshape(-1, *differences.shape[3:]).astype(np.float32))
    power = np.square(waves * harmonics.exists, dtype=np.float64).sum((0, 2)).reshape(-1, leads, pairs, channels)
    bands = np.stack([power[band].sum(0) for band in BANDS.values()], 1)
    return np.exp(0.5 * np.log(bands).mean(2))
