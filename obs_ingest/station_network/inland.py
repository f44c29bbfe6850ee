"""Places far from any coast, where no ship can be: a packaged raster of half a degree (`make_inland`)."""

from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["is_inland"]

_ROWS, _COLUMNS = 360, 720


def is_inland(latitude: NDArray, longitude: NDArray) -> NDArray[np.bool_]:
    """Return whether each position (n,), in degrees, is on land and more than about 75 km from every coast.

    The coasts of the Caspian Sea are coasts; those of other lakes are not.
    """
    row = np.clip(((latitude + 90) * 2).astype(int), 0, _ROWS - 1)
    column = ((longitude + 180) % 360 * 2).astype(int) % _COLUMNS
    return _raster()[row, column]


@lru_cache(maxsize=1)
def _raster() -> NDArray[np.bool_]:
    with np.load(Path(__file__).with_name("inland.npz")) as file:
        return np.unpackbits(file["inland"]).reshape(_ROWS, _COLUMNS).astype(bool)
