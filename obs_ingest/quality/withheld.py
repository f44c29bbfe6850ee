"""Withheld sites: observations that no experiment assimilates, so that each cycle is verified against unseen data.

A site whose position is chosen is withheld in every experiment, with every other source within 10 km of it.
"""

import hashlib
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM
from dacycle.obs_ingest.table import ObservationError

__all__ = ["SALT", "WITHHELD", "WITHHELD_KM", "withhold"]

WITHHELD = 0.1
"""Default share of the sites that are withheld."""
WITHHELD_KM = 10.0
SALT = "dacycle withheld sites 1"


def withhold(table: pd.DataFrame, share: float = WITHHELD, salt: str = SALT) -> NDArray[np.bool_]:
    """Return the rows (n,) that no experiment assimilates.

    A position is chosen by the SHA-256 of the salt and the position rounded to 0.1 degree. Every row within 10 km of it
    is withheld too, whatever its source.

    Args:
        table: needs latitude and longitude only.
        share: of the positions, in [0, 1).
        salt: another salt chooses other sites; all experiments use the same one.
    """
    if not 0 <= share < 1:
        raise ObservationError(f"the withheld share is {share!r}, not in [0, 1)")
    if share == 0 or not len(table):
        return np.zeros(len(table), bool)
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy()
    positions, back = np.unique(latitude + 1j * (longitude % 360), return_inverse=True)
    rows = np.rint(positions.real * 10).astype(int).tolist()
    columns = (np.rint(positions.imag * 10).astype(int) % 3600).tolist()
    chosen = np.array([_uniform(salt, i, j) < share for i, j in zip(rows, columns, strict=True)])
    if not chosen.any():
        return np.zeros(len(table), bool)
    points = _unit_vectors(positions.real, positions.imag)
    chord = 2 * np.sin(WITHHELD_KM / EARTH_RADIUS_KM / 2)
    distance, _ = cKDTree(points[chosen]).query(points, distance_upper_bound=chord)
    return (np.isfinite(distance) | chosen)[back]


@lru_cache(maxsize=1 << 18)
def _uniform(salt: str, row: int, column: int) -> float:
    """Return a number in [0, 1) that depends only on the salt and the position in tenths of a degree."""
    digest = hashlib.sha256(f"{salt}|{row}|{column}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _unit_vectors(latitude: NDArray, longitude: NDArray) -> NDArray:
    lat, lon = np.deg2rad(latitude), np.deg2rad(longitude)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
