"""Draw the figures of a report's observations, each from tidy tables to inline SVG."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dacycle.cycler.report import maps, style
from dacycle.cycler.report.observations import by_variable
from dacycle.cycler.verification.usage import BINS, KINDS

__all__ = ["histograms", "site_maps", "sources_over_time"]

_DESIGNED = ("assimilated", "withheld_site", "withheld_region")
_DEPARTURES = (("o_b", "background", "O-B"), ("o_a", "analysis", "O-A"))


def site_maps(sites: pd.DataFrame) -> Markup:
    """Draw a map per kind of observation.

    Used and withheld sites are small dots. A site that was often not used has the colour of the reason, and a dot that
    grows with the share of such cycles.

    Args:
        sites: of `observations.sites_by_outcome`.
    """
    kinds = [kind for kind in KINDS if (sites["kind"] == kind).any()]
    rows = -(-len(kinds) // 3)

    def draw(figure: Figure) -> None:
        height = figure.get_size_inches()[1]
        margins = {"left": 0, "right": 1, "top": 1 - 0.5 / height, "bottom": 0, "wspace": 0.03, "hspace": 0.12}
        axes_list = list(figure.subplots(rows, 3, squeeze=False, gridspec_kw=margins).ravel())
        for axes in axes_list[len(kinds) :]:
            axes.remove()
        shown: dict[str, Any] = {}
        for axes, kind in zip(axes_list, kinds, strict=False):
            maps.outline(axes, "#a5acb4")
            shown |= _dots(axes, sites[sites["kind"] == kind])
            axes.set_title(kind)
        names = [name.replace("_", " ") for name in shown]
        figure.legend(
            shown.values(), names, loc="upper left", bbox_to_anchor=(0, 1), ncols=9, handletextpad=0.1,
            columnspacing=1.2, markerscale=1.6, borderpad=0.1,
        )  # fmt: skip

    return style.svg(draw, "Maps of the sites used, withheld and not used", 0.5 + 1.85 * rows) if kinds else Markup()


def _dots(axes: Axes, sites: pd.DataFrame) -> dict[str, Any]:
    """Draw the sites of one kind, rasterised to keep the page small; return the legend's handle of each outcome."""
    handles = {}
    counts = sites["outcome"].value_counts()
    order = sorted(counts.index, key=lambda name: (name not in _DESIGNED, -counts[name]))
    for name in order:
        dots = sites[sites["outcome"] == name]
        x, y = maps.equal_earth((dots["longitude"].to_numpy() + 180) % 360 - 180, dots["latitude"].to_numpy())
        size = 1.8 if name == "assimilated" else 3.5 if name in _DESIGNED else 2 + 10 * dots["unused"].to_numpy()
        colour = style.USES["assimilated"] if name == "assimilated" else style.reason_colour(name)
        axes.scatter(x, y, s=size, color=colour, linewidths=0, rasterized=True)
        handles[name] = axes.scatter([], [], s=9, color=colour, linewidths=0)
    return handles


def histograms(departures: pd.DataFrame) -> Markup:
    """Draw O-B and O-A of assimilated values in stated errors, by source and variable, with the normal distribution."""
    groups = by_variable(departures)
    middles, width = (BINS[1:] + BINS[:-1]) / 2, BINS[1] - BINS[0]
    normal = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, len(groups), columns=5, between=0.36, sharex=True)
        for axes, ((source, variable), counts) in zip(axes_list, groups, strict=True):
            for of, name, label in _DEPARTURES:
                density = _density(counts[counts["of"] == of], width)
                colour = style.COLOURS[name]
                axes.stairs(density, BINS, color=colour, label=label, linewidth=1.2, fill=False)
            axes.plot(middles, normal, color="#59616b", linestyle=(0, (3, 1.5)), linewidth=1, label="stated error")
            axes.set_title(f"{source}: {variable}")
            axes.set_xlim(BINS[0], BINS[-1])
            axes.set_xticks([-4, -2, 0, 2, 4])
            axes.set_ylim(bottom=0)
            axes.tick_params(axis="y", length=0, labelleft=False)
        style.legend(figure, axes_list[0])

    label = "Histograms of O-B and O-A in units of the stated error"
    return style.svg(draw, label, height=0.5 + 1.45 * -(-len(groups) // 5)) if groups else Markup()


def _density(counts: pd.DataFrame, width: float) -> NDArray:
    density = np.zeros(len(BINS) - 1)
    density[counts["bin"]] = counts["count"]
    return density / (density.sum() * width)


def sources_over_time(fits: pd.DataFrame, inventories: pd.DataFrame) -> Markup:
    """Draw a row per source: reports, values by use, RMS of O-B and O-A in stated errors, latency, by cycle."""
    sources = sorted(set(fits["source"]) | set(inventories["source"]))
    times = pd.DatetimeIndex(inventories["time"].unique())
    titles = ("reports", "values by use", "RMS departure / error", "latency (minutes)")

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, 4 * len(sources), columns=4, between=0.42, gap=0.42, top=0.62, sharex=True)
        for source, row in zip(sources, np.array(axes_list).reshape(-1, 4), strict=True):
            sums = fits[fits["source"] == source]
            reports = inventories[inventories["source"] == source].set_index("time")
            _reports(row[0], reports)
            _uses(row[1], sums, times)
            _fits(row[2], sums[sums["use"] == "assimilated"])
            row[3].plot(*_series(reports["latency"].dropna()), color=style.COLOURS["background"])
            for axes, title in zip(row, titles, strict=True):
                axes.set_title(f"{source}: {title}")
                axes.set_ylim(bottom=0)
                style.time_axis(axes)
        _legends(figure, np.array(axes_list).reshape(-1, 4)[:, :3])

    return style.svg(draw, "Each source over time", height=0.5 + 1.5 * len(sources)) if sources else Markup()


def _series(series: pd.Series) -> tuple[Any, Any]:
    thinned = style.thin(series, style.COMB)
    return thinned.index, thinned.to_numpy()


def _reports(axes: Axes, reports: pd.DataFrame) -> None:
    for name, colour in (("found", "#8b9098"), ("decoded", style.USES["assimilated"]), ("missing", style.USES["late"])):
        axes.plot(*_series(reports[name]), color=colour, label=name)


def _uses(axes: Axes, fits: pd.DataFrame, times: pd.DatetimeIndex) -> None:
    counts = fits.pivot_table(index="time", columns="use", values="count", aggfunc="sum", fill_value=0)
    counts = counts.reindex(times, fill_value=0)
    for name, colour in style.USES.items():
        if name in counts:
            axes.plot(*_series(counts[name]), color=colour, label=name)


def _fits(axes: Axes, fits: pd.DataFrame) -> None:
    sums = fits.groupby("time")[["compared", "o_b_in_errors_squared", "o_a_in_errors_squared"]].sum()
    sums = sums[sums["compared"] > 0]
    if sums.empty:
        axes.text(0.5, 0.5, "no observation operator", transform=axes.transAxes, ha="center", color="#59616b")
        return
    for of, name, label in _DEPARTURES:
        time, mean = _series(sums[f"{of}_in_errors_squared"] / sums["compared"])
        style.line(axes, time, np.sqrt(mean.astype(float)), name, label)


def _legends(figure: Figure, rows: NDArray) -> None:
    """Draw one legend above each column, with every line that is drawn in it."""
    options: Mapping[str, Any] = {"handlelength": 1.2, "columnspacing": 0.9, "labelspacing": 0.2, "borderpad": 0}
    for column in rows.T:
        drawn = [axes.get_legend_handles_labels() for axes in column]
        lines = {label: handle for pair in drawn for handle, label in zip(*pair, strict=True)}
        anchor = (column[0].get_position().x0, 1.0)
        ncols = 2 if len(lines) == 4 else 3
        figure.legend(
            list(lines.values()), list(lines), loc="upper left", bbox_to_anchor=anchor, ncols=ncols, **options
        )
