"""Places of files: folders, and prefixes in buckets, which are read and written through the same methods."""

from pathlib import Path
from typing import cast

from dacycle.common.errors import DacycleError

__all__ = ["PlaceError", "is_remote", "place", "s3_address"]


class PlaceError(DacycleError, ValueError):
    """A place cannot be reached as it is written; the message says what is missing."""


def place(text: str | Path) -> Path:
    """Return a folder, or for `s3://BUCKET/PREFIX` what stands for it with the methods of a path.

    Raises:
        PlaceError: it is another kind of address, or the packages for buckets are not installed.
    """
    if isinstance(text, str) and "://" in text:
        if not text.startswith("s3://"):
            raise PlaceError(f"{text}: archives and their copies are in folders or in s3://BUCKET/PREFIX")
        try:
            from upath import UPath

            return cast(Path, UPath(text.rstrip("/")))
        except (ImportError, ValueError) as error:
            raise PlaceError(f"{text}: {error}; buckets need the extra `s3`: pip install 'dacycle[s3]'") from error
    return Path(text) if isinstance(text, str) else text


def s3_address(where: Path) -> tuple[str, str]:
    """Return bucket and prefix of a place in a bucket."""
    bucket, _, prefix = str(where).removeprefix("s3://").partition("/")
    return bucket, prefix


def is_remote(where: Path) -> bool:
    """Return whether a place is in a bucket."""
    return not isinstance(where, Path)
