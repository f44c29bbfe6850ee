"""Of a report and its corrections the last one counts, in every source and whatever the names of the files."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from dacycle.obs_ingest.quality.control import BackgroundAtRows, Selection, check
from dacycle.obs_ingest.sources.base import build_source
from dacycle.obs_ingest.sources.bufr.synop import SynopBufr
from dacycle.obs_ingest.sources.text.metar import Metar
from dacycle.obs_ingest.sources.versions import heading_version, letters_version
from dacycle.obs_ingest.window import Window
from tests.obs_ingest.sources.bufr.messages import synop
from tests.obs_ingest.test_fuzz import madis

NOON = np.datetime64("2024-01-02T12")
SUPERSEDED = "superseded by a later version"
REPORT = "EGLL 021150Z 24008KT 9999 {}/02 Q1012"


def values(table):
    return dict(zip(table["variable"].astype(str), table["value"].round(2), strict=True))


def test_the_letters_of_headings():
    letters = ["", "RRA", "RRB", "AAA", "CCA", "CCB", "CCX"]
    assert [letters_version(each) for each in letters] == sorted(letters_version(each) for each in letters)
    assert letters_version("PAA") == letters_version("COR") == 0  # a segment; COR is a word of reports
    assert heading_version("ISMD02 LIIB 211200 CCB\r\r\n") == letters_version("CCB")
    assert heading_version("A_ISMD02LIIB211200CCA_C_EDZW_20220321121203_12529889.bin") == letters_version("CCA")
    assert heading_version("SAUK31 EGRR 010550\r\nMETAR") == 0
    assert heading_version("no heading") is None


VERSIONS = {
    "sequence": (synop(281.0), synop(282.0, sequence=1), synop(283.0, sequence=2)),
    "edition 3": (synop(281.0, edition=3), synop(282.0, sequence=1, edition=3), synop(283.0, sequence=2, edition=3)),
    "heading": tuple(
        synop(281.0 + i, heading=f"ISMD02 LIIB 021200{letters}") for i, letters in enumerate(("", " RRA", " CCA"))
    ),
    "correction of the place": (synop(281.0, latitude=40.0), synop(283.0, sequence=1)),
}


@pytest.mark.parametrize("kind", VERSIONS)
def test_bufr_messages(tmp_path, kind):
    for trial, order in enumerate(permutations(VERSIONS[kind])):
        folder = tmp_path / str(trial)
        folder.mkdir()
        for number, content in enumerate(order):
            (folder / f"{number}.bufr").write_bytes(content)
        table, inventory = SynopBufr(folder).read(Window(NOON))
        assert values(table) == {"t2m": 283.0}
        assert set(table["latitude"]) == {50.0}
        assert inventory.skipped == {SUPERSEDED: len(order) - 1}
        assert (inventory.found, inventory.decoded) == (len(order), 1)


def test_a_correction_may_withdraw_a_value(tmp_path):
    (tmp_path / "a.bufr").write_bytes(synop(281.0) + synop(None, sequence=1))
    table, inventory = SynopBufr(tmp_path / "a.bufr").read(Window(NOON))
    assert table.empty
    assert inventory.skipped == {SUPERSEDED: 1}


@pytest.mark.parametrize(
    "correction",
    [
        f"METAR COR {REPORT}=", f"COR METAR {REPORT}=", f"METAR {REPORT.replace('EGLL', 'EGLL COR')}=",
        f"METAR {REPORT.replace('Z', 'Z COR')}=", f"METAR {REPORT.replace('Z', 'Z CCA')}=",
        f"NNNN\nSAUK31 EGRR 021150 CCA\nMETAR {REPORT}=",
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", [False, True])
def test_metar_texts(tmp_path, correction, first):
    (tmp_path / "network.csv").write_text("station,latitude,longitude,elevation\nEGLL,51.48,-0.45,25\n")
    parts = [f"SAUK31 EGRR 021150\nMETAR {REPORT.format('08')}=\nNNNN\n", f"{correction.format('04')}\nNNNN\n"]
    (tmp_path / "metar_20240102.txt").write_text("".join(parts[::-1] if first else parts))
    table, inventory = Metar(tmp_path / "metar_20240102.txt", network=str(tmp_path / "network.csv")).read(Window(NOON))
    assert values(table)["t2m"] == pytest.approx(277.15)
    assert inventory.skipped == {SUPERSEDED: 1}


def test_a_whole_run_from_ingestion_to_quality_control(tmp_path):
    """MADIS states when each report came; a correction after the cutoff changes nothing for that cycle."""
    madis(tmp_path / "old.parquet")
    frame = pd.read_parquet(tmp_path / "old.parquet")[:1]
    frame.to_parquet(tmp_path / "old.parquet")
    frame.assign(temperature=277.0, timeReceived=pd.Timestamp("2024-01-02T16:00")).to_parquet(tmp_path / "a.parquet")
    for cutoff, expected in (("none", 277.0), ("3h", 285.0)):
        source = build_source({"source": "metar", "path": str(tmp_path), "cutoff": cutoff}, None, 0)
        window = Window(NOON, source.cutoff)
        table, inventory = source.read(window)
        background = np.zeros(len(table))
        at_rows = BackgroundAtRows(background * np.nan, background * np.nan, background)
        checked = check(table, window, at_rows, Selection(share=0))
        kept = checked[(checked["variable"] == "t2m") & (checked["use"] != "late")]
        assert kept["value"].tolist() == [expected]
        assert inventory.skipped == ({SUPERSEDED: 1} if cutoff == "none" else {})
