"""The departures of the last 24 hours, and the methods that take them."""

import numpy as np
import pytest

from dacycle.assimilators.base import Past, has_window
from dacycle.assimilators.trained.recent import CYCLES, WithRecent, completed, recent_departures
from tests.worlds import GRID, Nudge


def cycle(departures: dict[int, float], error: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return background, values and errors with a departure in the first cell of some channels."""
    background, values = np.full((69, *GRID.shape), 5, np.float32), np.zeros((70, *GRID.shape), np.float32)
    errors = np.zeros_like(values)
    for channel, departure in departures.items():
        values[channel, 0, 0], errors[channel, 0, 0] = 5 + departure, error
    return background, values, errors


def test_they_are_means_weighted_by_their_precision() -> None:
    departures, errors = recent_departures([cycle({0: 1.0, 3: 2.0}, 1.0), cycle({0: 4.0, 5: -1.0}, 0.5)])
    assert departures[[0, 3, 5], 0, 0] == pytest.approx([(1 + 4 * 4) / 5, 2, -1])
    assert errors[[0, 3, 5], 0, 0] == pytest.approx([5**-0.5, 1, 0.5])
    assert np.count_nonzero(departures) == np.count_nonzero(errors) == 3


class Watched(WithRecent, Nudge):
    """Nudge, which keeps what it is given."""

    recent = True

    def analyse(self, background, values, errors):
        """See `Assimilator.analyse`."""
        self.__dict__["given"] = values, errors
        return super().analyse(background, values, errors)


def test_a_method_gets_them_behind_its_observations() -> None:
    method, before = Watched("tiny"), cycle({0: 1.0, 3: 2.0}, 1.0)
    assert has_window(method)
    assert method.steps == CYCLES + 1
    background, values, errors = (part[None] for part in cycle({1: 1.0}, 1.0))
    frame = background[0]
    past = Past(frame, frame, [before[1:]], backgrounds=[before[0]])
    plain = Nudge("tiny").analyse(background, values, errors).state
    np.testing.assert_array_equal(method.with_past(past).analyse(background, values, errors).state, plain)
    for given, own, recent in zip(method.given, (values, errors), recent_departures([before]), strict=True):
        np.testing.assert_array_equal(given, np.concatenate([own, recent[None]], 1))
    method.with_past(Past(frame, frame)).analyse(background, values, errors)
    np.testing.assert_array_equal(method.given[1], completed(errors))
    assert not method.given[1][:, 70:].any()


def test_a_method_that_does_not_take_them_has_no_window() -> None:
    method = Watched("tiny")
    method.__dict__["recent"] = False
    assert not has_window(method)
    assert not has_window(Nudge("tiny"))
