"""The numbers of a report: from the tidy tables of a run to rows that a template prints."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.archive.branches import Branch
from dacycle.cycler.report import style
from dacycle.cycler.verification.cycles import LAYERS
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "SampleFields",
    "departure_rows",
    "drift_summary",
    "free_run_level",
    "number",
    "percent",
    "rmse_of",
    "sample_fields",
    "with_interval",
    "withheld_rows",
]

#: Maps and spectra are means over at most this many cycles, spread evenly over the run.
SAMPLE = 120


def number(value: float, digits: int = 3) -> str:
    """A value to so many significant digits, without an exponent; a dash where there is none."""
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def percent(fraction: float) -> str:
    """A signed change in per cent, with a decimal where it is below ten; a dash where there is none."""
    if not np.isfinite(fraction):
        return "–"
    return f"{100 * fraction:+.{0 if abs(fraction) >= 0.0995 else 1}f} %".replace("-", "−")


def with_interval(value: float, low: float, high: float, unit: str = "") -> str:
    """Return a signed value to two digits with its interval in brackets; without one where a series is too short."""
    return f"{value:+.2g}{unit}" + (f" ({low:+.2g} to {high:+.2g})" if np.isfinite(low) else "")


def rmse_of(errors: pd.DataFrame, kind: str, channel: str, region: str = "globe") -> float:
    """RMSE over all times of one kind, channel and region; NaN where there are none."""
    at = (errors["kind"] == kind) & (errors["channel"] == channel) & (errors["region"] == region)
    return float(np.sqrt(errors.loc[at, "mse"].mean())) if at.any() else np.nan


def free_run_level(errors: pd.DataFrame) -> dict[str, float]:
    """RMSE of a free run over the second half of its cycles, by headline channel: where errors saturate."""
    if errors.empty:
        return {}
    times = np.sort(errors["time"].unique())
    late = errors[errors["time"] >= times[len(times) // 2]]
    return {channel: rmse_of(late, "analysis", channel) for channel in HEADLINE}


def drift_summary(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Global curves by channel, kind and lead -> rmse, acc, lost (hours); and the number of starts in them.

    Only starts that are verified at every lead, by every kind of forecast, count, so that all curves are means over the
    same ones; where none is, all starts do.
    """
    globe = table[(table["region"] == "globe") & table["channel"].isin(HEADLINE)]
    reached = globe.drop_duplicates(["start", "kind", "lead"]).groupby("start").size()
    complete = reached.index[reached == len(globe.drop_duplicates(["kind", "lead"]))]
    if len(complete):
        globe = globe[globe["start"].isin(complete)]
    means = globe.groupby(["channel", "kind", "lead"], observed=True)[["mse", "acc"]].mean().reset_index()
    means["rmse"] = np.sqrt(means.pop("mse"))
    means["lost"] = np.nan
    for channel, own in means.groupby("channel", observed=True):
        curves = own.pivot(index="lead", columns="kind", values="rmse")
        if {"analysis", "reference"} <= set(curves.columns) and len(curves) > 1:
            lost = scores.lead_time_lost(curves.index.to_numpy(), curves["analysis"], curves["reference"])
            means.loc[(means["channel"] == channel) & (means["kind"] == "analysis"), "lost"] = lost
    return means, int(globe["start"].nunique())


def departure_rows(fits: pd.DataFrame) -> list[dict[str, object]]:
    """One row per source, variable and layer: counts by use, and the fit of what was assimilated."""
    rows = []
    order = ["surface", *LAYERS]
    for (source, variable), kind in fits.groupby(["source", "variable"]):
        for layer in [layer for layer in order if layer in set(kind["layer"])]:
            own = kind[kind["layer"] == layer]
            counts = own.groupby("use")["count"].sum()
            row = {"source": source, "variable": variable, "layer": layer, "above": layer == "above 200 hPa"}
            row |= {use: int(counts.get(use, 0)) for use in style.USES}
            rows.append(row | _fit(own[own["use"] == "assimilated"], str(variable)))
    return rows


def withheld_rows(fits: pd.DataFrame) -> list[dict[str, object]]:
    """One row per source and variable: fits at withheld sites, without levels above 200 hPa."""
    part = fits[(fits["use"] == "withheld") & (fits["layer"] != "above 200 hPa")]
    rows = [
        {"source": source, "variable": variable, **_fit(own, str(variable))}
        for (source, variable), own in part.groupby(["source", "variable"])
    ]
    return [row for row in rows if row["compared"]]


def _fit(rows: pd.DataFrame, variable: str) -> dict[str, object]:
    """Means and root mean squares of O-B and O-A in readable units, and in units of the stated error."""
    factor, unit = style.readable_variable(variable)
    sums = rows.select_dtypes("number").sum()
    compared = int(sums["compared"])
    if not compared:
        names = ("mean_b", "rms_b", "mean_a", "rms_a", "change", "ratio_b", "ratio_a", "error")
        return {"unit": unit, "compared": 0, **dict.fromkeys(names, np.nan)}
    rms_b, rms_a = (float(np.sqrt(sums[f"{name}_squared"] / compared)) for name in ("o_b", "o_a"))
    return {
        "unit": unit,
        "compared": compared,
        "mean_b": factor * sums["o_b"] / compared,
        "rms_b": factor * rms_b,
        "mean_a": factor * sums["o_a"] / compared,
        "rms_a": factor * rms_a,
        "change": rms_a / rms_b - 1 if rms_b else np.nan,
        "error": factor * float(np.sqrt(sums["error_squared"] / compared)),
        "ratio_b": float(np.sqrt(sums["o_b_in_errors_squared"] / compared)),
        "ratio_a": float(np.sqrt(sums["o_a_in_errors_squared"] / compared)),
    }


@dataclass(frozen=True)
class SampleFields:
    """Means over a sample of cycles: headline channels (6, H, W) in SI and zonal spectra (6, m).

    Attributes:
        cycles: how many were sampled.
        increment, increment_rms: mean and root mean square of analysis minus background.
        errors: RMSE maps by kind; empty without a reference.
        powers: zonal power spectra by kind.
    """

    cycles: int
    increment: NDArray
    increment_rms: NDArray
    errors: Mapping[str, NDArray]
    powers: Mapping[str, NDArray]


def sample_fields(branch: Branch, world: World, times: pd.DatetimeIndex) -> SampleFields:
    """Read up to SAMPLE of the cycles at `times` and average what maps and spectra show."""
    chosen = times[np.unique(np.linspace(0, len(times) - 1, min(len(times), SAMPLE)).round().astype(int))]
    headline = [index(name) for name in HEADLINE]
    shape = (len(headline), *world.grid.shape)
    total, square = np.zeros(shape), np.zeros(shape)
    errors = {kind: np.zeros(shape) for kind in ("background", "analysis")}
    powers: dict[str, list[NDArray]] = {"background": [], "analysis": [], "reference": []}
    verified = 0
    for time in chosen:
        fields = {kind: branch.state(kind, time).values[headline].astype(float) for kind in errors}
        increment = fields["analysis"] - fields["background"]
        total += increment
        square += increment**2
        when = np.datetime64(time, "h")
        if when in world.reference:
            verified += 1
            truth = world.reference.array(when)[headline].astype(float)
            for kind, field in fields.items():
                errors[kind] += (field - truth) ** 2
            fields["reference"] = truth
        for kind, field in fields.items():
            powers[kind].append(scores.zonal_power_spectrum(field, world.grid))
    return SampleFields(
        len(chosen),
        total / len(chosen),
        np.sqrt(square / len(chosen)),
        {kind: np.sqrt(field / verified) for kind, field in errors.items()} if verified else {},
        {kind: np.mean(power, axis=0) for kind, power in powers.items() if power},
    )
