"""Derived tables: kept with their keys, agreeing with each other whoever writes them at the same time."""

import subprocess
import sys

import pandas as pd
import pytest

from dacycle.cycler.archive.derived import REMOVED, read_cycle_tables, read_tables, write_tables
from dacycle.cycler.archive.exceptions import ArchiveError

WRITER = """
import sys
from pathlib import Path
import pandas as pd
from dacycle.cycler.archive.derived import write_tables
for number in range(60):
    frame = pd.DataFrame({"time": [0], "by": [f"{sys.argv[2]} {number}"]})
    write_tables(Path(sys.argv[1]), {"errors": frame, "fits": frame}, {"20240104T00": f"{sys.argv[2]} {number}"})
"""


def frame(value: int) -> pd.DataFrame:
    return pd.DataFrame({"time": [pd.Timestamp("2024-01-04")], "value": [value]})


def test_tables_come_back_with_the_keys_of_their_cycles(tmp_path):
    keys = {"20240104T00": "a key", "20240104T06": "another"}
    write_tables(tmp_path / "kept", {"errors": frame(1), "fits": frame(2)}, keys)
    tables, known = read_tables(tmp_path / "kept", ("errors", "fits"))
    assert known == keys
    assert (tables["errors"]["value"].item(), tables["fits"]["value"].item()) == (1, 2)


@pytest.mark.parametrize("change", ["absent", "of other cycles"])
def test_files_that_do_not_agree_are_not_used(tmp_path, change):
    write_tables(tmp_path, {"errors": frame(1), "fits": frame(2)}, {"20240104T00": "a key"})
    if change == "absent":
        (tmp_path / "fits.parquet").unlink()
    else:
        write_tables(tmp_path, {"fits": frame(3)}, {"20240104T00": "another key"})
    tables, known = read_tables(tmp_path, ("errors", "fits"))
    assert known == {}
    assert all(table.empty for table in tables.values())


def test_of_files_between_which_a_process_was_killed_the_cycles_count_on_which_they_agree(tmp_path):
    before, after = {"20240103T18": "old", "20240104T00": "a key"}, {"20240104T00": "a key", "20240104T06": "new"}
    write_tables(tmp_path, {"errors": frame(1), "means": frame(3), "fits": frame(2)}, before)
    write_tables(tmp_path, {"errors": frame(1)}, after)
    tables, known = read_cycle_tables(tmp_path, {"20240103T18"})
    assert known == {"20240103T18": "", "20240104T00": "a key", "20240104T06": ""}
    assert (tables["errors"]["value"].item(), tables["fits"]["value"].item()) == (1, 2)


def test_a_table_that_is_not_written_yet_is_missed_only_where_scores_of_removed_states_were(tmp_path):
    removed = {"20240103T18"}
    write_tables(tmp_path, {"errors": frame(1)}, {"20240103T18": f"of a record{REMOVED}", "20240104T00": "a key"})
    tables, known = read_cycle_tables(tmp_path, removed)
    assert tables["fits"].empty
    assert set(known.values()) == {""}
    write_tables(tmp_path, {"errors": frame(1)}, {"20240103T18": "of a record verified"})
    with pytest.raises(ArchiveError, match=r"means\.parquet is missing; .*restore it from a backup"):
        read_cycle_tables(tmp_path, removed)


def test_two_processes_that_write_at_once_leave_tables_of_one_of_them(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in ("serve", "report")]
    assert [writer.wait() for writer in writers] == [0, 0]
    tables, known = read_tables(tmp_path, ("errors", "fits"))
    assert {table["by"].item() for table in tables.values()} == set(known.values())
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []
