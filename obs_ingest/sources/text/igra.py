"""The Integrated Global Radiosonde Archive, version 2, of NOAA's NCEI: the source `igra`.

A file holds the soundings of one station, of its whole period (-data) or of the last years (-data-beg2024), as text or
zip.
"""

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dacycle.common.foreign import read_text
from dacycle.forecast_adapter.physics import GRAVITY
from dacycle.forecast_adapter.worlds.world import World
from dacycle.obs_ingest.sources.ascent_files import Ascent, AscentFiles, Levels
from dacycle.obs_ingest.sources.files import Paths, content_digest
from dacycle.obs_ingest.sources.text.igra_text import ascents, level_values
from dacycle.obs_ingest.station_network.stations import load_stations
from dacycle.obs_ingest.table import ObservationError

__all__ = ["Igra"]

_LISTED = re.compile(r"(\S{11}) ([ \d.-]{8}) ([ \d.-]{9}) ([ \d.-]{6})( .*)?")
_UNKNOWN_ELEVATION = -998.0  # m; -998.8 and -999.9 in IGRA's list


class Igra(AscentFiles):
    """Radiosondes from IGRA files: z, q, u, v, t on the standard levels, q up to 200 hPa.

    Values have the position in the sounding's header and the time of release, else the nominal hour.

    Args (beside those of `AscentFiles`):
        network: a list with the stations' elevations: IGRA's igra2-station-list.txt, or CSV. Without it, or for a
            station that it lacks, the elevation is the height of the sounding's surface level, else unknown.
    """

    kind = "igra"
    patterns = ("*-data*.txt", "*-data*.txt.gz", "*-data*.zip")

    def __init__(
        self,
        path: Paths,
        name: str = "",
        cutoff: pd.Timedelta | None = None,
        latency: str | None = None,
        received: str | None = None,
        network: str | None = None,
        tolerance: float = 1.0,
        world: World | None = None,
    ) -> None:
        super().__init__(path, name, cutoff, latency, received, tolerance, world)
        self._network = network

    def ascents(self, path: Path, problems: list[str]) -> Iterator[Ascent]:
        """Yield the soundings of a file, plain or packed."""
        return ascents(path, problems)

    def levels(self, batch: list[Ascent]) -> list[Levels]:
        """Return the levels of soundings."""
        return level_values([ascent.content for ascent in batch])

    def elevation(self, ascent: Ascent, levels: dict[str, NDArray]) -> float:
        """Return the elevation (m) of the list, else that of the sounding's surface level, else NaN."""
        surface = levels["z"][levels["surface"]] / GRAVITY
        known = surface[np.isfinite(surface)]
        return self._elevations.get(ascent.station, float(known[0]) if len(known) else np.nan)

    def options(self) -> tuple[object, ...]:
        """Return the digest of the station list."""
        return ("" if self._network is None else content_digest(Path(self._network)),)

    @cached_property
    def _elevations(self) -> dict[str, float]:
        """Return the elevation (m) of each station on the list."""
        if self._network is None:
            return {}
        path = Path(self._network)
        listed = [_LISTED.fullmatch(line) for line in read_text(path, ObservationError).splitlines()]
        if None in listed or not listed:
            stations = load_stations(path, "sondes")
            return dict(zip(stations["station"], stations["elevation"], strict=True))
        pairs = ((match[1], float(match[4])) for match in listed if match is not None)
        return {station: elevation for station, elevation in pairs if elevation > _UNKNOWN_ELEVATION}
