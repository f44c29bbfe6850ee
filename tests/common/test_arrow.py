"""Tables are read without threads, which a process that ends at once may not survive."""

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dacycle.common.arrow import open_parquet, read_batches, read_parquet, to_pandas
from dacycle.cycler.archive.sealed_tables import seal_table

READ = """
import sys
from pathlib import Path
import pyarrow.parquet, pandas
from dacycle.common.arrow import open_parquet, read_batches, to_pandas
from dacycle.cycler.archive.sealed_tables import read_sealed_table

def threads():
    return {path.name for path in Path("/proc/self/task").iterdir()}

before = threads()
frame = to_pandas(read_sealed_table(Path(sys.argv[1]), "make it again"))
with open_parquet(Path(sys.argv[1])) as file:
    rows = sum(len(to_pandas(table)) for table in read_batches(file, ["number", "name"], 100))
assert len(frame) == rows == 1000
print(len(threads() - before))
"""
"""A whole program, as Arrow's threads once started stay."""


@pytest.fixture(name="path")
def table_path(tmp_path: Path) -> Path:
    table = pa.table({"number": list(range(1000)), "name": [str(k % 7) for k in range(1000)]})
    path = tmp_path / "table.parquet"
    path.write_bytes(seal_table(table))
    return path


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_reading_a_table_starts_no_threads(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_tables_are_read_whole_in_columns_and_in_batches(path: Path) -> None:
    expected = pd.read_parquet(path)
    pd.testing.assert_frame_equal(to_pandas(read_parquet(path)), expected)
    content = pa.BufferReader(path.read_bytes())
    pd.testing.assert_frame_equal(to_pandas(read_parquet(content, ["name"])), expected[["name"]])
    with open_parquet(path) as file:
        parts = [to_pandas(table) for table in read_batches(file, ["number", "name"], 300)]
    assert [len(part) for part in parts] == [300, 300, 300, 100]
    pd.testing.assert_frame_equal(pd.concat(parts, ignore_index=True), expected)


def test_columns_come_in_their_order_and_an_unknown_one_is_refused(path: Path) -> None:
    assert read_parquet(path, ["name", "number"]).column_names == ["name", "number"]
    with pytest.raises(KeyError, match="colour"):
        read_parquet(path, ["name", "colour"])
    with open_parquet(path) as file:
        assert next(read_batches(file, ["name", "number"])).column_names == ["name", "number"]
        with pytest.raises(KeyError, match="colour"):
            next(read_batches(file, ["name", "colour"]))


def test_a_page_with_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.parquet"
    table = pa.table({"number": list(range(1000))})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = bytearray(path.read_bytes())
    content[200] ^= 1
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"checksum|CRC"):
        read_parquet(path)
