"""What a benchmark found, for readers: Markdown, CSV and pictures in one folder."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dacycle.assimilators.judging.benchmark import OVERALL
from dacycle.common.files import write_whole
from dacycle.cycler.benchmark.run import Benchmark
from dacycle.cycler.report import style
from dacycle.cycler.report.tables import number
from dacycle.forecast_adapter.channels import HEADLINE
from dacycle.forecast_adapter.scores import mean_interval

__all__ = ["write_report"]

COLOURS = ("#1f6fb2", "#d9772b", "#2b8a6b", "#a9719f", "#9a8c4a", "#4c4f57", "#b8473f", "#5c8f97")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
"""One colour a method, in the order of the benchmark's file; dashed where there are more methods than colours."""
TABLED = (0, 24, 72, 120, 168, 240)
"""Leads, hours, of the table of forecasts; drift.csv has all."""
OVERALLS = {
    "mse": "MSE",
    "mae": "MAE",
    "weighted_mse": "weighted MSE",
    "weighted_mae": "weighted MAE",
    "specdiv": "SpecDiv",
    "zonal_divergence": "zonal divergence",
    "crps": "CRPS",
}


def write_report(
    benchmark: Benchmark,
    single: pd.DataFrame,
    cycled: pd.DataFrame,
    drifts: pd.DataFrame,
    made_by: Sequence[str],
    folder: Path,
) -> Path:
    """Write README.md, single.csv, gains.csv, cycled.csv, drift.csv and the pictures; returns the page.

    Args:
        single: of `benchmark.run_single_analyses`.
        cycled, drifts: of `benchmark.cycled_results`; empty where nothing was cycled.
        made_by: lines that say by what command, and on what machine.
    """
    folder.mkdir(parents=True, exist_ok=True)
    means = summary(single)
    first = summary(single[single["seed"] == benchmark.seeds[0]])  # the one that all settings have
    _csv(means, folder / "single.csv")
    parts = [
        "# Benchmark",
        *made_by,
        f"World `{benchmark.world}`, model `{benchmark.model}`, backgrounds of {_and(benchmark.leads)} h of the year "
        f"{benchmark.year}, {benchmark.starts} of each lead. The protocol is DAMBench's (arXiv 2511.01468): of every "
        f"channel {100 * benchmark.settings[0].density:g} % of the points, with noise of "
        f"{benchmark.settings[0].noise:g} standard deviations, precipitation at stations, and OLR. Seeds: "
        f"{_and(benchmark.seeds)} for the protocol, {benchmark.seeds[0]} for everything else. Behind ± stands the "
        "standard deviation over seeds.",
        "## Single analyses",
        "Over all channels in the world's standard deviations. MSE and MAE are the published, unweighted ones, SpecDiv "
        "is the last tenth of a radial spectrum (published), zonal divergence is of the whole zonal spectrum; both are "
        "means over the headline channels. Spread is over error, both as root mean squares; ms is the fastest "
        "analysis, MB what a process that makes one needs beyond one that makes none.",
        *(part for lead in benchmark.leads for part in (f"### {lead} h", _protocol(benchmark, means, lead))),
        "### Root mean squared errors",
        *(part for lead in benchmark.leads for part in (f"{lead} h:", _headline(benchmark, means, lead))),
        "## What is observed",
        "MSE of the analysis over that of the background (weighted), all leads together, of the first seed. Above 1 "
        "the analysis is worse than its background.",
        _settings(benchmark, first),
        "![by density](density.svg)",
    ]
    gained = gains(benchmark, single)
    if len(gained):
        _csv(gained, folder / "gains.csv")
        parts += [
            "### What the denied types bring",
            "Change of the weighted MSE by observing them: negative where the analysis gets better. With 95 % "
            f"intervals, paired over the {benchmark.starts} starts. An adapter from which both are denied is its base "
            "without them; the paper reports -7.79 % of the MSE for its adapter on VAE-Var.",
            _gains(benchmark, gained),
        ]
    write_whole(folder / "density.svg", _density(benchmark, first).encode())
    if len(cycled):
        _csv(cycled, folder / "cycled.csv")
        _csv(drifts, folder / "drift.csv")
        write_whole(folder / "drift.svg", _drift(benchmark, drifts).encode())
        parts += [
            "## Cycled",
            f"{int(cycled['cycles'].iloc[0])} cycles of `{benchmark.cycled.experiment if benchmark.cycled else ''}`, "
            "the first four days left out. RMSE of the analyses, and below it the trend a day with its 95 % interval; "
            f"then the errors over those of `{benchmark.methods[0]}`, in the mean of the channels.",
            _cycled(benchmark, cycled),
            "Forecasts from the analyses, and their errors by lead:",
            _by_lead(benchmark, drifts),
            "![drift](drift.svg)",
        ]
    page = folder / "README.md"
    write_whole(page, ("\n\n".join(parts) + "\n").encode())
    return page


def summary(single: pd.DataFrame) -> pd.DataFrame:
    """Means over samples: method, setting, lead, field, channel, score -> value and its deviation over seeds.

    Of `seconds` the least: what else a machine does only makes an analysis slower.
    """
    keys = ["method", "setting", "lead", "field", "channel", "score"]
    by_seed = single.groupby([*keys, "seed"])["value"].agg(["mean", "min"]).reset_index()
    by_seed["value"] = by_seed["mean"].where(by_seed["score"] != "seconds", by_seed["min"])
    grouped = by_seed.groupby(keys)["value"]
    return pd.DataFrame({"value": grouped.mean(), "deviation": grouped.std(), "seeds": grouped.count()}).reset_index()


def gains(benchmark: Benchmark, single: pd.DataFrame) -> pd.DataFrame:
    """What observing brings that a setting denies, and in nothing else differs from the protocol.

    Returns:
        method, setting, relative `change` of the weighted MSE, and `low` and `high` of its 95 % interval, paired over
        starts.
    """
    protocol = benchmark.settings[0]
    denying = [s for s in benchmark.settings if s.deny and replace(s, name=protocol.name, deny=()) == protocol]
    chosen = single[(single["score"] == "weighted_mse") & (single["channel"] == OVERALL)]
    chosen = chosen[(chosen["field"] == "analysis") & (chosen["seed"] == benchmark.seeds[0])]
    start = chosen["sample"] // len(benchmark.leads)  # its leads are of one weather
    by_start = chosen.groupby(["method", "setting", start])["value"].mean()
    rows = []
    for method in benchmark.methods:
        observed = by_start[method, protocol.name]
        for setting in denying:
            denied = by_start[method, setting.name]
            found = mean_interval((observed - denied).to_numpy() / denied.mean(), block=1)
            rows.append((method, setting.name, found.estimate, found.low, found.high))
    return pd.DataFrame(rows, columns=["method", "setting", "change", "low", "high"])


def _csv(table: pd.DataFrame, path: Path) -> None:
    write_whole(path, table.to_csv(index=False, float_format="%.6g").encode())


def _and(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


class _Means:
    """Values of one setting and lead by method, field, channel and score."""

    def __init__(self, means: pd.DataFrame, setting: str, lead: int) -> None:
        own = means[(means["setting"] == setting) & (means["lead"] == lead)]
        self._rows = own.set_index(["method", "field", "channel", "score"])[["value", "deviation"]]

    def value(self, method: str, score: str, channel: str = OVERALL, field: str = "analysis") -> float:
        key = (method, field, channel, score)
        return float(self._rows.loc[key, "value"]) if key in self._rows.index else np.nan

    def text(self, method: str, score: str) -> str:
        value = self.value(method, score)
        if not np.isfinite(value):
            return "–"
        deviation = float(self._rows.loc[(method, "analysis", OVERALL, score), "deviation"])
        return number(value) + (f" ± {number(deviation, 1)}" if deviation > 0 else "")


def _protocol(benchmark: Benchmark, means: pd.DataFrame, lead: int) -> str:
    found = _Means(means, benchmark.settings[0].name, lead)
    first = benchmark.methods[0]
    nothing = [number(found.value(first, score, field="background")) for score in OVERALLS]
    rows = [["background", *nothing, "–", "–", "–"]]
    for method in benchmark.methods:
        spread = np.sqrt(found.value(method, "spread_mse") / found.value(method, "weighted_mse"))
        rows.append(
            [
                method,
                *(found.text(method, score) for score in OVERALLS),
                number(spread),
                number(1000 * found.value(method, "seconds")),
                f"{found.value(method, 'megabytes'):.0f}",
            ]
        )
    return _markdown(["", *OVERALLS.values(), "spread", "ms", "MB"], rows)


def _headline(benchmark: Benchmark, means: pd.DataFrame, lead: int) -> str:
    found = _Means(means, benchmark.settings[0].name, lead)
    units = {channel: style.readable(channel) for channel in HEADLINE}
    rows = []
    for name, field in (("background", "background"), *((method, "analysis") for method in benchmark.methods)):
        method = benchmark.methods[0] if field == "background" else name
        roots = (np.sqrt(found.value(method, "mse", channel, field)) for channel in HEADLINE)
        rows.append([name, *(number(units[c][0] * root) for c, root in zip(HEADLINE, roots, strict=True))])
    return _markdown(["", *(f"{channel} ({unit})" for channel, (_, unit) in units.items())], rows)


def _ratios(benchmark: Benchmark, means: pd.DataFrame) -> pd.DataFrame:
    """Setting by method: weighted MSE of the analysis over the background's."""
    own = means[(means["score"] == "weighted_mse") & (means["channel"] == OVERALL)]
    table = own.pivot_table(index="setting", columns=["method", "field"], values="value")
    return pd.DataFrame({m: table[m]["analysis"] / table[m]["background"] for m in benchmark.methods})


def _settings(benchmark: Benchmark, means: pd.DataFrame) -> str:
    ratios = _ratios(benchmark, means)
    rows = [
        [setting.name, *(number(ratios.loc[setting.name, method]) for method in benchmark.methods)]
        for setting in benchmark.settings
    ]
    return _markdown(["", *benchmark.methods], rows)


def _gains(benchmark: Benchmark, gained: pd.DataFrame) -> str:
    rows = []
    for setting, own in gained.groupby("setting", sort=False):
        percent = 100 * own[["change", "low", "high"]].to_numpy()
        rows.append([str(setting), *(_change(*each) for each in percent)])
    return _markdown(["", *benchmark.methods], rows)


def _change(change: float, low: float, high: float) -> str:
    """Percent; of few starts there is no interval."""
    return f"{change:+.2g} %" + (f" ({low:+.2g} to {high:+.2g})" if np.isfinite(low) else "")


def _density(benchmark: Benchmark, means: pd.DataFrame) -> str:
    """Weighted MSE over the background's, by the density of points."""
    protocol = benchmark.settings[0]
    varied = [s for s in benchmark.settings if (s.pattern, s.noise, s.assumed, s.deny) == _but_density(protocol)]
    varied = sorted(varied, key=lambda setting: setting.density)
    ratios = _ratios(benchmark, means)

    def draw(figure: Figure) -> None:
        (axes,) = style.panels(figure, 1, columns=1, bottom=0.45)
        for method, line in _lines(benchmark):
            values = [ratios.loc[setting.name, method] for setting in varied]
            axes.plot([100 * s.density for s in varied], values, **line, label=method, marker="o", markersize=3)
        axes.axhline(1, color=style.COLOURS["free run"], linewidth=1)
        axes.set_xscale("log")
        style.plain(axes.xaxis, [100 * setting.density for setting in varied])
        axes.set_xlabel("observed points (%)")
        axes.set_ylabel("MSE / background's")
        axes.set_ylim(bottom=0)
        style.legend(figure, axes)

    return str(style.svg(draw, "Error of the analysis over that of the background by density", height=3.2, width=7.0))


def _lines(benchmark: Benchmark) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each method, and how it is drawn."""
    looks = itertools.cycle(itertools.product(DASHES, COLOURS))
    for method, (dash, colour) in zip(benchmark.methods, looks, strict=False):
        yield method, {"color": colour, "linestyle": dash}


def _but_density(setting: object) -> tuple[object, ...]:
    return tuple(getattr(setting, name) for name in ("pattern", "noise", "assumed", "deny"))


def _cycled(benchmark: Benchmark, cycled: pd.DataFrame) -> str:
    """RMSE and trend by method and channel; the errors over the first method's, in the mean of the channels."""
    units = {channel: style.readable(channel) for channel in HEADLINE}
    first = benchmark.methods[0]
    rmse = cycled.pivot(index="method", columns="channel", values="rmse")
    ratios = (rmse / rmse.loc[first]).mean(axis=1)
    rows = []
    for method, own in cycled.groupby("method", sort=False):
        by = own.set_index("channel")
        cells = []
        for channel, (factor, _) in units.items():
            error, trend, low, high = (factor * float(by.loc[channel, n]) for n in ("rmse", "trend", "low", "high"))
            cells.append(f"{number(error)}<br>{trend:+.2g} ({low:+.2g} to {high:+.2g})")
        rows.append([str(method), *cells, number(ratios[method]), str(int(own["fallbacks"].iloc[0]))])
    return _markdown(["", *(f"{c} ({unit})" for c, (_, unit) in units.items()), f"over {first}", "fallbacks"], rows)


def _by_lead(benchmark: Benchmark, drifts: pd.DataFrame) -> str:
    """RMSE of z500 by lead of the forecasts from each method's analyses, and from the reference."""
    factor, unit = style.readable("z500")
    own = drifts[drifts["channel"] == "z500"]
    table = own[own["kind"] == "analysis"].pivot(index="method", columns="lead", values="rmse")
    perfect = own[(own["kind"] == "reference") & (own["method"] == benchmark.methods[0])].set_index("lead")["rmse"]
    leads = [lead for lead in TABLED if lead in table.columns]
    rows = [[method, *(number(factor * table.loc[method, lead]) for lead in leads)] for method in benchmark.methods]
    rows.append(["from the reference", *(number(factor * perfect[lead]) for lead in leads)])
    return _markdown([f"z500 ({unit})", *(f"{lead / 24:g} d" for lead in leads)], rows)


def _drift(benchmark: Benchmark, drifts: pd.DataFrame) -> str:
    """RMSE by lead of the forecasts from each method's analyses, and from the reference."""

    def draw(figure: Figure) -> None:
        axes_list = style.panels(figure, len(HEADLINE), top=0.65, bottom=0.45, gap=0.6)
        for axes, channel in zip(axes_list, HEADLINE, strict=True):
            factor, unit = style.readable(channel)
            own = drifts[drifts["channel"] == channel]
            for method, line in _lines(benchmark):
                part = own[(own["method"] == method) & (own["kind"] == "analysis")].sort_values("lead")
                axes.plot(part["lead"] / 24, factor * part["rmse"], **line, label=method)
            part = own[(own["method"] == benchmark.methods[0]) & (own["kind"] == "reference")].sort_values("lead")
            style.line(axes, part["lead"] / 24, factor * part["rmse"], "free run", "from the reference")
            axes.set_title(f"{channel} ({unit})")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        for axes in axes_list[-3:]:
            axes.set_xlabel("lead (days)")
        style.legend(figure, axes_list[0])

    return str(style.svg(draw, "Forecast error by lead of every method", height=4.6))
