"""Scores of one state by hand, and the files they are kept in."""

import numpy as np
import pandas as pd
import pytest

from dacycle.common.arrow import to_pandas
from dacycle.cycler.archive.branches import ArchiveError
from dacycle.cycler.verification.drift_scores import COLUMNS, join, read_scores_of, score, scored_leads, write_scores
from dacycle.forecast_adapter.channels import NAMES, index
from tests.cycler.runs import START, make_run

WHEN = np.datetime64("2024-01-02T00", "h")


def test_scores_of_a_state_that_is_too_warm_by_two_kelvins(tiny):
    state = tiny.reference.array(WHEN + 24).copy()
    state[index("t850")] += 2
    table = score(tiny, WHEN, 24, "analysis", state).set_index(["channel", "region"])
    warm = table.loc["t850"]
    assert warm["bias"].to_numpy() == pytest.approx(2, rel=1e-4)
    assert warm["mae"].to_numpy() == pytest.approx(2, rel=1e-4)
    assert warm["mse"].to_numpy() == pytest.approx(4, rel=1e-4)
    others = table.drop("t850")
    assert (others[["mse", "mae", "bias"]] == 0).all(axis=None)
    assert others["acc"].to_numpy() == pytest.approx(1)
    assert len(table) == len(NAMES) * 4


def test_tables_are_joined_by_lead_and_kind(tiny):
    state = tiny.reference.array(WHEN)
    tables = [score(tiny, WHEN, lead, kind, state) for kind in ("climatology", "analysis") for lead in (12, 0)]
    order = join(tables)[["lead", "kind"]].drop_duplicates()
    expected = [(0, "analysis"), (0, "climatology"), (12, "analysis"), (12, "climatology")]
    assert list(order.itertuples(index=False, name=None)) == expected
    assert list(join([])) == list(COLUMNS)


def test_scores_are_those_of_the_analyses_they_were_made_from(tiny, tmp_path):
    branch = make_run(tmp_path / "archive", tiny, cycles=2)
    assert scored_leads(branch, START, "mine") is None
    table = score(tiny, WHEN, 24, "analysis", tiny.reference.array(WHEN))
    write_scores(branch, tiny, START, table, "mine")
    assert scored_leads(branch, START, "mine") == {24}
    assert scored_leads(branch, START, "others") is None
    pd.testing.assert_frame_equal(to_pandas(read_scores_of(branch, START, "mine")), table)
    with pytest.raises(ArchiveError, match="another run's"):
        read_scores_of(branch, START, "others")
