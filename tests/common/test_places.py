"""Places of files: folders and buckets of S3."""

from pathlib import Path

import pytest

from dacycle.common.places import PlaceError, place


def test_only_folders_and_buckets_of_s3_are_places():
    assert place("archive") == Path("archive")
    with pytest.raises(PlaceError, match=r"gs://backups/live: archives and their copies are in folders or in s3://"):
        place("gs://backups/live")
