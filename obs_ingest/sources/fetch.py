"""Local copies of observation files that a source names by URL."""

from collections.abc import Sequence
from pathlib import Path

from dacycle.forecast_adapter import remote
from dacycle.obs_ingest.table import ObservationError

__all__ = ["mirror"]


def mirror(url: str, folder: Path | None = None, patterns: Sequence[str] = ()) -> list[Path]:
    """Return local copies of the files that a URL names; errors of `remote.local_copies` become ObservationErrors."""
    try:
        return remote.local_copies(url, folder, patterns)
    except remote.FetchError as error:
        raise ObservationError(str(error)) from error
