"""Small observation tables for the tests."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from dacycle.forecast_adapter.grid import Grid
from dacycle.obs_ingest.quality.background_error import BANDS, BackgroundError
from dacycle.obs_ingest.quality.control import Selection, background_at_rows, check
from dacycle.obs_ingest.table import LEVEL_VARIABLES, VARIABLES, make_table, site_names
from dacycle.obs_ingest.window import Window

TIME = np.datetime64("2024-01-02T12", "h")


def observations(
    variable: str | list[str],
    value: ArrayLike,
    *,
    latitude: ArrayLike = 50.0,
    longitude: ArrayLike = 10.0,
    error: ArrayLike = 1.0,
    elevation: ArrayLike = 0.0,
    pressure: ArrayLike = np.nan,
    minutes: ArrayLike = 0,
    period: ArrayLike = 0.0,
    delay: ArrayLike = 30,
    source: str = "test",
) -> pd.DataFrame:
    """Return a table around `TIME`: `minutes` after it, received `delay` minutes after that; scalars are repeated."""
    names = [variable] if isinstance(variable, str) else variable
    shapes = [np.shape(x) for x in (value, latitude, longitude, error, elevation, pressure, minutes, period, delay)]
    n = max(len(names), *(shape[0] if shape else 1 for shape in shapes))
    names = names * n if len(names) == 1 else names

    def full(x: ArrayLike) -> np.ndarray:
        return np.broadcast_to(np.asarray(x, float), n).copy()

    when = TIME.astype("datetime64[s]") + (full(minutes) * 60).astype("timedelta64[s]")
    lat, lon = full(latitude), full(longitude)
    aloft = np.array([name in LEVEL_VARIABLES for name in names])
    return make_table(
        time=when,
        period=full(period),
        received=when + (full(delay) * 60).astype("timedelta64[s]"),
        site=site_names(lat, lon),
        station=pd.Categorical([f"s{i}" for i in range(n)]),
        latitude=lat,
        longitude=lon,
        elevation=full(elevation),
        pressure=np.where(aloft, full(pressure), np.nan),
        variable=np.array([VARIABLES.index(name) for name in names]),
        value=full(value),
        error=full(error),
        source=source,
    )


def checked(
    table: pd.DataFrame,
    window: Window,
    equivalents: np.ndarray,
    background_error: np.ndarray,
    grid: Grid,
    orography: np.ndarray,
    *,
    learned_error: np.ndarray | None = None,
    **selection: object,
) -> pd.DataFrame:
    """Return the table after quality control against a gridded background with an error (69,) for each channel."""
    error = everywhere(background_error)
    background = background_at_rows(table, equivalents, error, grid, orography, learned_error)
    return check(table, window, background, Selection(**selection))


def everywhere(error: np.ndarray) -> BackgroundError:
    """Return an error (69,) of the background that is the same at all latitudes, and 0 for precipitation and OLR."""
    return BackgroundError(np.repeat(np.append(error, (0.0, 0.0))[:, None], len(BANDS), axis=1))
