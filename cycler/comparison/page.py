"""Write a comparison as one HTML page, and as Markdown."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dacycle.common.files import write_whole
from dacycle.cycler.comparison import card
from dacycle.cycler.comparison.runs import Comparison
from dacycle.cycler.report import figures, tables
from dacycle.cycler.report.charts import Figure
from dacycle.cycler.report.rendering import render

__all__ = ["write_markdown", "write_page"]

_COLOURS = (
    "background", "analysis", "reference", "persistence", "climatology", "rejected", "late", "denied", "no_operator",
    "blacklisted",
)  # fmt: skip
"""Colours of the runs, the baseline first; after the last one they begin again."""


def write_page(comparison: Comparison, path: Path) -> Path:
    """Write the comparison as one HTML page that needs no other file."""
    content = render(
        "compare.html",
        title=_title(comparison),
        comparison=comparison,
        summary=card.summary(comparison),
        cards={run: card.scorecard(comparison, run) for run in comparison.judged},
        chance={run: card.chance_text(comparison, run) for run in comparison.judged},
        legend=card.LEGEND,
        observed=card.at_observations(comparison),
        matrix=card.matrix(comparison) if len(comparison.runs) > 2 else {},
        errors=_errors(comparison),
        drift=_drift(comparison),
    )
    write_whole(path, content.encode())
    return path


def _title(comparison: Comparison) -> str:
    judged = comparison.judged
    named = judged[0] if len(judged) == 1 else f"{len(judged)} runs"
    return f"{named} against {comparison.baseline}"


def _kinds(comparison: Comparison) -> dict[str, str]:
    return {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(comparison.runs)}


def _errors(comparison: Comparison) -> Figure | None:
    verified = comparison.verified
    if not all(len(verification.errors) for verification in verified.values()):
        return None
    runs = {name: v.errors[v.errors["kind"] == "analysis"] for name, v in verified.items()}
    return figures.errors_over_time(runs, _kinds(comparison))


def _drift(comparison: Comparison) -> Figure | None:
    curves = {name: tables.drift_summary(table)[0] for name, table in comparison.scored.items() if len(table)}
    if not curves:
        return None
    return figures.drift_side_by_side(curves, _kinds(comparison))


# --- Markdown ---------------------------------------------------------------------------------------------------------


def write_markdown(comparison: Comparison, path: Path) -> Path:
    """Write the comparison as Markdown: settings, summary with costs, scorecards, observations, every pair."""
    write_whole(path, ("\n\n".join(_sections(comparison)) + "\n").encode())
    return path


def _sections(comparison: Comparison) -> Iterator[str]:
    times, runs = comparison.times, list(comparison.runs)
    yield f"# {_title(comparison)}"
    yield f"{len(times)} cycles that all have: {times[0]:%Y-%m-%d %H} to {times[-1]:%Y-%m-%d %H} UTC."
    if comparison.settings:
        yield "## Differences of the settings"
        rows = [
            [f"`{key}`", *("–" if value is None else f"`{value}`" for value in values)]
            for key, values in comparison.settings.items()
        ]
        yield _table(["key", *runs], rows)
    yield "## Summary"
    yield (
        f"Change of the RMSE from `{comparison.baseline}` over the globe, mean of the six headline channels, with its "
        "95 % interval. Negative is better. Seconds a cycle are medians of the clock that is named."
    )
    yield _table(*_summary(comparison))
    for run in comparison.judged:
        found = card.scorecard(comparison, run)
        yield f"## Scorecard of {run}"
        yield f"{card.chance_text(comparison, run)} {card.LEGEND}"
        for region, channels in found["regions"].items():
            yield f"### {run}: {region}"
            rows = [
                [channel, *(cells[of]["text"] if of in cells else "–" for of in found["columns"])]
                for channel, cells in channels.items()
            ]
            yield _table(["channel", *found["columns"]], rows)
    observed = card.at_observations(comparison)
    if observed:
        yield "## At observations that the field has not seen"
        yield _table(["observations", "of", comparison.baseline, *comparison.judged], _observed(comparison, observed))
    if len(runs) > 2 and len(comparison.pairs):
        yield "## Each against each"
        yield "Change of the mean squared error of the analyses, mean of six, from the column's run to the row's."
        cells = card.matrix(comparison)
        rows = [[run, *(cells[run][other]["text"] if other != run else "–" for other in runs)] for run in runs]
        yield _table(["", *runs], rows)


def _summary(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    found = card.summary(comparison)
    header = ["run", *found["columns"], "analysis (s)", "cycle (s)", "clock", "fallbacks"]
    rows = []
    for row in found["rows"]:
        cells = [_with_interval(row["cells"].get(of)) for of in found["columns"]]
        cost = row["cost"]
        seconds = [tables.number(cost[name]) for name in ("analysis", "cycle")]
        rows.append([row["run"], *cells, *seconds, cost["clock"], str(cost["fallbacks"])])
    return header, rows


def _observed(comparison: Comparison, observed: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    for row in observed:
        cells = [row["cells"][run]["text"] if run in row["cells"] else "–" for run in comparison.judged]
        yield [f"{row['source']} {row['variable']} ({row['unit']})", row["of"], tables.number(row["rmse"]), *cells]


def _with_interval(cell: dict[str, Any] | None) -> str:
    return "–" if cell is None else f"{cell['text']}<br>({cell['interval'].partition(',')[0]})"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [header, ["---"] * len(header), *rows])
