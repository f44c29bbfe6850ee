"""Withheld sites: observations that no experiment assimilates, so that each cycle is verified against unseen data.

There are two classes, each chosen by a hash of a place, and thus the same in every experiment:

* **Sites.** A site whose position is chosen is withheld with every other source within 10 km of it. Sites are those of
  the network, whether or not they report in a cycle: a chosen site that is silent still takes its neighbours with it.
  Stations further off are assimilated, so that these sites verify the analysis where it is well observed.
* **Regions.** Everything in a chosen cell of about 1000 km is withheld, over oceans as over land. It verifies the
  analysis where nothing near has been observed. An experiment asks for it (`withhold_regions`).
"""

import hashlib
from functools import lru_cache

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from dacycle.forecast_adapter.physics import EARTH_RADIUS_KM
from dacycle.obs_ingest.distinct import distinct_positions
from dacycle.obs_ingest.table import ObservationError

__all__ = ["REGION_KM", "SALT", "WITHHELD", "WITHHELD_KM", "chosen_sites", "withhold", "withhold_regions"]

WITHHELD = 0.1
"""Default share of the sites that are withheld."""
WITHHELD_KM = 10.0
REGION_KM = 1000.0
"""Height, and about the width, of a region: as far as errors of a background are correlated."""
SALT = "dacycle withheld sites 1"


def withhold(
    table: pd.DataFrame, share: float = WITHHELD, salt: str = SALT, network: NDArray | None = None
) -> NDArray[np.bool_]:
    """Return the rows (n,) at withheld sites.

    A position is chosen by the SHA-256 of the salt and the position rounded to 0.1 degree. Every row within 10 km of it
    is withheld too, whatever its source.

    Args:
        table: needs latitude and longitude only.
        share: of the positions, in [0, 1).
        salt: another salt chooses other sites; all experiments use the same one.
        network: (m, 2) latitude and longitude of sites that may be silent in this table.
    """
    if not _is_share(share) or not len(table):
        return np.zeros(len(table), bool)
    here, back = distinct_positions(_positions(table))
    known = here if network is None else np.union1d(here, _complex(*np.asarray(network, float).reshape(-1, 2).T))
    chosen = known[_are_chosen(known, share, salt)]
    if not len(chosen):
        return np.zeros(len(table), bool)
    chord = 2 * np.sin(WITHHELD_KM / EARTH_RADIUS_KM / 2)
    distance, _ = cKDTree(_unit_vectors(chosen)).query(_unit_vectors(here), distance_upper_bound=chord)
    return np.isfinite(distance)[back]


def chosen_sites(table: pd.DataFrame, share: float = WITHHELD, salt: str = SALT) -> NDArray[np.float64]:
    """Return the latitude and longitude (k, 2), 0 to 360, of the positions in a table that are chosen themselves."""
    if not _is_share(share) or not len(table):
        return np.empty((0, 2))
    here, _ = distinct_positions(_positions(table))
    chosen = here[_are_chosen(here, share, salt)]
    return np.stack([chosen.real, chosen.imag], axis=1)


def withhold_regions(table: pd.DataFrame, share: float, salt: str = SALT) -> NDArray[np.bool_]:
    """Return the rows (n,) in withheld regions: cells of `REGION_KM` in rows of latitude, of about equal area.

    Arguments as for `withhold`; the share is of the regions, and thus of the Earth.
    """
    if not _is_share(share) or not len(table):
        return np.zeros(len(table), bool)
    latitude, longitude = table["latitude"].to_numpy(), table["longitude"].to_numpy() % 360
    rows = round(np.pi * EARTH_RADIUS_KM / REGION_KM)
    row = np.minimum(((latitude + 90) / 180 * rows).astype(int), rows - 1)
    middle = np.deg2rad((row + 0.5) / rows * 180 - 90)
    columns = np.rint(2 * rows * np.cos(middle)).astype(int)
    column = (longitude / 360 * columns).astype(int)
    cells, back = np.unique(row + 1j * column, return_inverse=True)
    uniform = [_uniform(f"{salt}|region|{int(cell.real)}|{int(cell.imag)}") for cell in cells]
    return (np.array(uniform) < share)[back]


def _is_share(share: float) -> bool:
    if not 0 <= share < 1:
        raise ObservationError(f"the withheld share is {share!r}, not in [0, 1)")
    return share > 0


def _positions(table: pd.DataFrame) -> NDArray[np.complex128]:
    return _complex(table["latitude"].to_numpy(), table["longitude"].to_numpy())


def _complex(latitude: NDArray, longitude: NDArray) -> NDArray[np.complex128]:
    """Return positions as latitude + i longitude, to 0.0001 degrees, which a file or a record holds as well."""
    return np.round(latitude + 1j * (longitude % 360), 4)


def _are_chosen(positions: NDArray[np.complex128], share: float, salt: str) -> NDArray[np.bool_]:
    known = _verdicts(share, salt)
    row = np.rint(positions.real * 10).astype(int)
    column = np.rint(positions.imag * 10).astype(int) % 3600
    place = row % len(known), column  # southern rows count from the end
    for i in np.flatnonzero(known[place] == 0).tolist():
        chosen = _uniform(f"{salt}|{row[i]}|{column[i]}") < share
        known[place[0][i], column[i]] = 1 if chosen else -1
    return known[place] > 0


@lru_cache(maxsize=4)
def _verdicts(share: float, salt: str) -> NDArray[np.int8]:
    """Return what was decided of positions, by tenths of a degree: 1 if chosen, -1 if not, 0 if not looked at yet."""
    return np.zeros((1801, 3600), np.int8)


def _uniform(text: str) -> float:
    """Return a number in [0, 1) that depends only on a text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def _unit_vectors(positions: NDArray[np.complex128]) -> NDArray:
    lat, lon = np.deg2rad(positions.real), np.deg2rad(positions.imag)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)
