"""Draw the figures of a report, each from tidy tables. Units are those of `style.readable`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.report import style
from dacycle.cycler.report.charts import Area, Chart, Figure, Line
from dacycle.cycler.verification.cycles import withheld_fits
from dacycle.forecast_adapter.channels import CHANNELS, GROUPS, HEADLINE, LEVELS, NAMES
from dacycle.forecast_adapter.scores import REGIONS

__all__ = [
    "biases_over_time",
    "counts_over_time",
    "drift_by_start",
    "drift_curves",
    "drift_side_by_side",
    "errors_by_group",
    "errors_by_level",
    "errors_by_region_and_level",
    "errors_over_time",
    "fits_over_time",
    "means_over_time",
    "rank_histograms",
    "spectra",
    "spectra_of_errors",
]

TOP = 200
"""Levels above this (hPa) are drawn apart: the demonstration's nature run has few levels there."""

_SMALL = (250, 140)

Runs = Mapping[str, pd.DataFrame]


def errors_over_time(runs: Runs, kinds: Mapping[str, str] | None = None, from_zero: bool = True) -> Figure:
    """Draw the global RMSE of each cycle for the headline channels.

    Args:
        runs: name of a line -> its rows of `Verification.errors`, of one kind.
        kinds: name of a line -> the name in `style.COLOURS` whose colour it takes; None: its own name.
        from_zero: the axes begin at zero; otherwise lines that lie close together are kept apart.
    """
    charts = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        lines = []
        for name, errors in runs.items():
            series = style.thin(_globe(errors, channel).set_index("time")["mse"])
            lines.append(Line(name, series.index, factor * np.sqrt(series), (kinds or {}).get(name, name)))
        charts.append(Chart(f"{channel} ({unit})", lines, from_zero=from_zero))
    label = f"Error over time by headline channel, {', '.join(runs)}"
    return Figure(label, charts, x_name="time")


def biases_over_time(runs: Runs) -> Figure:
    """Draw the global mean error of each cycle for the headline channels; arguments as `errors_over_time`."""
    charts = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        lines = []
        for name, errors in runs.items():
            series = style.thin(_globe(errors, channel).set_index("time")["bias"].astype(float))
            lines.append(Line(name, series.index, factor * series, name))
        charts.append(Chart(f"{channel} ({unit})", lines, level=(0.0, "reference")))
    return Figure("Mean error over time by headline channel", charts, x_name="time")


def errors_by_group(runs: Runs, std: NDArray) -> Figure:
    """Draw the RMSE in standard deviations of the world by channel group; levels above 200 hPa stand apart."""
    low = {name: [i for i in members if (CHANNELS[i].level or TOP) >= TOP] for name, members in GROUPS.items()}
    high = {name: [i for i in members if (CHANNELS[i].level or TOP) < TOP] for name, members in GROUPS.items()}
    groups = [(f"{name}, up to {TOP} hPa" if high[name] else name, members) for name, members in low.items()]
    groups += [(f"{name}, above {TOP} hPa", members) for name, members in high.items() if members]
    charts = []
    for title, members in groups:
        series = {name: style.thin(normalised(errors, members, std)) for name, errors in runs.items()}
        lines = [Line(name, of_run.index, np.sqrt(of_run), name) for name, of_run in series.items()]
        charts.append(Chart(title, lines, size_=_SMALL))
    return Figure("Error over time by channel group in standard deviations", charts, columns=4, x_name="time")


def errors_by_level(runs: Runs, std: NDArray) -> Figure:
    """Draw profiles of the run's RMSE in standard deviations; levels above 200 hPa are shaded."""
    return Figure("Error by level in standard deviations", _profiles(runs, std, "globe"), columns=5, x_name="error")


def errors_by_region_and_level(runs: Runs, std: NDArray) -> Figure:
    """Draw the same profiles in each region."""
    regions = [region for region in REGIONS if region != "globe"]
    charts = [chart for region in regions for chart in _profiles(runs, std, region)]
    return Figure("Error by region and level in standard deviations", charts, columns=5, x_name="error")


def _profiles(runs: Runs, std: NDArray, region: str) -> list[Chart]:
    charts = []
    for variable in ("z", "q", "u", "v", "t"):
        lines = []
        for name, errors in runs.items():
            means = errors[errors["region"] == region].groupby("channel", observed=True)["mse"].mean()
            profile = np.sqrt([means[NAMES[i]] / std[i] ** 2 for i in GROUPS[variable]])
            lines.append(Line(name, profile, LEVELS, name, dots=True))
        charts.append(
            Chart(
                variable if region == "globe" else f"{variable}, {region}",
                lines,
                size_=(205, 210),
                log_y=True,
                y_range=(1080, 46),
                y_ticks=(1000, 700, 500, 300, 200, 100, 50),
                shaded=(40, TOP),
            )
        )
    return charts


def normalised(errors: pd.DataFrame, members: Sequence[int], std: NDArray) -> pd.Series:
    """Return the global mean squared error in squared standard deviations, averaged over channels, by time."""
    rows = _globe(errors, [NAMES[i] for i in members])
    variance = rows["channel"].map({NAMES[i]: float(std[i]) ** 2 for i in members}).astype(float)
    return (rows["mse"] / variance).groupby(rows["time"]).mean()


def counts_over_time(fits: pd.DataFrame) -> tuple[Figure, Figure]:
    """Draw the values per cycle by use, and by reason for those that were not assimilated."""
    uses = _counts(fits, "use").reindex(columns=[u for u in style.USES if u in set(fits["use"])], fill_value=0)
    reasons = _counts(fits[fits["reason"] != ""], "reason")
    reasons = reasons[reasons.sum().sort_values(ascending=False).index]
    return (
        _stack("Values per cycle by use", uses, list(uses)),
        _stack("Values not assimilated by reason", reasons, [style.reason_colour(str(name)) for name in reasons]),
    )


def _counts(fits: pd.DataFrame, column: str) -> pd.DataFrame:
    return fits.pivot_table(index="time", columns=column, values="count", aggfunc="sum", fill_value=0, observed=True)


def _stack(title: str, counts: pd.DataFrame, colours: Sequence[str]) -> Figure:
    thinned = style.thin(counts, style.COMB)
    upper = thinned.cumsum(axis=1)
    areas = []
    for name, colour in zip(thinned, colours, strict=True):
        x, low, high = _stepped(thinned.index, (upper[name] - thinned[name]).to_numpy(), upper[name].to_numpy())
        areas.append(Area(str(name).replace("_", " "), x, np.repeat(thinned[name].to_numpy(), 2), low, high, colour))
    chart = Chart(title.lower(), areas=areas, size_=(500, 210), from_zero=True)
    return Figure(title, [chart], columns=1, x_name="time")


def _stepped(times: pd.Index, *rows: NDArray) -> tuple[pd.DatetimeIndex, NDArray, NDArray]:
    """Return the edges of a step around each time, and the rows repeated for them."""
    index = pd.DatetimeIndex(times)
    half = (index[1:] - index[:-1]).median() / 2 if len(index) > 1 else pd.Timedelta(hours=3)
    edges = (index - half).append(index + half).sort_values()
    low, high = (np.repeat(row, 2) for row in rows)
    return edges, low, high


def fits_over_time(fits: pd.DataFrame) -> Figure | None:
    """Draw the RMS of O-B and O-A at withheld sites, and in withheld regions, by observed variable, up to 200 hPa."""
    withheld = withheld_fits(fits[fits["compared"] > 0])
    charts = []
    for source, variable in sorted(set(zip(withheld["source"], withheld["variable"], strict=True))):
        factor, unit = style.readable_variable(variable)
        rows = withheld[(withheld["source"] == source) & (withheld["variable"] == variable)]
        sums = rows.groupby("time")[["compared", "o_b_squared", "o_a_squared"]].sum()
        lines = []
        for label, colour, column in (("O-B", "background", "o_b_squared"), ("O-A", "analysis", "o_a_squared")):
            series = style.thin(sums[column] / sums["compared"])
            lines.append(Line(label, series.index, factor * np.sqrt(series), colour))
        charts.append(Chart(f"{source}: {variable} ({unit})", lines, size_=_SMALL, from_zero=True))
    return Figure("Fit to withheld sites over time", charts, columns=4, x_name="time") if charts else None


def drift_curves(curves: pd.DataFrame, levels: Mapping[str, float]) -> tuple[Figure, Figure]:
    """Draw the RMSE by lead for the headline channels; and ACC and lead time lost.

    Args:
        curves: of `tables.drift_summary`.
        levels: RMSE of the free run by channel, SI.
    """
    errors, correlations, lost = [], [], []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        lines = {}
        for kind, name in _DRIFT_NAMES.items():
            curve = curves[(curves["channel"] == channel) & (curves["kind"] == kind)].sort_values("lead")
            lines[kind] = (name, curve["lead"] / 24, curve, kind)
        shown = [Line(n, days, factor * curve["rmse"], kind) for n, days, curve, kind in lines.values() if len(curve)]
        if channel in levels and shown:
            level = np.full(len(shown[0].x), factor * levels[channel])
            shown.append(Line("free run (level)", shown[0].x, level, "free run"))
        errors.append(Chart(f"{channel} ({unit})", shown, size_=(340, 175), x_label="lead (days)", from_zero=True))
        with_acc = [lines[kind] for kind in ("analysis", "reference", "persistence")]
        shown = [Line(n, days, curve["acc"], kind) for n, days, curve, kind in with_acc if len(curve)]
        correlations.append(Chart(f"{channel}: ACC", shown, size_=_SMALL, x_label="lead (days)"))
        name, days, curve, kind = lines["analysis"]
        shown = [Line(name, days, curve["lost"] / 24, kind)]
        lost.append(Chart(f"{channel}: lost (days)", shown, size_=_SMALL, x_label="lead (days)", from_zero=True))
    return (
        Figure("Forecast error by lead", errors, x_name="lead_days"),
        Figure("Anomaly correlation and lead time lost by lead", [*correlations, *lost], columns=6, x_name="lead_days"),
    )


_DRIFT_NAMES = {
    "analysis": "from the analyses",
    "reference": "from the reference",
    "persistence": "persistence",
    "climatology": "climatology",
}


def drift_side_by_side(runs: Mapping[str, pd.DataFrame], colours: Mapping[str, str]) -> Figure:
    """Draw the RMSE by lead of forecasts from the analyses of several runs, and from the reference (of the first).

    Args:
        runs: name -> its curves of `tables.drift_summary`.
        colours: name -> the name of its colour in `style.PALETTE`.
    """
    charts = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        first = next(iter(runs.values()))
        drawn = [(name, curves, "analysis", colours[name]) for name, curves in runs.items()]
        lines = []
        for name, curves, kind, colour in [*drawn, ("from the reference", first, "reference", "quiet")]:
            curve = curves[(curves["channel"] == channel) & (curves["kind"] == kind)].sort_values("lead")
            lines.append(Line(name, curve["lead"] / 24, factor * curve["rmse"], colour))
        charts.append(Chart(f"{channel} ({unit})", lines, x_label="lead (days)", from_zero=True))
    return Figure("Forecast error by lead, side by side", charts, x_name="lead_days")


def drift_by_start(drift: pd.DataFrame) -> Figure:
    """Draw the RMSE minus that of the reference-started forecast, by start, at a few leads."""
    headline = drift[(drift["region"] == "globe") & drift["channel"].isin(HEADLINE)]
    table = headline.pivot_table(index=["channel", "start", "lead"], columns="kind", values="mse", observed=True)
    excess = (np.sqrt(table["analysis"]) - np.sqrt(table["reference"])).dropna()
    reached = set(excess.index.get_level_values("lead"))
    wanted = [lead for lead in (0, 24, 72, 120, 240) if lead in reached] or [max(reached)]
    charts = []
    for channel in HEADLINE:
        factor, unit = style.readable(channel)
        lines = []
        for number, lead in enumerate(wanted, start=1):
            series = style.thin(excess[channel].xs(lead, level="lead").sort_index())
            label = "day 0 (the analysis)" if lead == 0 else f"day {lead / 24:g}"
            lines.append(Line(label, series.index, factor * series, f"shade {number}", dots=True))
        charts.append(Chart(f"{channel} ({unit})", lines, level=(0.0, "reference")))
    return Figure("Error above that of the reference-started forecast, by start", charts, x_name="start")


def means_over_time(means: pd.DataFrame, free: pd.DataFrame | None) -> Figure:
    """Draw the global means of background, analysis, reference and free run over time."""
    runs = {kind: means[means["kind"] == kind] for kind in ("reference", "background", "analysis")}
    if free is not None:
        runs = {"free run": free[free["kind"] == "analysis"]} | runs
    units = {"mean sea-level pressure": (0.01, "hPa"), "temperature": (1, "K")}
    units |= {"column water": (1, "kg/m²"), "kinetic energy": (1, "J/kg")}
    charts = []
    for quantity in dict.fromkeys(means["quantity"]):
        factor, unit = units[quantity]
        lines = []
        for name, table in runs.items():
            series = style.thin(table[table["quantity"] == quantity].set_index("time")["value"])
            if len(series):
                lines.append(Line(name, series.index, factor * series, name))
        charts.append(Chart(f"{quantity} ({unit})", lines, size_=(260, 160)))
    return Figure("Global means over time", charts, columns=4, x_name="time")


def spectra(powers: Mapping[str, NDArray]) -> Figure:
    """Draw the zonal power (6, m) of backgrounds and analyses relative to that of `reference`, by wavenumber."""
    powers = {name: powers[name] for name in ("background", "analysis", "reference")}
    ratios = np.concatenate([powers[n][:, 1:] / powers["reference"][:, 1:] for n in powers]).ravel()
    low, high = min(0.8, 0.95 * ratios.min()), max(1.25, 1.05 * ratios.max())
    steps = (0.8, 1, 1.25, 2) if high < 3 * low else (0.2, 0.5, 1, 2, 5) if high < 30 * low else (0.01, 0.1, 1, 10, 100)
    charts = []
    for i, channel in enumerate(HEADLINE):
        truth = powers["reference"][i, 1:]
        wavenumber = np.arange(1, truth.size + 1)
        names = [name for name in powers if name != "reference"]
        charts.append(
            Chart(
                channel,
                [Line(name, wavenumber, powers[name][i, 1:] / truth, name) for name in names],
                size_=(205, 160),
                x_label="wavenumber",
                log_x=True,
                log_y=True,
                y_range=(low, high),
                x_ticks=[m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500) if m <= truth.size],
                y_ticks=[step for step in steps if low <= step <= high],
                level=(1.0, "reference"),
            )
        )
    return Figure("Zonal power relative to the reference", charts, columns=6, x_name="wavenumber")


def spectra_of_errors(powers: Mapping[str, NDArray]) -> Figure:
    """Draw the zonal power (6, m) of increments and errors over the reference's, and of one error over the other."""
    colours = {"increment": "free run", "background error": "background", "analysis error": "analysis"}
    sizes, shares = [], []
    for i, channel in enumerate(HEADLINE):
        of = {name: powers[name][i, 1:] for name in (*colours, "reference")}
        wavenumber = np.arange(1, of["reference"].size + 1)
        axis: dict[str, Any] = {
            "size_": (205, 170),
            "x_label": "wavenumber",
            "log_x": True,
            "x_ticks": [m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500) if m <= wavenumber.size],
        }
        ratios = {name: of[name] / of["reference"] for name in colours}
        lines = [Line(name, wavenumber, ratios[name], colour) for name, colour in colours.items()]
        ends = (
            max(0.7 * min(x.min() for x in ratios.values()), 1e-6),
            1.4 * max(1.0, *(x.max() for x in ratios.values())),
        )
        marks = [10.0**k for k in range(-6, 4)]
        sizes.append(Chart(channel, lines, log_y=True, y_range=ends, y_ticks=marks, level=(1.0, "reference"), **axis))
        share = of["analysis error"] / np.maximum(of["background error"], 1e-30)
        line = Line("analysis error over background error", wavenumber, share, "shade 3")
        shares.append(Chart(f"{channel}: analysis over backgr.", [line], level=(1.0, "background"), **axis))
    return Figure("Zonal power of increments and errors", [*sizes, *shares], columns=6, x_name="wavenumber")


def rank_histograms(ranks: NDArray) -> Figure | None:
    """Draw how often the reference has each rank among N members, from shares (6, N + 1), over the right frequency."""
    count = ranks.shape[1]
    if not count:
        return None
    edges = np.arange(count + 1)
    charts = [
        Chart(
            channel,
            [Line("reference", edges, count * shares, "analysis", steps=True)],
            size_=(205, 130),
            x_label="members below",
            from_zero=True,
            level=(1.0, "reference"),
        )
        for channel, shares in zip(HEADLINE, ranks, strict=True)
    ]
    return Figure("Rank of the reference among the members of the analyses", charts, columns=6, x_name="rank")


def _globe(errors: pd.DataFrame, channels: str | Sequence[str]) -> pd.DataFrame:
    wanted = [channels] if isinstance(channels, str) else channels
    return errors[(errors["region"] == "globe") & errors["channel"].isin(wanted)]
