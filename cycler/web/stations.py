"""What the pages of stations show: which there are, and everything that one of them reported."""

from typing import Any

import numpy as np
import pandas as pd

from dacycle.cycler.report import style
from dacycle.cycler.report.charts import Chart, Figure, Line
from dacycle.cycler.report.observations import plain_station
from dacycle.cycler.web.runs import Run

__all__ = ["CYCLES", "LISTED", "station_content", "stations_content"]

CYCLES = 8
"""Number of newest cycles whose stations are listed."""
LISTED = 200
"""Most rows of the list of stations."""
VALUES = 150
"""Most rows of the table of a station's values; JSON has all."""
PERIODS = (7, 30, 90)
"""Days over which a station is shown."""
_SMALL = (340, 150)


def stations_content(run: Run, search: str) -> dict[str, Any]:
    """Return the stations of the newest cycles whose name or site holds the text, those with the most values first.

    Raises:
        ArchiveError: departures are damaged.
    """
    listed = run.stations(CYCLES)
    words = search.lower().split()
    found = [row for row in listed if all(word in row["text"] for word in words)]
    return {"experiment": run.experiment, "rows": found[:LISTED], "found": len(found), "all": len(listed)}


def station_content(run: Run, station: str, days: int) -> dict[str, Any]:
    """Return what a station reported in the newest days: its place, charts, and every value, the newest first.

    Raises:
        ArchiveError: departures are damaged.
    """
    records = run.records
    first = records[-1].time - pd.Timedelta(days=days) if records else None
    table = run.station(station, [record for record in records if first is not None and record.time > first])
    content: dict[str, Any] = {"experiment": run.experiment, "station": station, "plain": plain_station(station)}
    content |= {"days": days, "periods": PERIODS, "last": records[-1] if records else None, "most": VALUES}
    if table.empty:
        return content | {"rows": [], "figures": [], "places": [], "uses": {}}
    table = table.sort_values(["time", "source", "variable", "pressure"], ascending=[False, True, True, False])
    places = table.drop_duplicates(["source", "site"])[["source", "site", "latitude", "longitude", "elevation"]]
    return content | {
        "rows": [_value(row) for row in table.to_dict("records")],
        "figures": _figures(table),
        "places": places.head(12).to_dict("records"),
        "uses": table["use"].value_counts().to_dict(),
    }


def _value(row: dict[Any, Any]) -> dict[str, Any]:
    """Return one value in readable units; `lateness` is from its time to its receipt, minutes."""
    factor, unit = style.readable_variable(str(row["variable"]))
    received, pressure = row["received"], float(row["pressure"])
    return {
        "cycle": f"{row['cycle']:%Y%m%dT%H}",
        "time": row["time"],
        "source": row["source"],
        "variable": row["variable"],
        "level": pressure / 100 if np.isfinite(pressure) else None,
        "unit": unit,
        **{name: factor * float(row[name]) for name in ("value", "error", "o_b", "o_a")},
        "bias": factor * float(row.get("bias", np.nan)),
        "use": row["use"],
        "reason": row["reason"],
        "lateness": np.nan if pd.isna(received) else (received - row["time"]) / pd.Timedelta(minutes=1),
    }


def _figures(table: pd.DataFrame) -> list[Figure]:
    """Draw departures by variable, the removed bias where there is one, and lateness."""
    departures, biases, lateness = [], [], []
    for (source, variable), rows in table.groupby(["source", "variable"], sort=True):
        factor, unit = style.readable_variable(str(variable))
        aloft = rows["pressure"].notna().any()
        lines = []
        for of, name, label in (("o_b", "background", "O-B"), ("o_a", "analysis", "O-A")):
            scaled = rows[of] / rows["error"] if aloft else factor * rows[of]
            of_cycle = scaled.astype(float).groupby(rows["cycle"])
            series = np.sqrt((scaled.astype(float) ** 2).groupby(rows["cycle"]).mean()) if aloft else of_cycle.mean()
            if series.notna().any():
                lines.append(Line(label, series.index, series.to_numpy(float), name, dots=True))
        text = "RMS over levels, stated errors" if aloft else unit
        level = None if aloft else (0.0, "quiet")
        note = "" if lines else "no observation operator"
        departures.append(
            Chart(f"{source}: {variable} ({text})", lines, size_=_SMALL, from_zero=bool(aloft), level=level, note=note)
        )
        if "bias" in rows and (rows["bias"].fillna(0) != 0).any():
            bias = factor * rows["bias"].astype(float).groupby(rows["cycle"]).mean()
            biases.append(
                Chart(f"{source}: {variable} ({unit})", [Line("bias", bias.index, bias, "withheld")], size_=_SMALL)
            )
    for source, rows in table.dropna(subset=["received"]).groupby("source"):
        minutes = (rows["received"] - rows["time"]) / pd.Timedelta(minutes=1)
        of_cycle = minutes.groupby(rows["cycle"]).median()
        line = Line("lateness", of_cycle.index, of_cycle.to_numpy(float), "late", dots=True)
        lateness.append(Chart(f"{source}: minutes from time to receipt", [line], size_=_SMALL, from_zero=True))
    found = [("Departures over time", departures), ("Removed bias over time", biases), ("Lateness over time", lateness)]
    return [Figure(label, charts, x_name="cycle") for label, charts in found if charts]
