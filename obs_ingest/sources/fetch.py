"""Download of observation files into a folder, and the addresses of public archives."""

from collections.abc import Sequence
from pathlib import Path

from dacycle.forecast_adapter import remote
from dacycle.obs_ingest.table import ObservationError

__all__ = ["ARCHIVES", "mirror", "urls"]

ARCHIVES: dict[str, str] = {
    "isd": "https://www.ncei.noaa.gov/data/global-hourly/access/{year}/{station}.csv",
    "ghcnh": "https://www.ncei.noaa.gov/oa/global-historical-climatology-network/hourly/access/by-year/{year}/psv/"
    "GHCNh_{station}_{year}.psv",
    "olr_netcdf": "https://www.ncei.noaa.gov/data/outgoing-longwave-radiation-daily/access/"
    "olr-daily_v01r02_{year}0101_{year}1231.nc",
}
"""URL of each source's files in the public archives of NOAA."""


def urls(source: str, years: Sequence[int], stations: Sequence[str] = ()) -> list[tuple[int, str]]:
    """Return years and URLs of a source's files in its public archive.

    Raises:
        ObservationError: no archive is known, or it has a file for each station and no station is named.
    """
    if source not in ARCHIVES:
        raise ObservationError(f"no archive is known for source {source}; there is one for {', '.join(ARCHIVES)}")
    by_station = "{station}" in ARCHIVES[source]
    if by_station and not stations:
        raise ObservationError(f"the archive of {source} has a file for each station and year: name stations")
    names = stations if by_station else ("",)
    return [(year, ARCHIVES[source].format(year=year, station=station)) for year in years for station in names]


def mirror(url: str, folder: Path | None = None, patterns: Sequence[str] = ()) -> list[Path]:
    """Return local copies of the files that a URL names; errors of `remote.local_copies` become ObservationErrors."""
    try:
        return remote.local_copies(url, folder, patterns)
    except remote.FetchError as error:
        raise ObservationError(str(error)) from error
