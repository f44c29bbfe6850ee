"""Write the report of an experiment: one HTML page that needs no other file.

Its numbers come from `verification`. Where something is missing, the page says so, and names the command that makes it.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from dacycle.common import clock
from dacycle.common.files import write_whole
from dacycle.cycler.archive.branches import ArchiveError, Branch
from dacycle.cycler.archive.record import CycleRecord
from dacycle.cycler.experiment import write_experiment
from dacycle.cycler.report import figures, health, maps, observation_figures, observations, style, tables
from dacycle.cycler.report.at_observations import observation_rows, observation_table
from dacycle.cycler.report.rendering import render
from dacycle.cycler.report.seams import seams_of
from dacycle.cycler.verification.attention import conditions, schedule
from dacycle.cycler.verification.cycles import (
    QUANTITIES,
    Verification,
    fingerprint,
    free_run_of,
    trends,
    verify,
    verify_free_run,
)
from dacycle.cycler.verification.drift import LEAD_STEP, member_scores, read_scores
from dacycle.cycler.verification.usage import usage
from dacycle.forecast_adapter import scores
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.worlds.world import World

__all__ = ["page", "write_report"]

_STRIP_ROW = 124  # cycles in a row of the strip of statuses, about a month


def write_report(branch: Branch, world: World, path: Path | None = None) -> Path:
    """Write the report of a branch to `path`, by default report/index.html in its folder; return the path.

    Raises:
        ArchiveError: the branch has no cycle yet, or a part of it is damaged.
    """
    path = path or branch.folder / "report" / "index.html"
    write_whole(path, page(branch, world).encode())
    return path


def page(branch: Branch, world: World, now: pd.Timestamp | None = None) -> str:
    """Return the report as HTML; raise as `write_report`. `now` (UTC) is the time of day a live run is held against."""
    records = [record for record in branch.records if record.status != "cold_start"]
    if not records:
        raise ArchiveError(f"{branch.archive.folder}: {branch.name} has no cycle yet; run `dacycle hindcast` first")
    verification = verify(branch, world)
    free, free_run = verify_free_run(branch, world), free_run_of(branch)
    drift = read_scores(branch, world)
    context = {
        "experiment": branch.experiment,
        "world": world,
        "overview": _overview(records, verification),
        "not_causal": [source.source for source in branch.experiment.observations if source.cutoff is None],
        "centred": [source.source for source in branch.experiment.observations if getattr(source, "centred", False)],
        "strip": status_strip(records),
        "incidents": [r for r in records if r.status != "ok"],
        "seams": seams_of(branch, records, world),
        "free_name": None if free_run is None else free_run.name,
        "withheld": tables.withheld_rows(verification.fits),
        "fits": figures.fits_over_time(verification.fits),
        "means": figures.means_over_time(verification.means, None if free is None else free.means),
        "yaml": write_experiment(branch.experiment.as_dict()),
        "digests": _digests(branch, records),
        "lead_step": LEAD_STEP,
    }
    context |= _health(branch, world, records, verification.fits, now)
    context |= _observations(branch, records, verification.fits)
    context |= _errors(verification, free, world)
    context |= _drift(drift, free)
    context["of_members"] = tables.member_rows(member_scores(branch), drift)
    leads, observed = observation_table([] if drift.empty else observation_rows(branch, world))
    context |= {"observed_leads": leads, "observed": observed}
    context |= _fields(branch, world, records)
    context["headline"] = _headline(verification, free, context["curves"])
    context["trends"] = _mean_trends(verification)
    return render("report.html", **context)


def _overview(records: list[CycleRecord], verification: Verification) -> dict[str, Any]:
    fits = verification.fits
    assimilated = fits[fits["use"] == "assimilated"].groupby("time")["count"].sum()
    return {
        "cycles": len(records),
        "first": records[0].id,
        "last": records[-1].id,
        "statuses": _statuses(records),
        "assimilated": float(assimilated.reindex([r.time for r in records]).fillna(0).mean()),
        "verified": int(verification.errors["time"].nunique()),
    }


def _statuses(records: list[CycleRecord]) -> dict[str, int]:
    return dict(Counter(record.status for record in records).most_common())


def _health(
    branch: Branch, world: World, records: list[CycleRecord], fits: pd.DataFrame, now: pd.Timestamp | None
) -> dict[str, Any]:
    """Return what the first screen shows: schedule, last cycle, sources, what needs attention, maps, stations."""
    last = records[-1]
    now = now or clock.now()
    plan, found = schedule(branch.experiment, last.time, now), conditions(branch.experiment, records, fits, now)
    states = [branch.headline_fields(kind, last.time).astype(float) for kind in ("background", "analysis")]
    return {
        "plan": plan,
        "last": last,
        "last_counts": health.last_counts(last, fits),
        "sources_now": health.source_rows(records, fits, found),
        "attention": health.attention(records, plan, found),
        "weather": maps.weather_maps(states[1], states[1] - states[0], world.grid),
        "stations_now": health.station_rows(branch.departures_of(last)) if last.departures is not None else [],
    }


def _headline(
    verification: Verification, free: Verification | None, curves: pd.DataFrame | None
) -> list[dict[str, Any]]:
    """Return one row per headline channel, in readable units; NaN where there is no such forecast or run."""
    if verification.errors.empty:
        return []
    slopes = trends(verification, HEADLINE)
    forecast = pd.DataFrame() if curves is None else curves.set_index(["channel", "kind", "lead"])
    rows = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        row: dict[str, Any] = {"channel": channel, "unit": unit}
        row["free"] = np.nan if free is None else factor * tables.rmse_of(free.errors, "analysis", channel)
        for kind in ("background", "analysis"):
            row[kind] = factor * tables.rmse_of(verification.errors, kind, channel)
        row["reduction"] = row["analysis"] / row["background"] - 1 if row["background"] else np.nan
        row |= _slope(slopes, channel, factor)
        for day in (1, 5):
            for kind in ("analysis", "reference"):
                row[f"{kind}_{day}"] = factor * _at(forecast, (channel, kind, 24 * day), "rmse")
            row[f"lost_{day}"] = _at(forecast, (channel, "analysis", 24 * day), "lost")
        rows.append(row)
    return rows


def _slope(slopes: pd.DataFrame, channel: str, factor: float) -> dict[str, Any]:
    """Return the trend of the background error of a channel with its interval; NaN where one cycle is verified."""
    names, wanted = ("estimate", "low", "high"), (f"{channel} error", "background")
    found = [slope for _, slope in slopes.iterrows() if (slope["of"], slope["kind"]) == wanted]
    if not found:
        return {**dict.fromkeys((*names, "effective"), np.nan), "excludes_zero": False}
    (slope,) = found
    return {**{name: factor * float(slope[name]) for name in names}, **slope[["effective", "excludes_zero"]]}


def _at(table: pd.DataFrame, key: tuple[str, str, int], column: str) -> float:
    return float(table.loc[key, column]) if key in table.index else np.nan


def _errors(verification: Verification, free: Verification | None, world: World) -> dict[str, Any]:
    """Return the figures of errors against the reference; None where no cycle can be verified."""
    if verification.errors.empty:
        return {"errors": None}
    errors = verification.errors
    runs = {kind: errors[errors["kind"] == kind] for kind in ("background", "analysis")}
    with_free = None
    if free is not None and len(free.errors):
        with_free = figures.errors_over_time({"free run": free.errors[free.errors["kind"] == "analysis"]} | runs)
    std = world.statistics.std
    return {
        "errors": figures.errors_over_time(runs, from_zero=False),
        "errors_and_free": with_free,
        "biases": figures.biases_over_time(runs),
        "groups": figures.errors_by_group(runs, std),
        "levels": figures.errors_by_level(runs, std),
        "levels_by_region": figures.errors_by_region_and_level(runs, std),
        "regions": _region_rows(errors),
        "region_names": list(scores.REGIONS),
    }


def _observations(branch: Branch, records: list[CycleRecord], fits: pd.DataFrame) -> dict[str, Any]:
    """Return the inventories of the sources, the use of their values, and the distribution of departures."""
    sums = usage(branch)
    sites = observations.sites_by_outcome(sums.sites)
    problems, more_problems = observations.problem_rows(records)
    suspects, more_suspects = observations.suspect_rows(sites)
    reasons, reason_rows = observations.reason_rows(fits)
    outcomes, outcome_rows = observations.outcome_rows(sites)
    return {
        "counts": figures.counts_over_time(fits),
        "departures": tables.departure_rows(fits),
        "consistency": observations.consistency_rows(fits, records),
        "inventories": observations.inventory_rows(records),
        "problems": problems,
        "more_problems": more_problems,
        "sources_over_time": observation_figures.sources_over_time(fits, observations.inventories(records)),
        "reasons": reasons,
        "reason_rows": reason_rows,
        "site_maps": observation_figures.site_maps(sites),
        "often": observations.OFTEN,
        "outcomes": outcomes,
        "outcome_rows": outcome_rows,
        "suspects": suspects,
        "more_suspects": more_suspects,
        "histograms": observation_figures.histograms(sums.departures),
    }


def _region_rows(errors: pd.DataFrame) -> list[dict[str, Any]]:
    rows = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        cells = [
            [factor * tables.rmse_of(errors, kind, channel, region) for kind in ("background", "analysis")]
            for region in scores.REGIONS
        ]
        means = [
            [factor * tables.bias_of(errors, kind, channel, region) for kind in ("background", "analysis")]
            for region in scores.REGIONS
        ]
        rows.append({"channel": channel, "unit": unit, "cells": cells, "means": means})
    return rows


def _drift(drift: pd.DataFrame, free: Verification | None) -> dict[str, Any]:
    if drift.empty:
        return {"drift": None, "curves": None, "by_start": None, "starts": 0}
    curves, starts = tables.drift_summary(drift)
    levels = {} if free is None else tables.free_run_level(free.errors)
    drift_errors, drift_skill = figures.drift_curves(curves, levels)
    return {
        "drift": drift_errors,
        "drift_skill": drift_skill,
        "drift_regions": tables.drift_regions(drift),
        "global_means": tables.global_mean_rows(drift),
        # In a live run, reference-started forecasts are made once the reference holds all their leads.
        "by_start": figures.drift_by_start(drift) if (drift["kind"] == "reference").any() else None,
        "curves": curves,
        "starts": starts,
    }


def _fields(branch: Branch, world: World, records: list[CycleRecord]) -> dict[str, Any]:
    sample = tables.sample_fields(branch, world, records)
    verified = bool(sample.errors)
    divergence = {}
    if verified:
        divergence = {
            kind: scores.spectral_divergence(sample.powers[kind], sample.powers["reference"])
            for kind in ("background", "analysis")
        }
    return {
        "sampled": sample.cycles,
        "increments": maps.increment_maps(sample.increment, sample.increment_rms, world.grid),
        "ranks": figures.rank_histograms(sample.ranks),
        "daily_rows": tables.daily_rows(sample, world, records),
        "error_maps": maps.error_maps(**sample.errors, grid=world.grid) if verified else None,
        "spectra": figures.spectra({k: p for k, p in sample.powers.items() if k not in tables.SPECTRA})
        if verified
        else None,
        "error_spectra": figures.spectra_of_errors(sample.powers) if verified else None,
        "divergence": [
            {"channel": name, **{kind: float(values[i]) for kind, values in divergence.items()}}
            for i, name in enumerate(HEADLINE)
            if divergence
        ],
    }


def _mean_trends(verification: Verification) -> list[dict[str, Any]]:
    slopes = trends(verification, HEADLINE)
    rows = slopes[slopes["of"].isin(list(QUANTITIES))].to_dict("records") if len(slopes) else []
    return [row | {"unit": QUANTITIES[row["of"]]} for row in rows]


def _digests(branch: Branch, records: list[CycleRecord]) -> list[tuple[str, str, str]]:
    """Return name, SHA-256 and cycles of everything that the records have a digest of."""
    rows = []
    for key in ("experiment", "model", "assimilator", "operator", "model_bias"):
        with_key = [record for record in records if key in record.digests]
        for digest in dict.fromkeys(record.digests[key] for record in with_key):
            times = [record.id for record in with_key if record.digests[key] == digest]
            rows.append((key, digest, f"{times[0]} to {times[-1]}"))
    rows.append(("records of all cycles", fingerprint(records), f"{records[0].id} to {records[-1].id}"))
    return rows


def status_strip(records: list[CycleRecord]) -> Markup:
    """Draw one small block per cycle, coloured by its status; the reason of those not `ok` is shown on hovering."""
    blocks = []
    for i, record in enumerate(records):
        x, y = 8 * (i % _STRIP_ROW), 22 * (i // _STRIP_ROW)
        block = Markup('<rect x="{}" y="{}" width="7" height="16" style="fill:var(--{})"').format(
            x, y, style.slug(record.status)
        )
        if record.status == "ok":
            blocks.append(block + Markup("/>"))
        else:
            title = f"{record.id}: {record.status}, {record.reason}"
            blocks.append(block + Markup("><title>{}</title></rect>").format(title))
    width = 8 * min(len(records), _STRIP_ROW)
    height = 22 * (-(-len(records) // _STRIP_ROW)) - 6
    said = ", ".join(f"{count} {name}" for name, count in _statuses(records).items())
    head = Markup('<svg role="img" aria-label="Status of each cycle: {}" viewBox="0 0 {} {}" style="max-width:{}px">')
    return head.format(said, width, height, 2 * width) + Markup("").join(blocks) + Markup("</svg>")
