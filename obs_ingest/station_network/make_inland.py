"""Make inland.npz, rasters of land and of places far from any coast: `python make_inland.py COASTLINES.npz inland.npz`.

The coastlines are those of the reports' maps (Natural Earth 1:110m, public domain), lines of `longitude` and `latitude`
separated by NaN. A point is on land if the meridian from it to the North Pole, which is sea, crosses coasts an odd
number of times. A cell of half a degree is inland if its middle is on land, and more than 75 km from every coast.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM

DISTANCE = 75.0  # km
SPACING = 0.5  # degrees
_DENSE = 0.1  # degrees between the points that stand for a coast


def rasters(longitude: NDArray, latitude: NDArray) -> dict[str, NDArray[np.bool_]]:
    """Return whether each cell (360, 720) is `land`, and whether it is `inland`, from 90 S and 180 W on."""
    y = np.arange(-90 + SPACING / 2, 90, SPACING)
    x = np.arange(-180 + SPACING / 2, 180, SPACING)
    edges = np.stack([longitude[:-1], latitude[:-1], longitude[1:], latitude[1:]], axis=1)
    edges = edges[np.isfinite(edges).all(axis=1)].astype(float)
    crossings = np.zeros((len(y), len(x)), int)
    for x0, y0, x1, y1 in edges:
        columns = np.nonzero((x >= min(x0, x1)) & (x < max(x0, x1)))[0]
        for column in columns:
            at = y0 + (y1 - y0) * (x[column] - x0) / (x1 - x0)
            crossings[y < at, column] += 1
    steps = [np.linspace(0, 1, 2 + int(np.hypot(x1 - x0, y1 - y0) / _DENSE)) for x0, y0, x1, y1 in edges]
    points = [
        np.stack([x0 + t * (x1 - x0), y0 + t * (y1 - y0)], axis=1)
        for t, (x0, y0, x1, y1) in zip(steps, edges, strict=True)
    ]
    coast = np.concatenate(points)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    chord = cKDTree(_unit(coast)).query(_unit(places))[0]
    distance = 2 * EARTH_RADIUS_KM * np.arcsin(chord / 2)
    land = crossings % 2 == 1
    return {"land": land, "inland": land & (distance.reshape(crossings.shape) > DISTANCE)}


def _unit(places: NDArray) -> NDArray:
    lon, lat = np.deg2rad(places.T)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


if __name__ == "__main__":
    with np.load(Path(sys.argv[1])) as file:
        made = rasters(file["longitude"], file["latitude"])
    np.savez_compressed(Path(sys.argv[2]), land=np.packbits(made["land"]), inland=np.packbits(made["inland"]))
