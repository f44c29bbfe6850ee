"""The errors of eight cycles of the demonstration with each packaged method, against the committed table."""

import numpy as np
import pandas as pd
import pytest

from dacycle.forecast_adapter.channels import HEADLINE
from tests.golden import make

# Float32 rounds differently on other processors and with other versions of ONNX Runtime. Two threads in place of one
# change these errors by 1e-6 of them; the rest is for single observations that another rounding carries over the limit
# of the background check.
TOLERANCE = 3e-3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Return the committed table."""
    return pd.read_csv(make.TABLE)


def test_the_table_has_every_packaged_method(table: pd.DataFrame) -> None:
    assert table.groupby("method").size().to_dict() == dict.fromkeys(make.methods(), make.CYCLES)


@pytest.mark.parametrize("method", make.methods())
def test_errors_are_those_of_the_table(table, tmp_path, method):
    """If these numbers change on purpose, `python -m tests.golden.make` writes the table anew."""
    expected = table[table["method"] == method].reset_index(drop=True)
    found = make.errors(method, tmp_path / "archive")
    assert found["time"].tolist() == expected["time"].tolist()
    names = list(HEADLINE)
    np.testing.assert_allclose(found[names], expected[names], rtol=TOLERANCE)
