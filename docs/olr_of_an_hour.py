"""Measure how OLR of the last hour differs from the mean over six hours, in the nature run's model.

    python docs/olr_of_an_hour.py --days 20

WeatherBench2 has the mean over the last hour in six. The model's insolation is a daily mean, so that its OLR has no
daily cycle: this is the difference by weather alone. The error that an observation of OLR is given is that of the
demonstration.
"""

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.grid import get_grid
from dacycle.forecast_adapter.worlds.nature import STEPS_PER_6H, _Speedy
from dacycle.obs_ingest.errors.model import ERRORS, OLR_PERIOD_ERROR

HOUR = 2
"""Half-hour steps."""
OLR_ERROR = float(np.hypot(ERRORS["olr"].instrument, ERRORS["olr"].representativeness))
"""W m-2: the instrument's and the representativeness error that dacycle gives a mean over six hours."""


class Hours(_Speedy):
    """The nature run, of which only OLR is kept: means (T, 2, H, W) of the last hour and of all six, W m-2."""

    def _convert(self, output: Any) -> Any:
        flux = np.asarray(output._predictions.physics["_longwave_rad"].ftop, np.float64)
        steps = flux.reshape(-1, STEPS_PER_6H, *flux.shape[1:])
        means = np.stack([steps[:, -HOUR:].mean(1), steps.mean(1)], 1)
        return self._regrid(means, get_grid("5.625deg"))


def sampled(days: int, spin_up: int) -> Iterator[Any]:
    """Yield the means of one stretch of days after another, after the spin-up."""
    speedy = Hours(pd.Timestamp("2024-01-01"), seed=1)
    for _ in speedy.days(spin_up):
        pass
    yield from speedy.days(days)


def main() -> None:
    """Print the root mean square difference by region, beside the variability of OLR and the error of observation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=20)
    parser.add_argument("--spin-up", type=int, default=30)
    chosen = parser.parse_args()
    hour, six = np.moveaxis(np.concatenate(list(sampled(chosen.days, chosen.spin_up))), 1, 0)
    grid = get_grid("5.625deg")
    print(
        f"{len(six)} means of six hours; error of observation {OLR_ERROR:.1f} W m-2, "
        f"of a mean over one hour a further {5 * OLR_PERIOD_ERROR:.1f}"
    )
    off = hour - six
    squares = scores.region_means(np.stack([off**2, (six - six.mean(0)) ** 2, off], 1), grid).mean(0)
    for region, (square, variance, mean) in zip(scores.REGIONS, squares.T, strict=True):
        share = 100 * square / OLR_ERROR**2
        print(
            f"{region:22} rms difference {square**0.5:5.2f}, mean {mean:+.2f} W m-2; {share:4.1f} % of the error's "
            f"variance; standard deviation of the mean over six hours {variance**0.5:5.2f}"
        )


if __name__ == "__main__":
    main()
