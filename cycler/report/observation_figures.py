"""Draw the figures of a report's observations, each from tidy tables."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.cycler.report import maps, style
from dacycle.cycler.report.charts import Chart, Figure, Line
from dacycle.cycler.report.observations import by_variable
from dacycle.cycler.verification.usage import BINS, KINDS

__all__ = ["departure_maps", "histograms", "site_maps", "sources_over_time"]

_DESIGNED = ("assimilated", "withheld_site", "withheld_region")
_DEPARTURES = (("o_b", "background", "O-B"), ("o_a", "analysis", "O-A"))
_SMALL = (250, 130)


def site_maps(sites: pd.DataFrame) -> Figure | None:
    """Draw a map per kind of observation.

    Used and withheld sites are small dots. A site that was often not used has the colour of the reason, and a dot that
    grows with the share of such cycles.

    Args:
        sites: of `observations.sites_by_outcome`.
    """
    drawn = [
        maps.site_map(kind, _dots(sites[sites["kind"] == kind])) for kind in KINDS if (sites["kind"] == kind).any()
    ]
    return Figure("Maps of the sites used, withheld and not used", drawn, columns=3) if drawn else None


def _dots(sites: pd.DataFrame) -> pd.DataFrame:
    """Return the sites of one kind with name, colour and size of their dots, the most usual outcomes first."""
    counts = sites["outcome"].value_counts()
    order = sorted(counts.index, key=lambda name: (name not in _DESIGNED, -counts[name]))
    rank = sites["outcome"].map({name: i for i, name in enumerate(order)})
    sizes = np.select(
        [sites["outcome"] == "assimilated", sites["outcome"].isin(_DESIGNED), sites["unused"] < 0.5],
        [1.8, 2.4, 3.2],
        4.2,
    )
    dots = sites.assign(
        name=sites["outcome"].str.replace("_", " "),
        colour=[style.reason_colour(name) for name in sites["outcome"]],
        size=sizes,
    )
    return dots.iloc[np.argsort(rank.to_numpy(), kind="stable")]


def departure_maps(departures: pd.DataFrame) -> Figure | None:
    """Draw a map of O-B for each source and variable of a cycle: one dot a site, its largest O-B, in stated errors.

    Args:
        departures: of one cycle, without values that the experiment never uses.
    """
    known = departures[np.isfinite(departures["o_b"].to_numpy(float))]
    ratio = known["o_b"].astype(float) / known["error"].astype(float)
    known = known.assign(ratio=ratio).iloc[np.argsort(-np.abs(ratio.to_numpy()), kind="stable")]
    drawn = []
    for (source, variable), rows in by_variable(known):
        sites = rows.drop_duplicates("site").iloc[::-1]
        bins = np.digitize(sites["ratio"], _O_B_EDGES)
        names, colours = np.array(list(_O_B_COLOURS.values())), np.array(list(_O_B_COLOURS))
        dots = sites.assign(name=names[bins], colour=colours[bins], size=np.where(bins == 2, 1.8, 2.6))
        drawn.append(maps.site_map(f"{source}: {variable}", dots.iloc[np.argsort(np.abs(bins - 2), kind="stable")]))
        drawn[-1].names = [(name, colour) for colour, name in _O_B_COLOURS.items()]
    return Figure("Maps of O-B in stated errors", drawn, columns=4) if drawn else None


_O_B_EDGES = (-3.0, -1.0, 1.0, 3.0)
_O_B_COLOURS = {
    "far below": "below −3",
    "below": "−3 to −1",
    "close": "−1 to 1",
    "above": "1 to 3",
    "far above": "above 3",
}
"""Colour of an O-B in stated errors, and its text in the legend."""


def histograms(departures: pd.DataFrame) -> Figure | None:
    """Draw O-B and O-A of assimilated values in stated errors, by source and variable, with the normal distribution."""
    middles, width = (BINS[1:] + BINS[:-1]) / 2, BINS[1] - BINS[0]
    normal = np.exp(-(middles**2) / 2) / np.sqrt(2 * np.pi)
    charts = []
    for (source, variable), counts in by_variable(departures):
        lines = [
            Line(label, BINS, _density(counts[counts["of"] == of], width), name, steps=True)
            for of, name, label in _DEPARTURES
        ]
        lines.append(Line("stated error", middles, normal, "quiet"))
        charts.append(
            Chart(
                f"{source}: {variable}",
                lines,
                size_=(205, 120),
                from_zero=True,
                bare=True,
                x_range=(float(BINS[0]), float(BINS[-1])),
                x_ticks=(-4, -2, 0, 2, 4),
            )
        )
    label = "Histograms of O-B and O-A in units of the stated error"
    return Figure(label, charts, columns=5, x_name="departure_in_errors") if charts else None


def _density(counts: pd.DataFrame, width: float) -> NDArray:
    density = np.zeros(len(BINS) - 1)
    density[counts["bin"]] = counts["count"]
    return density / ((density.sum() * width) or 1.0)


def sources_over_time(fits: pd.DataFrame, inventories: pd.DataFrame) -> list[tuple[str, Figure]]:
    """Draw for each source: reports, values by use, RMS of O-B and O-A in stated errors, latency, by cycle."""
    times = pd.DatetimeIndex(inventories["time"].unique())
    figures = []
    for source in sorted(set(fits["source"]) | set(inventories["source"])):
        sums = fits[fits["source"] == source]
        reports = inventories[inventories["source"] == source].set_index("time")
        charts = [
            Chart("reports", _reports(reports), size_=_SMALL, from_zero=True),
            Chart("values by use", _uses(sums, times), size_=_SMALL, from_zero=True),
            _fits(sums[sums["use"] == "assimilated"]),
            Chart("latency (minutes)", _latency(reports), size_=_SMALL, from_zero=True),
        ]
        figures.append((source, Figure(f"Source {source} over time", charts, columns=4, x_name="time")))
    return figures


def _line(name: str, series: pd.Series, colour: str) -> Line:
    thinned = style.thin(series, style.COMB)
    return Line(name, thinned.index, thinned.to_numpy(float), colour)


def _reports(reports: pd.DataFrame) -> list[Line]:
    colours = {"found": "free run", "decoded": "assimilated", "missing": "late"}
    return [_line(name, reports[name], colour) for name, colour in colours.items()]


def _latency(reports: pd.DataFrame) -> list[Line]:
    latency = reports["latency"].dropna()
    return [_line("latency", latency, "background")] if len(latency) else []


def _uses(fits: pd.DataFrame, times: pd.DatetimeIndex) -> list[Line]:
    counts = fits.pivot_table(index="time", columns="use", values="count", aggfunc="sum", fill_value=0)
    counts = counts.reindex(times, fill_value=0)
    return [_line(name, counts[name], name) for name in style.USES if name in counts]


def _fits(fits: pd.DataFrame) -> Chart:
    title = "RMS departure / error"
    sums = fits.groupby("time")[["compared", "o_b_in_errors_squared", "o_a_in_errors_squared"]].sum()
    sums = sums[sums["compared"] > 0]
    if sums.empty:
        return Chart(title, size_=_SMALL, note="no observation operator", bare=True)
    lines = []
    for of, name, label in _DEPARTURES:
        series = style.thin((sums[f"{of}_in_errors_squared"] / sums["compared"]).astype(float), style.COMB)
        lines.append(Line(label, series.index, np.sqrt(series), name))
    return Chart(title, lines, size_=_SMALL, from_zero=True)
