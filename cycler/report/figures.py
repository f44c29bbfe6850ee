"""Draw the figures of a report, each from tidy tables to inline SVG. Units are those of `style.readable`."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dacycle.cycler.report import style
from dacycle.cycler.verification.cycles import withheld_fits
from dacycle.forecast_adapter.channels import CHANNELS, GROUPS, HEADLINE, LEVELS, NAMES

__all__ = [
    "counts_over_time",
    "drift_by_start",
    "drift_curves",
    "drift_side_by_side",
    "errors_by_group",
    "errors_by_level",
    "errors_over_time",
    "fits_over_time",
    "means_over_time",
    "spectra",
]

TOP = 200
"""Levels above this (hPa) are drawn apart: the demonstration's nature run has few levels there."""

Runs = Mapping[str, pd.DataFrame]


def errors_over_time(runs: Runs, kinds: Mapping[str, str] | None = None) -> Markup:
    """Draw the global RMSE of each cycle for the headline channels.

    Args:
        runs: name of a line -> its rows of `Verification.errors`, of one kind.
        kinds: name of a line -> the name in `style.COLOURS` whose colour it takes; None: its own name.
    """

    def draw(figure: Figure) -> None:
        for axes, channel in zip(style.panels(figure, len(HEADLINE), sharex=True), HEADLINE, strict=True):
            factor, unit = style.readable(channel)
            for name, errors in runs.items():
                series = style.thin(_globe(errors, channel).set_index("time")["mse"])
                style.line(axes, series.index, factor * np.sqrt(series), (kinds or {}).get(name, name), name)
            axes.set_title(f"{channel} ({unit})")
            axes.set_ylim(bottom=0)
            style.time_axis(axes)
        style.legend(figure, axes)

    return style.svg(draw, "Error over time by headline channel", height=4.4)


def errors_by_group(runs: Runs, std: NDArray) -> Markup:
    """Draw the RMSE in the world's standard deviations by channel group, levels above 200 hPa in a row of their own."""
    low = {name: [i for i in members if (CHANNELS[i].level or TOP) >= TOP] for name, members in GROUPS.items()}
    high = {name: [i for i in members if (CHANNELS[i].level or TOP) < TOP] for name, members in GROUPS.items()}
    groups = [(f"{name}, up to {TOP} hPa" if high[name] else name, members) for name, members in low.items()]
    groups += [(f"{name}, above {TOP} hPa", members) for name, members in high.items()]

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, len(groups), columns=6, between=0.36, sharex=True)
        for axes, (title, members) in zip(axes_list, groups, strict=True):
            if not members:  # the surface has no level above 200 hPa; the empty panel keeps variables aligned
                axes.remove()
                continue
            for name, errors in runs.items():
                series = style.thin(normalised(errors, members, std))
                style.line(axes, series.index, np.sqrt(series), name)
            axes.set_title(title)
            axes.set_ylim(bottom=0)
            style.time_axis(axes)
        style.legend(figure, axes_list[0])

    return style.svg(draw, "Error over time by channel group in standard deviations", height=3.7)


def errors_by_level(runs: Runs, std: NDArray) -> Markup:
    """Draw profiles of the run's RMSE in standard deviations; levels above 200 hPa are shaded."""

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, 5, columns=5, between=0.25, sharey=True)
        for axes, variable in zip(axes_list, ("z", "q", "u", "v", "t"), strict=True):
            for name, errors in runs.items():
                means = errors[errors["region"] == "globe"].groupby("channel", observed=True)["mse"].mean()
                profile = np.sqrt([means[NAMES[i]] / std[i] ** 2 for i in GROUPS[variable]])
                style.line(axes, profile, LEVELS, name, marker="o", markersize=2.2)
            axes.axhspan(40, TOP, color="#eceff2", zorder=0)
            axes.set_title(variable)
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
        axes.set_yscale("log")
        axes.set_ylim(1080, 46)
        style.plain(axes.yaxis, (1000, 700, 500, 300, 200, 100, 50))
        axes_list[0].set_yticks([1000, 700, 500, 300, 200, 100, 50], ["1000", "700", "500", "300", "200", "100", "50"])
        style.legend(figure, axes_list[0])

    return style.svg(draw, "Error by level in standard deviations", height=2.7)


def normalised(errors: pd.DataFrame, members: Sequence[int], std: NDArray) -> pd.Series:
    """Return the global mean squared error in squared standard deviations, averaged over channels, by time."""
    rows = _globe(errors, [NAMES[i] for i in members])
    variance = rows["channel"].map({NAMES[i]: float(std[i]) ** 2 for i in members}).astype(float)
    return (rows["mse"] / variance).groupby(rows["time"]).mean()


def counts_over_time(fits: pd.DataFrame) -> Markup:
    """Draw the values per cycle by use, and by reason for those that were not assimilated."""

    def draw(figure: Figure) -> None:
        left, right = style.panels(figure, 2, columns=2, between=0.6, top=0.74)
        uses = _counts(fits, "use").reindex(columns=[u for u in style.USES if u in set(fits["use"])], fill_value=0)
        _stack(left, uses, [style.USES[use] for use in uses])
        left.set_title("values per cycle, by use", pad=33)
        reasons = _counts(fits[fits["reason"] != ""], "reason")
        reasons = reasons[reasons.sum().sort_values(ascending=False).index]
        _stack(right, reasons, [style.reason_colour(str(name)) for name in reasons])
        right.set_title("values not assimilated, by reason", pad=33)

    return style.svg(draw, "Observation counts over time", height=2.8)


def _counts(fits: pd.DataFrame, column: str) -> pd.DataFrame:
    return fits.pivot_table(index="time", columns=column, values="count", aggfunc="sum", fill_value=0, observed=True)


def _stack(axes: Axes, counts: pd.DataFrame, colours: list[str]) -> None:
    if not counts.empty:
        thinned = style.thin(counts, style.COMB)
        names = [str(name).replace("_", " ") for name in thinned]
        axes.stackplot(thinned.index, thinned.T.to_numpy(), labels=names, colors=colours, linewidth=0, step="mid")
        axes.margins(x=0)
        options = {"ncols": 4, "handlelength": 1, "columnspacing": 1.2, "borderpad": 0, "borderaxespad": 0}
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.02), **options)
    axes.set_ylim(bottom=0)
    style.time_axis(axes)


def fits_over_time(fits: pd.DataFrame) -> Markup:
    """Draw the RMS of O-B and O-A at withheld sites, and in withheld regions, by observed variable, up to 200 hPa."""
    withheld = withheld_fits(fits[fits["compared"] > 0])
    kinds = sorted(set(zip(withheld["source"], withheld["variable"], strict=True)))

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, len(kinds), columns=4, sharex=True)
        for axes, (source, variable) in zip(axes_list, kinds, strict=True):
            factor, unit = style.readable_variable(variable)
            rows = withheld[(withheld["source"] == source) & (withheld["variable"] == variable)]
            sums = rows.groupby("time")[["compared", "o_b_squared", "o_a_squared"]].sum()
            for name, column in (("background", "o_b_squared"), ("analysis", "o_a_squared")):
                series = style.thin(sums[column] / sums["compared"])
                label = {"background": "O-B", "analysis": "O-A"}[name]
                style.line(axes, series.index, factor * np.sqrt(series), name, label)
            axes.set_title(f"{source}: {variable} ({unit})")
            axes.set_ylim(bottom=0)
            style.time_axis(axes)
        style.legend(figure, axes_list[0])

    return (
        style.svg(draw, "Fit to withheld sites over time", height=0.3 + 1.75 * -(-len(kinds) // 4))
        if kinds
        else Markup()
    )


def drift_curves(curves: pd.DataFrame, levels: Mapping[str, float]) -> Markup:
    """Draw RMSE, ACC and lead time lost by lead for the headline channels.

    Args:
        curves: of `tables.drift_summary`.
        levels: RMSE of the free run by channel, SI.
    """

    def draw(figure: Figure) -> None:
        columns, ratios = len(HEADLINE), [1.6, 1, 1]
        axes_list = style.panels(
            figure, 3 * columns, columns, between=0.4, gap=0.24, bottom=0.42, sharex=True, height_ratios=ratios
        )
        grid = np.array(axes_list).reshape(3, columns)
        for column, channel in zip(grid.T, HEADLINE, strict=True):
            factor, unit = style.readable(channel)
            of_channel = curves[curves["channel"] == channel]
            for kind, name in _DRIFT_NAMES.items():
                curve = of_channel[of_channel["kind"] == kind].sort_values("lead")
                days = curve["lead"] / 24
                colour = {"color": style.COLOURS[kind], "linestyle": style.LINES.get(kind, "-")}
                column[0].plot(days, factor * curve["rmse"], label=name, **colour)
                if kind in ("analysis", "reference", "persistence"):
                    column[1].plot(days, curve["acc"], **colour)
                if kind == "analysis":
                    column[2].plot(days, curve["lost"] / 24, **colour)
            if channel in levels:
                free = {"color": style.COLOURS["free run"], "linestyle": style.LINES["free run"]}
                column[0].axhline(factor * levels[channel], label="free run (level)", linewidth=1, **free)
            column[0].set_title(f"{channel} ({unit})")
            column[0].set_ylim(bottom=0)
            column[1].set_ylim(top=1.02)
            low, high = column[2].get_ylim()
            column[2].set_ylim(min(0, low), 1.05 * high)
            column[2].set_xlabel("lead (days)")
            column[2].set_xlim(left=0)
        for axes, label in zip(grid[:, 0], ("RMSE", "ACC", "lead lost (days)"), strict=True):
            axes.set_ylabel(label)
        style.legend(figure, grid[0, 0])

    return style.svg(draw, "Forecast error, anomaly correlation and lead time lost by lead", height=5.4)


_DRIFT_NAMES = {
    "analysis": "from the analyses",
    "reference": "from the reference",
    "persistence": "persistence",
    "climatology": "climatology",
}


def drift_side_by_side(pair: Mapping[str, pd.DataFrame]) -> Markup:
    """Draw the RMSE by lead of forecasts from two experiments' analyses, and from the reference (of the first)."""
    colours = dict(zip(pair, ("background", "analysis"), strict=True))

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, len(HEADLINE), len(HEADLINE), between=0.4, bottom=0.42)
        for axes, channel in zip(axes_list, HEADLINE, strict=True):
            factor, unit = style.readable(channel)
            first = next(iter(pair.values()))
            lines = [(name, curves, "analysis", colours[name]) for name, curves in pair.items()]
            for name, curves, kind, colour in [*lines, ("from the reference", first, "reference", "reference")]:
                curve = curves[(curves["channel"] == channel) & (curves["kind"] == kind)].sort_values("lead")
                style.line(axes, curve["lead"] / 24, factor * curve["rmse"], colour, name)
            axes.set_title(f"{channel} ({unit})")
            axes.set_xlabel("lead (days)")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        style.legend(figure, axes_list[0])

    return style.svg(draw, "Forecast error by lead, side by side", height=2.5)


def drift_by_start(drift: pd.DataFrame) -> Markup:
    """Draw the RMSE minus that of the reference-started forecast, by start, at a few leads."""
    headline = drift[(drift["region"] == "globe") & drift["channel"].isin(HEADLINE)]
    table = headline.pivot_table(index=["channel", "start", "lead"], columns="kind", values="mse", observed=True)
    excess = (np.sqrt(table["analysis"]) - np.sqrt(table["reference"])).dropna()
    reached = set(excess.index.get_level_values("lead"))
    wanted = [lead for lead in (0, 24, 72, 120, 240) if lead in reached] or [max(reached)]
    shades = ("#9ec3e2", "#5f9fd0", "#1f6fb2", "#174f80", "#0d2f4d")

    def draw(figure: Figure) -> None:
        for axes, channel in zip(style.panels(figure, len(HEADLINE), sharex=True), HEADLINE, strict=True):
            factor, unit = style.readable(channel)
            for lead, colour in zip(wanted, shades, strict=False):
                series = style.thin(excess[channel].xs(lead, level="lead").sort_index())
                label = "day 0 (the analysis)" if lead == 0 else f"day {lead / 24:g}"
                axes.plot(series.index, factor * series, color=colour, label=label, marker=".", markersize=3)
            axes.axhline(0, color=style.COLOURS["reference"], linewidth=1)
            axes.set_title(f"{channel} ({unit})")
            style.time_axis(axes)
        style.legend(figure, axes)

    return style.svg(draw, "Error above that of the reference-started forecast, by start", height=4.2)


def means_over_time(means: pd.DataFrame, free: pd.DataFrame | None) -> Markup:
    """Draw the global means of background, analysis, reference and free run over time."""
    runs = {kind: means[means["kind"] == kind] for kind in ("reference", "background", "analysis")}
    if free is not None:
        runs = {"free run": free[free["kind"] == "analysis"]} | runs
    quantities = list(dict.fromkeys(means["quantity"]))
    units = {"mean sea-level pressure": (0.01, "hPa"), "temperature": (1, "K")}
    units |= {"column water": (1, "kg/m²"), "kinetic energy": (1, "J/kg")}

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, len(quantities), columns=4, between=0.55, sharex=True)
        for axes, quantity in zip(axes_list, quantities, strict=True):
            factor, unit = units[quantity]
            for name, table in runs.items():
                series = style.thin(table[table["quantity"] == quantity].set_index("time")["value"])
                if len(series):
                    style.line(axes, series.index, factor * series, name)
            axes.set_title(f"{quantity} ({unit})")
            axes.ticklabel_format(axis="y", useOffset=False)
            style.time_axis(axes)
        style.legend(figure, axes_list[0])

    return style.svg(draw, "Global means over time", height=2.4)


def spectra(powers: Mapping[str, NDArray]) -> Markup:
    """Draw the zonal power (6, m) of each kind relative to that of `reference`, by wavenumber."""

    def draw(figure: Figure) -> None:
        all_axes = style.panels(figure, len(HEADLINE), columns=6, between=0.2, sharey=True)
        for i, axes in enumerate(all_axes):
            truth = powers["reference"][i, 1:]
            wavenumber = np.arange(1, truth.size + 1)
            axes.axhline(1, color=style.COLOURS["reference"], linewidth=1)
            for name in (name for name in powers if name != "reference"):
                style.line(axes, wavenumber, powers[name][i, 1:] / truth, name)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_title(HEADLINE[i])
            style.plain(axes.xaxis, [m for m in (1, 2, 5, 10, 20, 50, 100, 200, 500) if m <= truth.size])
        ratios = np.concatenate([powers[n][:, 1:] / powers["reference"][:, 1:] for n in powers]).ravel()
        low, high = min(0.8, 0.95 * ratios.min()), max(1.25, 1.05 * ratios.max())
        all_axes[0].set_ylim(low, high)
        steps = (
            (0.8, 1, 1.25, 2) if high < 3 * low else (0.2, 0.5, 1, 2, 5) if high < 30 * low else (0.01, 0.1, 1, 10, 100)
        )
        ticks = [step for step in steps if low <= step <= high]
        style.plain(all_axes[0].yaxis, ticks)
        style.legend(figure, all_axes[0])

    return style.svg(draw, "Zonal power relative to the reference", height=2.4)


def _globe(errors: pd.DataFrame, channels: str | Sequence[str]) -> pd.DataFrame:
    wanted = [channels] if isinstance(channels, str) else channels
    return errors[(errors["region"] == "globe") & errors["channel"].isin(wanted)]
