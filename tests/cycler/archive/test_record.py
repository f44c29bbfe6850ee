"""The record of a cycle: its text, records from before some keys existed, and those of versions to come."""

import json

import pandas as pd
import pytest

from dacycle.cycler.archive.branches import ArchiveError
from dacycle.cycler.archive.record import CycleRecord, SourceRecord

TIME = pd.Timestamp("2024-01-04T06")
SOURCE = {
    "decoded": 2, "files": ["a.csv"], "found": 3, "late": 0, "latency": None, "missing": 1, "problems": [],
    "skipped": {"not readable": 1}, "source": "isd", "values": {"t2m": 2},
}  # fmt: skip
CYCLE = {
    "clipped_water": 1.25e-05, "departures": "d" * 64, "digests": {"experiment": "e" * 64, "model": "m" * 64},
    "experiment": "demo", "gridded": 2, "increment_max": {"t2m": 1.5}, "increment_rms": {"t2m": 0.25}, "reason": "",
    "reasons": {}, "sources": {"isd": SOURCE}, "status": "ok", "time": "20240104T06", "uses": {"assimilated": 2},
    "variables": {"t2m": {"assimilated": 2}},
}  # fmt: skip
START = {"digests": {"experiment": "e" * 64}, "status": "cold_start", "time": "20240104T00"}


@pytest.mark.parametrize(
    "content",
    [
        CYCLE,
        CYCLE | {"status": "fallback", "reason": "température", "unpaired_model": "model a was made for b"},
        CYCLE | {"thickness_imbalance": {"850-925": 0.5}, "sources": {}},
        CYCLE | {"sources": {"isd": SOURCE | {"digests": {}, "unreadable": 0, "latency": 43.8}}},
        START,
        START | {"frame": "one state stands for both"},
    ],
)
def test_a_stored_record_keeps_its_text_to_the_last_byte(content):
    """Fingerprints of cycles, and with them forecasts and verification, hang on it; also where keys are absent."""
    text = json.dumps(content, sort_keys=True)
    assert CycleRecord.from_json(text).to_json() == text


def test_what_is_read_is_what_was_written():
    source = SourceRecord("isd", 3, 2, 1, 0, None, {}, {"t2m": 2}, ["a.csv"], [], {"a.csv": "12ab"}, 0)
    record = CycleRecord(TIME, "degraded", {"model": "m"}, reason="few", sources={"isd": source}, gridded=3)
    again = CycleRecord.from_json(record.to_json())
    assert again == record
    assert (again.id, again.sources["isd"].latency, again.departures) == ("20240104T06", None, None)


def test_a_cold_start_has_no_more_than_its_digests():
    assert json.loads(CycleRecord(TIME, "cold_start", {"model": "m"}).to_json()) == {
        "digests": {"model": "m"}, "status": "cold_start", "time": "20240104T06",
    }  # fmt: skip


@pytest.mark.parametrize("newer", [CYCLE | {"humour": 1}, CYCLE | {"sources": {"isd": SOURCE | {"humour": 1}}}])
def test_a_record_of_a_newer_version_is_refused_with_the_key(newer):
    with pytest.raises(ArchiveError, match="the record of cycle 20240104T06 holds humour"):
        CycleRecord.from_json(json.dumps(newer))
