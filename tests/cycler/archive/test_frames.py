"""The reader of stored frames."""

import numpy as np
import pandas as pd
import pytest

from dacycle.cycler.archive.frames import StoredFrames

TIMES = pd.date_range("2024-01-03T00", periods=6, freq="6h")


class Branch:
    """A branch whose analysis at a time holds the number of that time, with a gap; it counts what is read."""

    times = TIMES.delete(1)

    def __init__(self):
        self.read = []

    def frame(self, time):
        self.read.append(time)
        values = np.full((2, 2), TIMES.get_loc(time), np.float32)
        values.flags.writeable = False
        return values


@pytest.fixture
def branch():
    return Branch()


def test_frames_before_a_time_come_oldest_first_as_far_as_they_are_in_a_row(branch):
    frames = StoredFrames(branch)
    assert [frame[0, 0] for frame in frames.before(TIMES[5], 2)] == [3, 4]
    assert [frame[0, 0] for frame in frames.before(TIMES[5], 9)] == [2, 3, 4]
    assert frames.before(TIMES[5], 0) == []


def test_a_frame_is_read_once_while_it_is_near_the_newest_and_cannot_be_changed(branch):
    frames = StoredFrames(branch)
    for time in TIMES[3:]:
        frames.frame(time - pd.Timedelta("6h"))
        with pytest.raises(ValueError, match="read-only"):
            frames.frame(time)[0, 0] = 1.0
    assert branch.read == list(TIMES[2:])
