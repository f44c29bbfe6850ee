"""Places on land, and far from any coast, where no ship can be: packaged rasters of half a degree (`make_inland`)."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_inland", "is_land"]

_ROWS, _COLUMNS = 360, 720


def is_inland(latitude: NDArray, longitude: NDArray) -> NDArray[np.bool_]:
    """Return whether each position (n,), in degrees, is on land and more than about 75 km from every coast.

    The coasts of the Caspian Sea are coasts; those of other lakes are not.
    """
    return _raster("inland")[_cells(latitude, longitude)]


def is_land(latitude: NDArray, longitude: NDArray) -> NDArray[np.bool_]:
    """Return whether the middle of the raster's cell at each position (n,), in degrees, is on land.

    The coastlines are coarse: islands smaller than about 50 km are sea.
    """
    return _raster("land")[_cells(latitude, longitude)]


def _cells(latitude: NDArray, longitude: NDArray) -> tuple[NDArray, NDArray]:
    row = np.clip(((latitude + 90) * 2).astype(int), 0, _ROWS - 1)
    return row, ((longitude + 180) % 360 * 2).astype(int) % _COLUMNS


@lru_cache(maxsize=2)
def _raster(name: str) -> NDArray[np.bool_]:
    with np.load(Path(__file__).with_name("inland.npz")) as file:
        return np.unpackbits(file[name]).reshape(_ROWS, _COLUMNS).astype(bool)
