"""Arrange the mean squared errors of a run for pairing: a row per time, a column per kind, channel and region."""

import pandas as pd

from dacycle.cycler.verification.cycles import Verification, withheld_fits
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["AT_OBSERVATIONS", "CHANNELS", "DAYS", "KEYS", "KINDS", "squared_errors"]

CHANNELS = (
    "msl", "t2m", "u10", "v10",
    *(f"{name}{level}" for name in ("z", "t", "u", "v") for level in (850, 500, 200)),
    "q850", "q700", "q500",
)  # fmt: skip
"""Channels of the scorecard."""
DAYS = (1, 3, 5, 10)
"""Days of lead of the forecasts that are compared."""
KINDS = ("background", "analysis", *(f"day {day}" for day in DAYS))
"""Fields that are compared with the reference."""
AT_OBSERVATIONS = ("withheld O-B", "withheld O-A", *(f"O-F day {day}" for day in DAYS))
"""Fields that are compared with observations that they have not seen, in place of a region's reference."""
KEYS = ["of", "channel", "region"]


def squared_errors(verification: Verification, scored: pd.DataFrame, observed: pd.DataFrame | None) -> pd.DataFrame:
    """Return mean squared errors (SI) by time (or start), in columns by `KEYS`.

    `of` is one of `KINDS`, or of `AT_OBSERVATIONS`; of the latter `channel` names source and variable, and `region` is
    empty.

    Args:
        verification: of the run.
        scored: of `drift.read_scores`.
        observed: of `at_observations`; None where there is no forecast.
    """
    parts = [*_of_cycles(verification.errors), *_of_forecasts(scored), *_at_withheld(verification.fits)]
    if observed is not None:
        parts += _of_forecasts_at_observations(observed)
    rows = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["time", *KEYS, "mse"])
    return rows.pivot(index="time", columns=KEYS, values="mse").astype(float)


def _of_cycles(errors: pd.DataFrame) -> list[pd.DataFrame]:
    rows = errors[errors["channel"].isin({*CHANNELS, *HEADLINE})].rename(columns={"kind": "of"})
    return [rows[["time", *KEYS, "mse"]]] if len(rows) else []


def _of_forecasts(scored: pd.DataFrame) -> list[pd.DataFrame]:
    own = (scored["kind"] == "analysis") & scored["lead"].isin([24 * day for day in DAYS])
    rows = scored[own & scored["channel"].isin({*CHANNELS, *HEADLINE})]
    if rows.empty:
        return []
    rows = rows.assign(of=_day(rows["lead"])).rename(columns={"start": "time"})
    return [rows[["time", *KEYS, "mse"]].astype({"channel": str, "region": str})]


def _at_withheld(fits: pd.DataFrame) -> list[pd.DataFrame]:
    withheld = withheld_fits(fits[fits["compared"] > 0])
    sums = withheld.groupby(["source", "variable", "time"], as_index=False)[
        ["compared", "o_b_squared", "o_a_squared"]
    ].sum()
    channel = sums["source"].astype(str) + " " + sums["variable"].astype(str)
    return [
        pd.DataFrame(
            {"time": sums["time"], "of": of, "channel": channel, "region": "", "mse": sums[squared] / sums["compared"]}
        )
        for of, squared in zip(AT_OBSERVATIONS, ("o_b_squared", "o_a_squared"), strict=False)
        if len(sums)
    ]


def _of_forecasts_at_observations(observed: pd.DataFrame) -> list[pd.DataFrame]:
    rows = observed[(observed["region"] == "globe") & observed["lead"].isin([24 * day for day in DAYS])]
    if rows.empty:
        return []
    return [
        pd.DataFrame(
            {
                "time": rows["start"],
                "of": "O-F " + _day(rows["lead"]),
                "channel": rows["source"].astype(str) + " " + rows["channel"].astype(str),
                "region": "",
                "mse": rows["d_squared"] / rows["n"],
            }
        )
    ]


def _day(lead: pd.Series) -> pd.Series:
    return "day " + (lead.astype(int) // 24).astype(str)
