"""Windows: every time belongs to exactly one cycle."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from dacycle.obs_ingest.window import Window


@settings(max_examples=30)
@given(st.integers(min_value=0, max_value=4 * 86400))
def test_every_second_lies_in_exactly_one_window(second):
    time = np.array([np.datetime64("2024-01-01T00:00:00") + np.timedelta64(second, "s")])
    cycles = np.datetime64("2023-12-31T18", "h") + 6 * np.arange(24)
    assert sum(bool(Window(cycle).holds(time)[0]) for cycle in cycles) == 1


def test_the_window_is_open_at_its_start_and_closed_at_its_end():
    window = Window(np.datetime64("2024-01-01T12"))
    times = np.array(["2024-01-01T09:00", "2024-01-01T09:01", "2024-01-01T15:00", "2024-01-01T15:01"], "datetime64[m]")
    assert window.holds(times).tolist() == [False, True, True, False]


def test_late_is_after_the_cutoff_and_never_when_unknown():
    received = np.array(["2024-01-01T15:00", "2024-01-01T15:01", "NaT"], "datetime64[s]")
    time = np.datetime64("2024-01-01T12")
    assert Window(time, pd.Timedelta("3h")).late(received).tolist() == [False, True, False]
    assert not Window(time, None).late(received).any()
