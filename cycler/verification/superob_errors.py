"""Compare the errors that superobs state with those that a run's departures show, by number of stations.

Two tests of the error model (`obs_ingest.errors.model`):

- the error of a superob, by Desroziers et al. as in `desroziers`, from superobs' O-B and O-A. It depends on how optimal
  the analyses are;
- the part of an error that is a station's own, from the differences between the stations of a cell, which depends on no
  analysis. The background's error hardly changes within a cell and cancels; what is left of it makes this an upper
  bound.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from dacycle.cycler.verification.desroziers import covariance_estimates
from dacycle.forecast_adapter.channels import CHANNELS
from dacycle.forecast_adapter.grid import Grid
from dacycle.obs_ingest.errors.table import ErrorTable
from dacycle.obs_ingest.superobs import superob_departures
from dacycle.obs_ingest.table import VARIABLES

__all__ = ["COUNTS", "estimate_superobs", "superob_sums"]

COUNTS = {"1": 1, "2": 2, "3-4": 4, "5-8": 8, "9 and more": np.inf}
"""Classes of the number of stations, and the largest number in each."""

_KEYS = ["variable", "stations"]
_VARIABLE = {channel.name: channel.variable for channel in CHANNELS}


def superob_sums(departures: pd.DataFrame, grid: Grid, assumed: ErrorTable) -> pd.DataFrame:
    """Sum up the superobs of one cycle's departures, by variable and class of `COUNTS`; levels are taken together.

    Args:
        departures: of the cycle.
        grid: of the observations.
        assumed: the errors of the experiment.
    """
    superobs = superob_departures(departures, grid, assumed)
    classes = pd.cut(superobs["stations"], [0, *COUNTS.values()], labels=list(COUNTS))
    several = superobs["stations"] > 1
    sums = pd.DataFrame(
        {
            "variable": superobs["channel"].map(_VARIABLE),
            "stations": classes,
            "values": 1,
            "d_b": superobs["o_b"],
            "d_a": superobs["o_a"],
            "d_b_squared": superobs["o_b"] ** 2,
            "d_a_squared": superobs["o_a"] ** 2,
            "d_a_d_b": superobs["o_a"] * superobs["o_b"],
            "assumed_squared": superobs["error"] ** 2,
            "own_squared": (superobs["own"] ** 2).where(several, 0.0),
            "scatter_squared": (superobs["scatter"] ** 2).where(several, 0.0),
        }
    )
    return sums.groupby(_KEYS, as_index=False, observed=True).sum()


def estimate_superobs(cycles: Iterable[tuple[pd.Timestamp, pd.DataFrame]]) -> pd.DataFrame:
    """Estimate the errors of superobs by variable and class of `COUNTS`, from the sums of each cycle.

    Returns:
        A table with the columns of `desroziers.estimate` that concern assimilated values, `values` being superobs; and
        with `own`, `scatter`: the stated part of one station's error that is its own, and the found one (NaN for one
        station).
    """
    tables = [sums.assign(time=time) for time, sums in cycles]
    joined = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*_KEYS, "time"])
    rows = []
    for (variable, stations), sums in joined.groupby(_KEYS, observed=True):
        numbers = sums.set_index("time").drop(columns=_KEYS)
        mean = numbers[["own_squared", "scatter_squared"]].sum() / numbers["values"].sum()
        own, scatter = np.sqrt(mean) if stations != "1" else (np.nan, np.nan)
        estimates = covariance_estimates(numbers) | {"own": float(own), "scatter": float(scatter)}
        rows.append({"variable": str(variable), "stations": str(stations), **estimates})
    order = {name: position for position, name in enumerate(COUNTS)}
    table = pd.DataFrame(rows)
    if len(table):
        places = table["variable"].map(VARIABLES.index) * len(order) + table["stations"].map(order)
        table = table.iloc[np.argsort(places.to_numpy())]
    return table.reset_index(drop=True)
