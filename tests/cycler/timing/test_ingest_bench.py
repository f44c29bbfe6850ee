"""The measurement of reading observations: what it reads, from made files and from genuine ones."""

from pathlib import Path

import pytest

from dacycle.cycler.timing.ingest import Amount, bench_ingest
from dacycle.obs_ingest.table import ObservationError

SMALL = Amount(messages=40, reports=3000, stations=50, chunks=(1, 2))


def test_made_files_are_read_whole() -> None:
    bench = bench_ingest(None, SMALL)
    assert not bench.real
    assert (bench.synop_messages, bench.synop_wanted) == (40, 40)
    assert bench.isd_reports == 3000
    assert bench.day_values == 50 * 24 * 7
    assert [chunks for chunks, *_ in bench.memory] == [1, 2]
    assert all(peak is None or peak > reports > 0 for _, _, peak, reports in bench.memory)
    seconds = (bench.synop_seconds, bench.isd_seconds, bench.check_seconds, bench.superob_seconds)
    assert min(seconds) > 0


def test_genuine_files_are_found_by_their_form(shared: Path) -> None:
    bench = bench_ingest(shared, SMALL)
    assert bench.real
    assert bench.synop_messages >= bench.synop_wanted > 1000
    assert bench.isd_reports == 3000


def test_a_folder_without_samples_is_named(tmp_path: Path) -> None:
    with pytest.raises(ObservationError, match=f"{tmp_path}: no sample file synop"):
        bench_ingest(tmp_path, SMALL)
