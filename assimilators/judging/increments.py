"""What becomes of an increment in a forecast model, by the frames that get it, and how small perturbations grow.

A model of two frames sees the difference between them as a tendency. After an analysis only the newer frame holds the
increment. A network trained on seamless pairs alone may carry it on as a tendency; the experiment's `frames` is for
such a network.
"""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dacycle.forecast_adapter.channels import GROUPS, HEADLINE, index
from dacycle.forecast_adapter.models.frames import older_frame
from dacycle.forecast_adapter.models.model import ForecastModel
from dacycle.forecast_adapter.state import STEP_HOURS

__all__ = ["SHARES", "TEST_LEADS", "IncrementTest", "run_increment_test"]

TEST_LEADS = (6, 24, 72)
"""Hours after which the response to an increment is measured."""
SHARES = {"newest": 0.0, "both": 1.0}
"""Share of the increment in the older frame, by the experiment's `frames`."""
BANDS = {"1-3": slice(1, 4), "4-9": slice(4, 10), "10 and more": slice(10, None)}
"""Zonal wave numbers by which the growth of perturbations is given."""
TOLERANCE = 1.25
"""Factor within which an increment's size is kept."""
_SHARE, _DAYS = 0.2, 5
"""An increment of the test is this share of the forecast change after so many days: of the atmosphere's own scales."""
_SMALL = 0.01


@dataclass(frozen=True)
class IncrementTest:
    """Hold the outcome of the test.

    Attributes:
        sizes: by setting of `frames`, lead (hours) and group of channels: root mean square response over the
            increment's own, averaged over the group's channels. 1 where the increment is carried along.
        doubling_days: by band of zonal wave numbers: the time in which a perturbation of a hundredth of the
            increments, in both frames, doubles from 24 to 72 h; negative where it decays.
        starts: number of forecasts.
    """

    sizes: dict[str, dict[int, dict[str, float]]]
    doubling_days: dict[str, float]
    starts: int

    @property
    def frames(self) -> str:
        """Return the setting to use: `newest`, unless it enlarges or loses increments within a day and `both` does not.

        An increment counts as kept if its size, averaged over the groups, is within a quarter of 1 at 6 and 24 h.
        """
        return "newest" if self._misfit("newest") <= max(np.log(TOLERANCE), self._misfit("both")) else "both"

    def _misfit(self, setting: str) -> float:
        return max(abs(float(np.log(np.mean(list(self.sizes[setting][lead].values()))))) for lead in (6, 24))

    @property
    def sentence(self) -> str:
        """Say what the test found for the model's card."""
        shares = "; ".join(
            f"in {'the newer frame alone' if name == 'newest' else 'both frames'} "
            + ", ".join(f"{np.mean(list(groups.values())):.2f} after {lead} h" for lead, groups in by_lead.items())
            for name, by_lead in self.sizes.items()
        )
        return f"An increment has these shares of its size: {shares}. Experiments take `frames: {self.frames}`."

    def as_dict(self) -> dict[str, Any]:
        """Return the outcome as plain values, with the setting to use."""
        return {"frames": self.frames, **asdict(self)}


def run_increment_test(
    model: ForecastModel, previous: NDArray[np.float32], current: NDArray[np.float32]
) -> IncrementTest:
    """Forecast with and without increments, in the newer frame alone and in both.

    The increments are a fifth of the change that the model forecasts in five days.

    Args:
        model: the one under test.
        previous, current: the two frames of the starts, (B, 69, H, W), SI.

    Raises:
        ForecastError: a forecast is not finite.
    """
    days = 24 // STEP_HOURS * _DAYS
    later = next(islice(model.forecast(previous, current, days), days - 1, None))
    increments = np.float32(_SHARE) * (later - current)
    steps = TEST_LEADS[-1] // STEP_HOURS
    starts = {
        name: (older_frame(previous, current, current + increments, share), current + increments)
        for name, share in SHARES.items()
    }
    small = np.float32(_SMALL) * increments
    starts["small"] = (older_frame(previous, current, current + small, 1.0), current + small)
    forecasts = {name: model.forecast(*pair, steps) for name, pair in starts.items()}
    sizes: dict[str, dict[int, dict[str, float]]] = {name: {} for name in SHARES}
    spectra = {}
    for step, control in enumerate(model.forecast(previous, current, steps), 1):
        responses = {name: next(states) - control for name, states in forecasts.items()}
        if (lead := STEP_HOURS * step) in TEST_LEADS:
            for name in SHARES:
                sizes[name][lead] = _sizes(model, responses[name], increments)
            spectra[lead] = _band_sizes(model, responses["small"])
    growth = {band: float(np.log2(spectra[72][band] / spectra[24][band])) for band in BANDS}
    return IncrementTest(sizes, {band: 2 / rate if rate else np.inf for band, rate in growth.items()}, len(current))


def _sizes(model: ForecastModel, response: NDArray, increments: NDArray) -> dict[str, float]:
    """Return the relative size of a response, by group of channels."""

    def size(fields: NDArray) -> NDArray[np.float64]:
        return np.sqrt((np.square(fields, dtype=np.float64) * model.grid.weights).mean((0, 2, 3)))

    shares = size(response) / np.maximum(size(increments), np.finfo(np.float32).tiny)
    return {name: float(shares[channels].mean()) for name, channels in GROUPS.items()}


def _band_sizes(model: ForecastModel, response: NDArray) -> dict[str, float]:
    """Return the size of a response by band of zonal wave numbers: the geometric mean over the headline channels."""
    headline = response[:, [index(name) for name in HEADLINE]].astype(np.float64)
    power = (np.abs(np.fft.rfft(headline)) ** 2 * model.grid.weights[:, :1]).mean((0, 2))
    return {name: float(np.exp(0.5 * np.log(power[:, band].sum(-1)).mean())) for name, band in BANDS.items()}
