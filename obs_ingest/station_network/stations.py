"""Station lists: identifier, position and elevation of each station, from a CSV file or a packaged list."""

from pathlib import Path

import pandas as pd

from dacycle.obs_ingest.table import ObservationError

__all__ = ["load_stations"]

_COLUMNS = ("station", "latitude", "longitude", "elevation")


def load_stations(path: Path | str | None, packaged: str) -> pd.DataFrame:
    """Read station, latitude, longitude and elevation (m) from a CSV file.

    Args:
        path: the file; None: the packaged list.
        packaged: name of the packaged list: `stations` or `sondes`.

    Raises:
        ObservationError: the file cannot be read, lacks a column or a field, or lists a station twice.
    """
    file = Path(path) if path is not None else Path(__file__).with_name(f"{packaged}.csv")
    try:
        stations = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise ObservationError(f"{file}: cannot be read as a station list: {error}") from None
    missing = [name for name in _COLUMNS if name not in stations]
    if missing:
        raise ObservationError(f"{file}: a station list needs the column {', '.join(missing)}")
    bad = stations[list(_COLUMNS)].isna().any(axis=1)
    if bad.any():
        raise ObservationError(f"{file}: an empty field in line {int(bad.argmax()) + 2}")
    if stations["station"].duplicated().any():
        twice = stations["station"][stations["station"].duplicated()].iloc[0]
        raise ObservationError(f"{file}: {twice} is listed twice")
    return stations
