"""Turn the tidy tables of a run into the rows that a template prints."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.files import write_whole
from dacycle.common.foreign import reading
from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.report import style
from dacycle.cycler.verification.cycles import LAYERS, QUANTITIES, fingerprint, means_of_profile, withheld_fits
from dacycle.cycler.verification.daily_cycle import daily_cycles, project
from dacycle.cycler.verification.members import rank_shares, summary
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE, NAMES, index
from dacycle.forecast_adapter.worlds.world import World

__all__ = [
    "SPECTRA",
    "SampleFields",
    "bias_of",
    "daily_rows",
    "departure_rows",
    "drift_regions",
    "drift_summary",
    "free_run_level",
    "global_mean_rows",
    "member_cell",
    "member_rows",
    "number",
    "percent",
    "rmse_of",
    "sample_fields",
    "sampled_of",
    "with_interval",
    "withheld_rows",
]

_HEADLINE = [index(name) for name in HEADLINE]
_SAMPLE_FORM = "sample 4"
"""With another text here, samples that were kept before are read anew."""

SPECTRA = ("increment", "background error", "analysis error")
"""Differences whose spectra are taken, beside those of the states."""

SAMPLE = 120
"""Maps and spectra are means over at most this many cycles, spread evenly over the run."""


def number(value: float, digits: int = 3) -> str:
    """Return a value to a number of significant digits, without an exponent; a dash where it is not finite."""
    if not np.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - int(np.floor(np.log10(abs(value)))))
    return f"{value:,.{decimals}f}".replace("-", "−")


def percent(fraction: float) -> str:
    """Return a signed change in per cent, with a decimal where it is below ten; a dash where it is not finite."""
    if not np.isfinite(fraction):
        return "–"
    return f"{100 * fraction:+.{0 if abs(fraction) >= 0.0995 else 1}f} %".replace("-", "−")


def with_interval(value: float, low: float, high: float, effective: float, unit: str = "") -> str:
    """Return a signed value to two digits, with its interval and effective sample size in brackets if it has one."""
    interval = f" ({_signed(low)} to {_signed(high)}; n = {effective:.0f})" if np.isfinite(low) else ""
    return f"{_signed(value)}{unit}{interval}"


def _signed(value: float) -> str:
    """Return a signed number to two digits, and from 100 on as a whole one."""
    return f"{value:+.0f}" if abs(value) >= 100 else f"{value:+.2g}"


def rmse_of(errors: pd.DataFrame, kind: str, channel: str, region: str = "globe") -> float:
    """Return the RMSE over all times of one kind, channel and region; NaN where there are none."""
    selected = (errors["kind"] == kind) & (errors["channel"] == channel) & (errors["region"] == region)
    return float(np.sqrt(errors.loc[selected, "mse"].mean())) if selected.any() else np.nan


def bias_of(errors: pd.DataFrame, kind: str, channel: str, region: str = "globe") -> float:
    """Return the mean error over all times of one kind, channel and region; NaN where there are none."""
    selected = (errors["kind"] == kind) & (errors["channel"] == channel) & (errors["region"] == region)
    return float(errors.loc[selected, "bias"].mean()) if selected.any() else np.nan


def drift_regions(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return RMSE and bias of the forecasts from the analyses: a row per channel and lead, a cell per region."""
    own = table[(table["kind"] == "analysis") & table["channel"].isin(HEADLINE)]
    own = own.astype({"channel": str, "region": str})
    means = own.groupby(["channel", "lead", "region"])[["mse", "bias"]].mean()
    means["rmse"] = np.sqrt(means["mse"])
    reached = set(own["lead"])
    leads = [lead for lead in (24, 72, 120, 240) if lead in reached] or [max(reached, default=0)]
    rows: list[dict[str, object]] = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        for lead in leads:
            of_lead = means.xs((channel, lead), level=("channel", "lead")) if (channel, lead) in means.index else None
            if of_lead is None:
                continue
            cells = [
                (
                    factor * float(np.sqrt(of_lead["mse"].get(region, np.nan))),
                    factor * float(of_lead["bias"].get(region, np.nan)),
                )
                for region in scores.REGIONS
            ]
            rows.append(
                {"channel": channel, "unit": unit, "day": f"{lead / 24:g}", "cells": cells, "first": lead == leads[0]}
            )
    return rows


def global_mean_rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what forecasts add to global means: a row per quantity and lead, in units of the quantity.

    `analysis` and `reference` are the mean error of the forecasts from either, NaN where there are none. The starts are
    those of `drift_summary`, as far as they have scores of all channels.
    """
    globe = _same_starts(table[(table["region"] == "globe") & table["kind"].isin(["analysis", "reference"])])
    profiles = globe.pivot_table(index=["kind", "lead", "start"], columns="channel", values="bias", observed=True)
    if not set(NAMES) <= set(profiles.columns):
        return []
    profiles = profiles[list(NAMES)].dropna().groupby(["kind", "lead"]).mean()
    means = {key: means_of_profile(profile.to_numpy()) for key, profile in profiles.iterrows()}
    leads = sorted({lead for _, lead in means})
    return [
        {
            "quantity": quantity,
            "unit": QUANTITIES[quantity],
            "lead_hours": lead,
            **{kind: means.get((kind, lead), {}).get(quantity, np.nan) for kind in ("analysis", "reference")},
        }
        for quantity in next(iter(means.values()), {})
        for lead in leads
    ]


def free_run_level(errors: pd.DataFrame) -> dict[str, float]:
    """Return the RMSE of a free run over the second half of its cycles, where errors saturate, by headline channel."""
    if errors.empty:
        return {}
    times = np.sort(errors["time"].unique())
    late = errors[errors["time"] >= times[len(times) // 2]]
    return {channel: rmse_of(late, "analysis", channel) for channel in HEADLINE}


def drift_summary(table: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Return global curves (channel, kind, lead -> rmse, acc, lost in hours), and the number of starts in them.

    All curves are means over the same starts: those verified at every lead, for every kind of forecast. Where there is
    no such start, all starts are used.
    """
    globe = _same_starts(table[(table["region"] == "globe") & table["channel"].isin(HEADLINE)])
    means = globe.groupby(["channel", "kind", "lead"], observed=True)[["mse", "acc"]].mean().reset_index()
    means["rmse"] = np.sqrt(means.pop("mse"))
    means["lost"] = np.nan
    for channel, of_channel in means.groupby("channel", observed=True):
        curves = of_channel.pivot(index="lead", columns="kind", values="rmse")
        if {"analysis", "reference"} <= set(curves.columns) and len(curves) > 1:
            lost = scores.lead_time_lost(curves.index.to_numpy(), curves["analysis"], curves["reference"])
            means.loc[(means["channel"] == channel) & (means["kind"] == "analysis"), "lost"] = lost
    return means, int(globe["start"].nunique())


def _same_starts(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the starts that have each kind at each lead; all rows where there is no such start."""
    reached = rows.drop_duplicates(["start", "kind", "lead"]).groupby("start").size()
    complete = reached.index[reached == len(rows.drop_duplicates(["kind", "lead"]))]
    return rows[rows["start"].isin(complete)] if len(complete) else rows


def member_rows(of_members: pd.DataFrame, of_control: pd.DataFrame) -> list[dict[str, Any]]:
    """Return `verification.members.summary` in readable units, with the unit of each row."""
    rows = summary(of_members, of_control)
    for row in rows:
        factor, row["unit"] = style.readable(row["channel"])
        for name in ("rmse", "rmse_control", "spread", "crps", "mae_control"):
            row[name] *= factor
    return rows


def member_cell(row: Mapping[str, Any]) -> str:
    """Return error of the mean and CRPS, each with the control's in brackets, and spread over error, of a row."""
    errors = f"{number(row['rmse'])} ({number(row['rmse_control'])})"
    return f"{errors}; {number(row['crps'])} ({number(row['mae_control'])}); {number(row['spread_over_error'], 2)}"


def departure_rows(fits: pd.DataFrame) -> list[dict[str, object]]:
    """Return one row per source, variable and layer: counts by use, and the fit of the assimilated values."""
    rows = []
    order = ["surface", *LAYERS]
    for (source, variable), of_variable in fits.groupby(["source", "variable"]):
        for layer in [layer for layer in order if layer in set(of_variable["layer"])]:
            of_layer = of_variable[of_variable["layer"] == layer]
            counts = of_layer.groupby("use")["count"].sum()
            row = {"source": source, "variable": variable, "layer": layer, "above": layer == "above 200 hPa"}
            row |= {use: int(counts.get(use, 0)) for use in style.USES}
            rows.append(row | _fit(of_layer[of_layer["use"] == "assimilated"], str(variable)))
    return rows


def withheld_rows(fits: pd.DataFrame) -> list[dict[str, object]]:
    """Return one row per source and variable: the fit at withheld sites, and apart from them in withheld regions."""
    rows = [
        {"source": source, "variable": variable, **_fit(sums, str(variable))}
        for (source, variable), sums in withheld_fits(fits).groupby(["source", "variable"])
    ]
    return [row for row in rows if row["compared"]]


def _fit(rows: pd.DataFrame, variable: str) -> dict[str, object]:
    """Return means and root mean squares of O-B and O-A in readable units, and in units of the stated error.

    `error_b` and `error_a` are the errors of background and analysis at the values: the root of the mean square without
    that of the stated error; NaN where that is larger.
    """
    factor, unit = style.readable_variable(variable)
    sums = rows.select_dtypes("number").sum()
    compared = int(sums["compared"])
    if not compared:
        names = ("mean_b", "rms_b", "mean_a", "rms_a", "change", "ratio_b", "ratio_a", "error", "error_b", "error_a")
        return {"unit": unit, "compared": 0, **dict.fromkeys(names, np.nan)}
    rms_b, rms_a = (float(np.sqrt(sums[f"{name}_squared"] / compared)) for name in ("o_b", "o_a"))
    stated = sums["error_squared"] / compared
    own_b, own_a = (float(np.sqrt(rms**2 - stated)) if rms**2 >= stated else np.nan for rms in (rms_b, rms_a))
    return {
        "unit": unit,
        "compared": compared,
        "mean_b": factor * sums["o_b"] / compared,
        "rms_b": factor * rms_b,
        "mean_a": factor * sums["o_a"] / compared,
        "rms_a": factor * rms_a,
        "change": rms_a / rms_b - 1 if rms_b else np.nan,
        "error": factor * float(np.sqrt(stated)),
        "error_b": factor * own_b,
        "error_a": factor * own_a,
        "ratio_b": float(np.sqrt(sums["o_b_in_errors_squared"] / compared)),
        "ratio_a": float(np.sqrt(sums["o_a_in_errors_squared"] / compared)),
    }


@dataclass(frozen=True)
class SampleFields:
    """Hold means over a sample of cycles: headline channels (6, H, W) in SI, and zonal spectra (6, m).

    Attributes:
        cycles: number of cycles in the sample.
        increment, increment_rms: mean and root mean square of analysis minus background.
        errors: RMSE maps by kind; empty without a reference.
        powers: zonal power spectra of each kind of state; where there is a reference, also of the increments and of
            the errors of backgrounds and analyses.
        daily: (n, 2, 2, 6, 5) projections of increments and backgrounds, see `verification.daily_cycle.project`.
        ranks: (6, N + 1) shares of the area where the reference has each rank among the N members of the analyses;
            (6, 0) without a reference or members.
    """

    cycles: int
    increment: NDArray
    increment_rms: NDArray
    errors: Mapping[str, NDArray]
    powers: Mapping[str, NDArray]
    daily: NDArray
    ranks: NDArray


def sample_fields(branch: Branch, world: World, records: Sequence[CycleRecord]) -> SampleFields:
    """Return means over up to `SAMPLE` of the cycles of these records.

    They are kept in branches/NAME/verification/ and used again as long as the sampled cycles and their references are
    the same: reading the states takes longer than the rest of a report.

    Raises:
        ArchiveError: a state is damaged.
    """
    sampled = sampled_of(records)
    verified = [np.datetime64(record.time, "h") in world.reference for record in sampled]
    key = hashlib.sha256(f"{_SAMPLE_FORM} {fingerprint(sampled)} {verified}".encode()).hexdigest()
    path = branch.folder / "verification" / "sample.npz"
    return _kept_sample(path, key) or _keep_sample(path, key, _read_sample(branch, world, sampled, verified))


def sampled_of(records: Sequence[CycleRecord]) -> list[CycleRecord]:
    """Return up to `SAMPLE` records, spread evenly over all of them and over the four hours of the day."""
    if len(records) <= SAMPLE:
        return list(records)
    evenly = np.linspace(0, len(records) - 4, SAMPLE).round().astype(int)
    return [records[i] for i in np.unique(evenly + (np.arange(SAMPLE) - evenly) % 4)]


def daily_rows(sample: SampleFields, world: World, records: Sequence[CycleRecord]) -> list[dict[str, object]]:
    """Return the rows of `daily_cycles` for the sample of these records, in the report's units."""
    times = [record.time for record in sampled_of(records)]
    rows = daily_cycles(times, sample.daily[:, 0], sample.daily[:, 1], world).to_dict("records")
    for row in rows:
        factor, row["unit"] = style.readable(str(row["channel"]))
        for name in ("mean", "amplitude", "error", "amplitude_12"):
            row[name] = factor * row[name]
    return rows


def _kept_sample(path: Path, key: str) -> SampleFields | None:
    """Return the sample that a file keeps; None where there is none, it is of other cycles, or it is damaged."""
    if not path.is_file():
        return None
    try:
        with reading(path, ArchiveError), np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
            if str(stored["key"]) != key:
                return None
            arrays = {name: stored[name] for name in stored.files}
    except ArchiveError:
        return None
    of = {
        part: {name.partition(" ")[2]: value for name, value in arrays.items() if name.startswith(f"{part} ")}
        for part in ("errors", "powers")
    }
    means = arrays["increment"], arrays["increment_rms"]
    return SampleFields(int(arrays["cycles"]), *means, of["errors"], of["powers"], arrays["daily"], arrays["ranks"])


def _keep_sample(path: Path, key: str, sample: SampleFields) -> SampleFields:
    arrays: dict[str, NDArray] = {
        "key": np.array(key),
        "cycles": np.array(sample.cycles),
        "increment": sample.increment,
        "increment_rms": sample.increment_rms,
        "daily": sample.daily,
        "ranks": sample.ranks,
        **{f"errors {name}": field for name, field in sample.errors.items()},
        **{f"powers {name}": power for name, power in sample.powers.items()},
    }
    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    # An archive that may only be read has its report all the same: the sample is then read again each time.
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content.getvalue())
    return sample


def _read_sample(
    branch: Branch, world: World, sampled: Sequence[CycleRecord], verified: Sequence[bool]
) -> SampleFields:
    shape = (len(HEADLINE), *world.grid.shape)
    total, square = np.zeros(shape), np.zeros(shape)
    errors = {kind: np.zeros(shape) for kind in ("background", "analysis")}
    powers: dict[str, list[NDArray]] = {name: [] for name in ("background", "analysis", "reference", *SPECTRA)}
    daily, ranks = [], []
    for record, has_reference in zip(sampled, verified, strict=True):
        fields = {kind: branch.headline_fields(kind, record.time).astype(float) for kind in errors}
        increment = fields["analysis"] - fields["background"]
        total += increment
        square += increment**2
        daily.append([project(field, record.time.hour, world) for field in (increment, fields["background"])])
        if has_reference:
            truth = world.reference.array(np.datetime64(record.time, "h"))[_HEADLINE].astype(float)
            for kind, field in fields.items():
                errors[kind] += (field - truth) ** 2
            fields |= {"increment": increment, **{f"{kind} error": field - truth for kind, field in fields.items()}}
            fields["reference"] = truth
            ranks += _ranks(branch, record.time, fields["analysis"], truth)
        for kind, field in fields.items():
            powers[kind].append(scores.zonal_power_spectrum(field, world.grid))
    return SampleFields(
        len(sampled),
        total / len(sampled),
        np.sqrt(square / len(sampled)),
        {kind: np.sqrt(field / sum(verified)) for kind, field in errors.items()} if any(verified) else {},
        {kind: np.mean(power, axis=0) for kind, power in powers.items() if power},
        np.array(daily),
        np.mean(ranks, axis=0) if ranks else np.empty((len(HEADLINE), 0)),
    )


def _ranks(branch: Branch, time: pd.Timestamp, analysis: NDArray, truth: NDArray) -> list[NDArray]:
    """Return the shares of the ranks (6, N + 1) of the truth among the members of an analysis, if it has some."""
    perturbations = branch.members(time)
    if perturbations is None:
        return []
    shares = rank_shares(analysis + perturbations[:, _HEADLINE], truth, branch.grid)
    return [shares[:, list(scores.REGIONS).index("globe")]]
