"""Observation files from a network, kept in a folder; and where public archives keep them."""

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
"""Where public archives of NOAA keep a source's files."""


def urls(source: str, years: Sequence[int], stations: Sequence[str] = ()) -> list[tuple[int, str]]:
    """Years and URLs of a source's files in its public archive.

    Raises:
        ObservationError: there is none known, or it has files by station and none is named.
    """
    if source not in ARCHIVES:
        raise ObservationError(f"no archive is known for source {source}; there is one for {', '.join(ARCHIVES)}")
    by_station = "{station}" in ARCHIVES[source]
    if by_station and not stations:
        raise ObservationError(f"the archive of {source} has a file for each station and year: name stations")
    each = stations if by_station else ("",)
    return [(year, ARCHIVES[source].format(year=year, station=station)) for year in years for station in each]


def mirror(url: str, folder: Path | None = None, patterns: Sequence[str] = ()) -> list[Path]:
    """Local copies of the files that a URL names: `remote.local_copies`, its errors as ObservationErrors."""
    try:
        return remote.local_copies(url, folder, patterns)
    except remote.FetchError as error:
        raise ObservationError(str(error)) from error
