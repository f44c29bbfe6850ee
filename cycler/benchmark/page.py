"""Write the results of a benchmark as Markdown, CSV and pictures in one folder."""

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from dacycle.assimilators.judging.benchmark import OVERALL
from dacycle.common.files import write_whole
from dacycle.cycler.benchmark.pairs import gains, pairs_in_cycles, pairs_of_single_analyses
from dacycle.cycler.benchmark.run import Benchmark, CycledResults
from dacycle.cycler.comparison.pairing import COLUMNS
from dacycle.cycler.report import drawing, style
from dacycle.cycler.report.tables import number, with_interval
from dacycle.forecast_adapter.channels import HEADLINE

__all__ = ["write_report"]

COLOURS = ("#1f6fb2", "#d9772b", "#2b8a6b", "#a9719f", "#9a8c4a", "#4c4f57", "#b8473f", "#5c8f97")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
"""Methods take the colours in the order of the benchmark's file, then the colours again with the next dash."""
TABLED_LEADS = (0, 24, 72, 120, 168, 240)
"""Leads (hours) in the table of forecasts; drift.csv has all."""
OVERALL_SCORES = {
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
    cycled: CycledResults | None,
    made_by: Sequence[str],
    folder: Path,
) -> Path:
    """Write README.md, the tables as CSV and the pictures; return the path of README.md.

    Args:
        benchmark: what was compared.
        single: of `run.run_single_analyses`.
        cycled: of `run.cycled_results`; None where nothing was cycled.
        made_by: lines that give the command and the machine.
        folder: where the files go.
    """
    folder.mkdir(parents=True, exist_ok=True)
    means = summary(single)
    first_seed = summary(single[single["seed"] == benchmark.seeds[0]])  # every setting is run with this seed
    protocol = benchmark.settings[0]
    single_pairs = pairs_of_single_analyses(benchmark, single)
    _write_csv(means, folder / "single.csv")
    _write_csv(single_pairs, folder / "pairs.csv")
    sections = [
        "# Benchmark",
        *made_by,
        f"World `{benchmark.world}`, model `{benchmark.model}`. The backgrounds are forecasts of "
        f"{_listed(benchmark.leads)} h in the year {benchmark.year}, {benchmark.starts} of each lead. The protocol is "
        f"DAMBench's (arXiv 2511.01468): {100 * protocol.density:g} % of the points of every channel are observed, "
        f"with noise of {protocol.noise:g} standard deviations, and beside them precipitation at stations, and OLR. "
        f"The protocol is run with the seeds {_listed(benchmark.seeds)}, everything else with seed "
        f"{benchmark.seeds[0]}. The number after ± is the standard deviation over seeds.",
        "All methods but optimal interpolation are compared in dacycle's harness: they see departures in units of the "
        "background's error, the model's mean error is removed, increments are gated by the density of observations. "
        "The results are those of a paper's network in this harness, not of the published method.",
        "## Single analyses",
        "The scores are over all channels, in the world's standard deviations. MSE and MAE are the published ones, "
        "without weights. SpecDiv is the published divergence: of the last tenth of a radial spectrum. Zonal "
        "divergence is of the whole zonal spectrum. Both divergences are means over the headline channels. Spread is "
        "the ratio of spread to error, both root mean squares. ms is the time of the fastest analysis. MB is the "
        "memory that a process needs for one analysis, beyond what it holds without one.",
        *(section for lead in benchmark.leads for section in (f"### {lead} h", _protocol(benchmark, means, lead))),
        "### Root mean squared errors",
        *(section for lead in benchmark.leads for section in (f"{lead} h:", _headline(benchmark, means, lead))),
        "### Methods pair by pair",
        "The change of the weighted MSE of the protocol from one method to another, over both leads together; negative "
        "is better. The 95 % intervals are paired over the starts, with the effective sample size (n). "
        "[pairs.csv](pairs.csv) has all pairs.",
        _paired(benchmark, single_pairs),
        "## What is observed",
        "The ratio of the analysis's weighted MSE to the background's, over all leads, with the first seed. Above 1 "
        "the analysis is worse than its background.",
        _settings(benchmark, first_seed),
        "![by density](density.svg)",
    ]
    gained = gains(benchmark, single)
    if len(gained):
        _write_csv(gained, folder / "gains.csv")
        sections += [
            "### What the denied types bring",
            "The change of the weighted MSE when a type is observed; negative is better. The 95 % intervals are paired "
            f"over the {benchmark.starts} starts, with the effective sample size (n). An adapter from which both types "
            "are denied is its base without them. The paper reports -7.79 % of the MSE for its adapter on VAE-Var.",
            _gains(benchmark, gained),
        ]
    write_whole(folder / "density.svg", _density(benchmark, first_seed).encode())
    if benchmark.cycled is not None and cycled is not None:
        _write_csv(cycled.errors, folder / "cycled.csv")
        _write_csv(cycled.drift, folder / "drift.csv")
        cycled_pairs = pairs_in_cycles(benchmark, cycled.mse)
        _write_csv(cycled_pairs, folder / "cycled_pairs.csv")
        write_whole(folder / "drift.svg", _drift(benchmark, cycled.drift).encode())
        days = benchmark.cycled.spin_up / pd.Timedelta(days=1)
        sections += [
            "## Cycled",
            f"{int(cycled.errors['cycles'].iloc[0])} cycles of `{benchmark.cycled.experiment}`, without the first "
            f"{days:g} days. Each cell holds the RMSE of the analyses, and below it the trend per day with its 95 % "
            f"interval and effective sample size (n). The column `over {benchmark.methods[0]}` is the ratio of the "
            f"errors to those of `{benchmark.methods[0]}`, averaged over the channels.",
            _cycled(benchmark, cycled.errors),
            "The change of the MSE of the analyses from one method to another, mean of the channels relative to "
            f"`{benchmark.methods[0]}`, with 95 % intervals paired over cycles ([all pairs](cycled_pairs.csv)):",
            _paired(benchmark, cycled_pairs),
            "RMSE of the forecasts from the analyses, by lead:",
            _by_lead(benchmark, cycled.drift),
            "![drift](drift.svg)",
        ]
    path = folder / "README.md"
    write_whole(path, ("\n\n".join(sections) + "\n").encode())
    return path


def summary(single: pd.DataFrame) -> pd.DataFrame:
    """Average over samples: method, setting, lead, field, channel, score -> value, its deviation over seeds, seeds.

    The value of `seconds` is the minimum, because other work on a machine can only make an analysis slower.
    """
    keys = ["method", "setting", "lead", "field", "channel", "score"]
    by_seed = single.groupby([*keys, "seed"])["value"].agg(["mean", "min"]).reset_index()
    by_seed["value"] = by_seed["mean"].where(by_seed["score"] != "seconds", by_seed["min"])
    grouped = by_seed.groupby(keys)["value"]
    return pd.DataFrame({"value": grouped.mean(), "deviation": grouped.std(), "seeds": grouped.count()}).reset_index()


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_whole(path, table.to_csv(index=False, float_format="%.6g").encode())


def _listed(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])


class _Means:
    """Look up the scores of one setting and lead by method, field, channel and score."""

    def __init__(self, means: pd.DataFrame, setting: str, lead: int) -> None:
        rows = means[(means["setting"] == setting) & (means["lead"] == lead)]
        self._rows = rows.set_index(["method", "field", "channel", "score"])[["value", "deviation"]]

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
    of_protocol = _Means(means, benchmark.settings[0].name, lead)
    first = benchmark.methods[0]  # the backgrounds of all methods are the same
    background = [number(of_protocol.value(first, score, field="background")) for score in OVERALL_SCORES]
    rows = [["background", *background, "–", "–", "–"]]
    for method in benchmark.methods:
        spread = np.sqrt(of_protocol.value(method, "spread_mse") / of_protocol.value(method, "weighted_mse"))
        rows.append(
            [
                method,
                *(of_protocol.text(method, score) for score in OVERALL_SCORES),
                number(spread),
                number(1000 * of_protocol.value(method, "seconds")),
                f"{of_protocol.value(method, 'megabytes'):.0f}",
            ]
        )
    return _markdown(["", *OVERALL_SCORES.values(), "spread", "ms", "MB"], rows)


def _headline(benchmark: Benchmark, means: pd.DataFrame, lead: int) -> str:
    of_protocol = _Means(means, benchmark.settings[0].name, lead)
    units = {channel: style.readable(channel) for channel in HEADLINE}
    rows = []
    for name, field in (("background", "background"), *((method, "analysis") for method in benchmark.methods)):
        method = benchmark.methods[0] if field == "background" else name
        roots = (np.sqrt(of_protocol.value(method, "mse", channel, field)) for channel in HEADLINE)
        rows.append([name, *(number(units[c][0] * root) for c, root in zip(HEADLINE, roots, strict=True))])
    return _markdown(["", *(f"{channel} ({unit})" for channel, (_, unit) in units.items())], rows)


def _ratios(benchmark: Benchmark, means: pd.DataFrame) -> pd.DataFrame:
    """Return a table, setting by method, of the ratio of the analysis's weighted MSE to the background's."""
    errors = means[(means["score"] == "weighted_mse") & (means["channel"] == OVERALL)]
    table = errors.pivot_table(index="setting", columns=["method", "field"], values="value")
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
    for setting, by_method in gained.groupby("setting", sort=False):
        rows.append([str(setting), *(_percent(row) for row in by_method[COLUMNS].itertuples(index=False))])
    return _markdown(["", *benchmark.methods], rows)


def _percent(row: Any) -> str:
    """Return one row of `pairs.COLUMNS` in per cent."""
    return with_interval(100 * row.change, 100 * row.low, 100 * row.high, row.effective, " %")


def _paired(benchmark: Benchmark, pairs: pd.DataFrame) -> str:
    """Tabulate each method against the first one and against the best one."""
    first = benchmark.methods[0]
    against_first = pairs[pairs["against"] == first].set_index("method")["change"]
    best = first if against_first.empty or against_first.min() >= 0 else str(against_first.idxmin())
    by_pair = pairs.set_index(["method", "against"])[COLUMNS]
    compared = list(dict.fromkeys([first, best]))
    rows = []
    for method in benchmark.methods:
        others = [base for base in compared if base != method]
        cells = {base: _percent(by_pair.loc[(method, base)]) for base in others}
        rows.append([method, *(cells.get(base, "–") for base in compared)])
    return _markdown(["", *(f"against {base}" for base in compared)], rows)


def _density(benchmark: Benchmark, means: pd.DataFrame) -> str:
    """Draw the ratio of the analysis's weighted MSE to the background's, by the density of observed points."""
    protocol = benchmark.settings[0]
    same = {"name": protocol.name, "density": protocol.density}
    varied = [setting for setting in benchmark.settings if setting.model_copy(update=same) == protocol]
    varied.sort(key=lambda setting: setting.density)
    ratios = _ratios(benchmark, means)

    def draw(figure: Figure) -> None:
        (axes,) = drawing.panels(figure, 1, columns=1, bottom=0.45)
        for method, line in _lines(benchmark):
            values = [ratios.loc[setting.name, method] for setting in varied]
            axes.plot([100 * s.density for s in varied], values, **line, label=method, marker="o", markersize=3)
        axes.axhline(1, color=style.COLOURS["free run"], linewidth=1)
        axes.set_xscale("log")
        drawing.plain(axes.xaxis, [100 * setting.density for setting in varied])
        axes.set_xlabel("observed points (%)")
        axes.set_ylabel("MSE / background's")
        axes.set_ylim(bottom=0)
        drawing.legend(figure, axes)

    return str(drawing.svg(draw, "Error of the analysis over that of the background by density", height=3.2, width=7.0))


def _lines(benchmark: Benchmark) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each method with the colour and dash of its line."""
    line_styles = itertools.cycle(itertools.product(DASHES, COLOURS))
    for method, (dash, colour) in zip(benchmark.methods, line_styles, strict=False):
        yield method, {"color": colour, "linestyle": dash}


_CYCLED = ("rmse", "trend", "low", "high")


def _cycled(benchmark: Benchmark, cycled: pd.DataFrame) -> str:
    """Tabulate RMSE and trend by method and channel, and the mean ratio of the errors to the first method's."""
    units = {channel: style.readable(channel) for channel in HEADLINE}
    first = benchmark.methods[0]
    rmse = cycled.pivot(index="method", columns="channel", values="rmse")
    ratios = (rmse / rmse.loc[first]).mean(axis=1)
    rows = []
    for method, rows_of_method in cycled.groupby("method", sort=False):
        by_channel = rows_of_method.set_index("channel")
        cells = []
        for channel, (factor, _) in units.items():
            error, trend, low, high = (factor * float(by_channel.loc[channel, column]) for column in _CYCLED)
            effective = float(by_channel.loc[channel, "effective"])
            cells.append(f"{number(error)}<br>{with_interval(trend, low, high, effective)}")
        rows.append([str(method), *cells, number(ratios[method]), str(int(rows_of_method["fallbacks"].iloc[0]))])
    return _markdown(["", *(f"{c} ({unit})" for c, (_, unit) in units.items()), f"over {first}", "fallbacks"], rows)


def _by_lead(benchmark: Benchmark, drifts: pd.DataFrame) -> str:
    """Tabulate the RMSE of z500 by lead, of the forecasts from each method's analyses and from the reference."""
    factor, unit = style.readable("z500")
    z500 = drifts[drifts["channel"] == "z500"]
    table = z500[z500["kind"] == "analysis"].pivot(index="method", columns="lead", values="rmse")
    of_first = z500[(z500["kind"] == "reference") & (z500["method"] == benchmark.methods[0])]
    from_reference = of_first.set_index("lead")["rmse"]
    leads = [lead for lead in TABLED_LEADS if lead in table.columns]
    rows = [[method, *(number(factor * table.loc[method, lead]) for lead in leads)] for method in benchmark.methods]
    rows.append(["from the reference", *(number(factor * from_reference[lead]) for lead in leads)])
    return _markdown([f"z500 ({unit})", *(f"{lead / 24:g} d" for lead in leads)], rows)


def _drift(benchmark: Benchmark, drifts: pd.DataFrame) -> str:
    """Draw the RMSE by lead of the forecasts from each method's analyses, and from the reference."""

    def draw(figure: Figure) -> None:
        axes_list = drawing.panels(figure, len(HEADLINE), top=0.65, bottom=0.45, gap=0.6)
        for axes, channel in zip(axes_list, HEADLINE, strict=True):
            factor, unit = style.readable(channel)
            rows = drifts[drifts["channel"] == channel]
            for method, line in _lines(benchmark):
                curve = rows[(rows["method"] == method) & (rows["kind"] == "analysis")].sort_values("lead")
                axes.plot(curve["lead"] / 24, factor * curve["rmse"], **line, label=method)
            curve = rows[(rows["method"] == benchmark.methods[0]) & (rows["kind"] == "reference")].sort_values("lead")
            drawing.line(axes, curve["lead"] / 24, factor * curve["rmse"], "free run", "from the reference")
            axes.set_title(f"{channel} ({unit})")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)
        for axes in axes_list[-3:]:
            axes.set_xlabel("lead (days)")
        drawing.legend(figure, axes_list[0])

    return str(drawing.svg(draw, "Forecast error by lead of every method", height=4.6))
