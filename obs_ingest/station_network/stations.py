"""Station lists: identifier, position and elevation of each station, from a CSV file or a packaged list."""

import io
from pathlib import Path

import numpy as np
import pandas as pd

from dacycle.common.foreign import read_text, reading
from dacycle.obs_ingest.table import ObservationError, is_position

__all__ = ["load_stations", "packaged_list", "read_csv"]

_NUMBERS = ("latitude", "longitude", "elevation")
_COLUMNS = ("station", *_NUMBERS)


def read_csv(path: Path) -> pd.DataFrame:
    """Read a CSV file of stations as texts: an identifier may be 007 or NA.

    Raises:
        ObservationError: the file cannot be read.
    """
    text = read_text(path, ObservationError)
    with reading(path, ObservationError):
        table = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    return table.rename(columns=str.strip).map(str.strip)


def load_stations(path: Path | str | None, packaged: str) -> pd.DataFrame:
    """Read station, latitude, longitude and elevation (m) from a CSV file.

    Args:
        path: the file; None: the packaged list.
        packaged: name of the packaged list: `stations` or `sondes`.

    Raises:
        ObservationError: the file cannot be read, lacks a column or a field, has something else than a number in one,
            lists a station twice or none at all; names the line.
    """
    file = Path(path) if path is not None else Path(__file__).with_name(f"{packaged}.csv")
    stations = read_csv(file)
    missing = [name for name in _COLUMNS if name not in stations]
    if missing:
        raise ObservationError(f"{file}: a station list needs the column {', '.join(missing)}")
    if stations.empty:
        raise ObservationError(f"{file}: lists no station")
    _refuse((stations[list(_COLUMNS)] == "").any(axis=1), file, "an empty field")
    numbers = stations[list(_NUMBERS)].apply(pd.to_numeric, errors="coerce")
    _refuse(~np.isfinite(numbers).all(axis=1), file, f"something else than a number in {', '.join(_NUMBERS)}")
    placed = is_position(numbers["latitude"].to_numpy(), numbers["longitude"].to_numpy())
    _refuse(pd.Series(~placed), file, "no position in degrees")
    if stations["station"].duplicated().any():
        twice = stations["station"][stations["station"].duplicated()].iloc[0]
        raise ObservationError(f"{file}: {twice} is listed twice")
    return stations.assign(**numbers)


def packaged_list(name: str) -> pd.DataFrame:
    """Read a packaged list, `lanes` or `airports`: names in the first column, numbers in the others."""
    table = read_csv(Path(__file__).with_name(f"{name}.csv"))
    return table.assign(**{column: table[column].astype(float) for column in table.columns[1:]})


def _refuse(bad: pd.Series, file: Path, problem: str) -> None:
    """Raise an error about the first bad line, if there is one."""
    if bad.any():
        raise ObservationError(f"{file}: {problem} in line {int(bad.to_numpy().argmax()) + 2}")
