"""Which sites are withheld: the same ones everywhere, with everything near them."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from dacycle.obs_ingest.quality.withheld import SALT, WITHHELD, chosen_sites, withhold, withhold_regions
from dacycle.obs_ingest.table import ObservationError


def places(latitude, longitude) -> pd.DataFrame:
    return pd.DataFrame({"latitude": np.atleast_1d(latitude), "longitude": np.atleast_1d(longitude)})


@pytest.fixture(scope="module")
def everywhere() -> pd.DataFrame:
    """Return 4000 places more than 10 km apart, nearly all of them, at tenths of a degree."""
    rng = np.random.default_rng(0)
    return places(rng.integers(-700, 700, 4000) / 10, rng.integers(0, 3600, 4000) / 10)


def test_a_tenth_of_the_places_by_the_hash_of_their_position(everywhere):
    """With the hash written down once more, and near neighbours of the chosen beside it."""
    tenths = zip((10 * everywhere["latitude"]).round(), (10 * everywhere["longitude"]).round(), strict=True)
    digests = [hashlib.sha256(f"{SALT}|{int(row)}|{int(column) % 3600}".encode()).hexdigest() for row, column in tenths]
    chosen = np.array([int(digest[:16], 16) < WITHHELD * 2**64 for digest in digests])
    withheld = withhold(everywhere)
    assert withheld[chosen].all()
    assert 0.09 < chosen.mean() <= withheld.mean() < 0.12


def test_a_place_decides_alone_in_whatever_order_and_with_whomever(everywhere):
    far = everywhere[::40]
    alone = [bool(withhold(row)[0]) for _, row in far.groupby(level=0)]
    assert withhold(far).tolist() == alone
    assert withhold(far[::-1]).tolist() == alone[::-1]


def test_one_meridian_has_one_name(everywhere):
    """0 E is 360 E, and what rounds up to 360 E is 0 E."""
    latitude = np.arange(-80, 80, 0.1)
    zero = withhold(places(latitude, np.zeros(len(latitude))))
    for name in (360.0, -0.0, 359.97, -0.03, 0.03):
        assert withhold(places(latitude, np.full(len(latitude), name))).tolist() == zero.tolist(), name
    assert 0 < zero.sum() < len(zero)


def test_everything_within_ten_kilometres_goes_with_a_withheld_site():
    site = next((a, 20.0) for a in np.arange(30.0, 60.0, 0.5) if withhold(places(a, 20.0))[0])
    degrees = np.rad2deg(1 / 6371.0)
    for kilometres, together in ((9.9, True), (10.1, False)):
        both = places([site[0], site[0] - kilometres * degrees], [20.0, 20.0])
        if not withhold(both[1:])[0]:
            assert withhold(both).tolist() == [True, together]


def test_shares(everywhere):
    assert not withhold(everywhere, 0.0).any()
    less, more = withhold(everywhere, 0.05), withhold(everywhere, 0.3)
    assert more[less].all()
    assert less.sum() < more.sum()
    with pytest.raises(ObservationError, match=r"1\.0, not in \[0, 1\)"):
        withhold(everywhere, 1.0)


def test_a_silent_site_still_takes_its_neighbours_with_it(everywhere):
    """Whether a chosen site reports changes nothing for the others, where the network is known."""
    chosen = chosen_sites(everywhere)
    assert len(chosen) > 300
    neighbours = places(chosen[:, 0] + 0.06, chosen[:, 1])
    silent = withhold(neighbours)
    assert silent.mean() < 0.5
    assert withhold(neighbours, network=chosen).all()
    both = pd.concat([neighbours, places(chosen[:, 0], chosen[:, 1])])
    assert withhold(both).all()
    far = everywhere[::7]
    assert withhold(far, network=everywhere.to_numpy()).tolist() == withhold(everywhere)[::7].tolist()


def test_regions_are_withheld_whole_over_sea_and_land():
    latitude, longitude = (x.ravel() for x in np.meshgrid(np.arange(-89.5, 90), np.arange(0.5, 360), indexing="ij"))
    grid, area = places(latitude, longitude), np.cos(np.deg2rad(latitude))
    withheld = withhold_regions(grid, 0.1)
    assert np.average(withheld, weights=area) == pytest.approx(0.1, abs=0.04)
    assert (withhold_regions(grid, 0.3) >= withheld).all()
    assert withhold_regions(places(latitude, longitude - 360), 0.1).tolist() == withheld.tolist()
    assert not withhold_regions(grid, 0.0).any()
    columns = withheld.reshape(180, 360)[85:95]  # on both sides of the equator regions are 9 degrees high and wide
    runs = np.diff(np.flatnonzero(np.diff(np.append(np.append(False, columns[-1]), False).astype(int))))[::2]
    assert (runs % 9 == 0).all()
    with pytest.raises(ObservationError):
        withhold_regions(grid, 1.0)
