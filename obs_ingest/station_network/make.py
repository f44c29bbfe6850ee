"""Make the packaged station lists: `python -m dacycle.obs_ingest.station_network.make [FOLDER]`.

It reads the aerodrome table of avwx-engine (MIT; its positions come from OurAirports, public domain), which only this
command needs, and adds 21 stations of the Antarctic and the southern oceans. All are thinned to 60 km; then all
stations lonelier than 300 km are kept, and 45 % of the others. The choice is a pure function of that table: the same
release gives the same `stations.csv` and `sondes.csv`.
"""

import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM

SPACING_KM = 60.0
LONELY_KM = 300.0
KEPT_SHARE = 0.45
SONDES = 350
# Aerodromes leave out the stations of the Antarctic and of the southern oceans. Their WMO number, position and height:
REMOTE = (
    ("89002", -70.67, -8.25, 50),  # Neumayer
    ("89022", -75.58, -26.27, 30),  # Halley
    ("89050", -62.20, -58.96, 16),  # Bellingshausen
    ("89055", -64.23, -56.72, 198),  # Marambio
    ("89062", -67.57, -68.13, 16),  # Rothera
    ("89512", -70.77, 11.83, 119),  # Novolazarevskaya
    ("89532", -69.00, 39.58, 18),  # Syowa
    ("89564", -67.60, 62.87, 10),  # Mawson
    ("89571", -68.58, 77.97, 18),  # Davis
    ("89592", -66.55, 93.02, 40),  # Mirny
    ("89606", -78.46, 106.84, 3488),  # Vostok
    ("89611", -66.28, 110.53, 40),  # Casey
    ("89625", -75.10, 123.35, 3233),  # Concordia
    ("89642", -66.66, 140.00, 43),  # Dumont d'Urville
    ("89662", -74.70, 164.10, 92),  # Mario Zucchelli
    ("61996", -37.80, 77.57, 27),  # Amsterdam Island
    ("61998", -49.35, 70.25, 29),  # Kerguelen
    ("68906", -40.35, -9.88, 54),  # Gough Island
    ("68994", -46.88, 37.87, 22),  # Marion Island
    ("88903", -54.28, -36.50, 3),  # Grytviken
    ("94998", -54.50, 158.94, 6),  # Macquarie Island
)
_RANK = {"large_airport": 0, "medium_airport": 1, "weather_station": 2}


def candidates() -> pd.DataFrame:
    """Return the remote stations, then reporting aerodromes with a position and an elevation, the larger ones first."""
    spec = importlib.util.find_spec("avwx")
    if spec is None or spec.origin is None:
        raise SystemExit("the station lists are made from avwx-engine's table: pip install avwx-engine")
    table = json.loads((Path(spec.origin).parent / "data" / "files" / "stations.json").read_text())
    remote = [dict(zip(("station", "latitude", "longitude", "elevation"), row, strict=True)) for row in REMOTE]
    frame = pd.DataFrame(
        [_row(entry) for entry in table.values() if _usable(entry)] + [{**r, "rank": -1} for r in remote]
    )
    return frame.sort_values(["rank", "station"], ignore_index=True)


def _usable(entry: dict) -> bool:
    at_origin = abs(entry["latitude"]) < 0.01 and abs(entry["longitude"]) < 0.01
    return bool(entry["reporting"] and entry["icao"] and entry["elevation_m"] is not None and not at_origin)


def _row(entry: dict) -> dict:
    return {
        "station": entry["icao"],
        "latitude": round(entry["latitude"], 4),
        "longitude": round(entry["longitude"], 4),
        "elevation": entry["elevation_m"],
        "rank": _RANK.get(entry["type"], 3),
    }


def _vectors(frame: pd.DataFrame) -> NDArray:
    """Return unit vectors (n, 3)."""
    lat, lon = np.deg2rad(frame["latitude"].to_numpy()), np.deg2rad(frame["longitude"].to_numpy())
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def surface_stations(frame: pd.DataFrame) -> pd.DataFrame:
    """Thin to 60 km, then keep every lonely station and a fixed share of the rest.

    Islands and deserts keep what they have, while Europe and North America stay denser than elsewhere, as in reality.
    """
    points, free, thinned_rows = _vectors(frame), np.ones(len(frame), bool), []
    for i in range(len(frame)):
        if free[i]:
            thinned_rows.append(i)
            free &= points @ points[i] < np.cos(SPACING_KM / EARTH_RADIUS_KM)
    thinned = frame.iloc[thinned_rows]
    points = points[thinned_rows]
    cosines = points @ points.T
    np.fill_diagonal(cosines, -1)
    lonely = cosines.max(1) < np.cos(LONELY_KM / EARTH_RADIUS_KM)
    drawn = np.array([_uniform(name) < KEPT_SHARE for name in thinned["station"]])
    return thinned[lonely | drawn].sort_values("station", ignore_index=True)


def sonde_stations(stations: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose `count` stations, each the farthest from those before: islands of the oceans and the south come first."""
    points, chosen = _vectors(stations), [0]
    nearest = points @ points[0]
    while len(chosen) < count:
        chosen.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, points @ points[chosen[-1]])
    return stations.iloc[sorted(chosen)].reset_index(drop=True)


def _uniform(text: str) -> float:
    """Return a number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def make(folder: Path) -> Iterator[str]:
    """Write both lists into `folder`, and yield a sentence about each."""
    stations = surface_stations(candidates())
    for name, chosen in (("stations", stations), ("sondes", sonde_stations(stations, SONDES))):
        path = folder / f"{name}.csv"
        chosen[["station", "latitude", "longitude", "elevation"]].to_csv(path, index=False)
        yield f"{path}: {len(chosen)} stations, {(chosen['latitude'] < 0).sum()} of them south of the equator"


if __name__ == "__main__":
    for line in make(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent):
        print(line)
