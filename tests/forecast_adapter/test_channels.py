"""The order of the channels is part of FengWu's contract: in another order fields would be confused."""

import pytest

from dacycle.forecast_adapter.channels import CHANNELS, GROUPS, HEADLINE, LEVELS, NAMES, WB2_NAMES, index
from dacycle.forecast_adapter.models.fengwu import published_statistics


def test_order_is_fengwus() -> None:
    assert len(NAMES) == 69
    assert NAMES[:4] == ["u10", "v10", "t2m", "msl"]
    assert NAMES[4:] == [f"{variable}{level}" for variable in "zquvt" for level in LEVELS]
    assert LEVELS == (50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000)


@pytest.mark.parametrize(
    ("name", "position"),
    [("z500", 11), ("q500", 24), ("q700", 26), ("u500", 37), ("v500", 50), ("t500", 63), ("t850", 66)],
)
def test_positions_that_fengwu_publishes(name: str, position: int) -> None:
    assert index(name) == position
    assert NAMES[position] == name


def test_unknown_channel_is_named() -> None:
    with pytest.raises(KeyError, match="z501"):
        index("z501")


def test_groups_part_the_channels_between_them() -> None:
    assert sorted(i for group in GROUPS.values() for i in group) == list(range(69))
    for group, members in GROUPS.items():
        if group != "surface":
            assert {CHANNELS[i].variable for i in members} == {group}


def test_headline_channels_exist_and_every_variable_has_a_file_name() -> None:
    assert set(HEADLINE) <= set(NAMES)
    assert {channel.variable for channel in CHANNELS} == set(WB2_NAMES)
    assert len(set(WB2_NAMES.values())) == len(WB2_NAMES)


def test_era5_climate_lies_within_the_plausible_ranges() -> None:
    """FengWu's statistics, by position: in another order many channels would leave their range."""
    statistics = published_statistics()
    for channel, m, s in zip(CHANNELS, statistics.mean, statistics.std, strict=True):
        assert channel.low < m - s, channel.name
        assert m + s < channel.high, channel.name
