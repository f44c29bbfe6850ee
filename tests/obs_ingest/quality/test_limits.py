"""Limits of single values, at their edges."""

import numpy as np
import pytest

from dacycle.obs_ingest.quality.limits import GROSS_LIMITS, beyond_limits, other_unit
from dacycle.obs_ingest.table import OTHER_UNITS, VARIABLES


@pytest.mark.parametrize("name", VARIABLES)
def test_limits_themselves_are_within_and_everything_further_is_beyond(name: str) -> None:
    low, high = GROSS_LIMITS[name]
    outside = np.spacing(max(abs(low), abs(high), 1.0))
    values = np.array([low, high, low - outside, high + outside])
    codes = np.full(4, VARIABLES.index(name))
    assert beyond_limits(codes, values).tolist() == [False, False, True, True]


def test_each_value_is_held_against_the_limits_of_its_own_variable() -> None:
    names = ["t2m", "msl", "q"]
    codes = np.array([VARIABLES.index(name) for name in names])
    assert beyond_limits(codes, np.array([280.0, 101325.0, 0.01])).tolist() == [False] * 3
    assert beyond_limits(codes, np.array([101325.0, 0.01, 280.0])).tolist() == [True] * 3


def test_degrees_celsius_and_hectopascals_are_told() -> None:
    codes = np.array([VARIABLES.index(name) for name in ("t2m", "msl", "t2m", "u10")])
    assert other_unit(codes, np.array([15.0, 1013.0, 288.0, 15.0])).tolist() == [True, True, False, False]


@pytest.mark.parametrize("name", OTHER_UNITS)
def test_no_value_is_within_the_limits_and_in_another_unit(name: str) -> None:
    values = np.linspace(*GROSS_LIMITS[name], 1001)
    assert not other_unit(np.full(len(values), VARIABLES.index(name)), values).any()
