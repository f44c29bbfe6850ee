"""Selections of an observing system, and the observations that are drawn for samples."""

import numpy as np
import pytest

from dacycle.assimilators.sampling.observing import USUAL, Observing, Subset, observing_of, random_subset
from dacycle.forecast_adapter.channels import NAMES
from dacycle.forecast_adapter.worlds.world import World, load_world
from dacycle.obs_ingest.table import ObservationError
from tests.conftest import TinyWorld

SOURCES = [{"source": "stations"}, {"source": "sondes"}, {"source": "olr"}]


@pytest.fixture(scope="module")
def tiny(world: TinyWorld) -> World:
    return load_world(world.folder)


@pytest.fixture(scope="module")
def observing(tiny: World) -> Observing:
    return observing_of(tiny, tiny.reference, SOURCES)


def test_selections_are_of_all_densities_and_every_type_is_denied_at_times() -> None:
    generator = np.random.default_rng(0)
    drawn = [random_subset(generator, ["stations", "sondes", "olr"]) for _ in range(2000)]
    shares = np.array([selection.share for selection in drawn])
    assert 0.4 < (shares == USUAL.share).mean() < 0.6
    assert USUAL.share == 0.9
    random_shares = shares[shares != USUAL.share]
    assert random_shares.min() < 0.07
    assert np.median(random_shares) == pytest.approx(np.sqrt(0.05), rel=0.15)  # the logarithm is uniform from 0.05 to 1
    denied = {name for selection in drawn for name in selection.deny}
    assert denied >= {"stations", "sondes", "olr", "tp", "td2m", "t2m", "msl", "z", "q", "u", "v", "t"}
    assert not USUAL.deny


def test_half_of_all_selections_are_without_the_optional_sources(observing: Observing, tiny: World) -> None:
    both = ("sondes", "olr")
    full = observing_of(tiny, tiny.reference, SOURCES, optional=both)
    generator = np.random.default_rng(0)
    drawn = [full.random_subset(generator) for _ in range(2000)]
    for kind in ([s for s in drawn if s.share == USUAL.share], [s for s in drawn if s.share != USUAL.share]):
        assert 0.45 < np.mean([set(both) <= set(selection.deny) for selection in kind]) < 0.57
    assert [full.usual(number).deny for number in range(3)] == [(), both, ()]
    assert observing.usual(1) == USUAL
    one, other = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(20):  # without optional sources, recipes draw what they drew
        assert observing.random_subset(one) == random_subset(other, observing.names)


def test_denied_variables_and_sources_are_not_observed(observing: Observing, tiny: World) -> None:
    time = tiny.reference.times[8]  # 00 UTC, when sondes fly
    background = tiny.reference.array(time)

    def draw(selection: Subset) -> np.ndarray:
        return observing.draw(time, background, selection, np.random.default_rng(0)).errors > 0

    whole, without = draw(Subset()), draw(Subset(deny=("olr", "tp")))
    planes = {"tp6h": 69, "olr": 70, "q2m": 71}
    assert all(whole[k].any() for k in planes.values())
    assert [without[k].any() for k in planes.values()] == [False, False, True]
    assert whole[NAMES.index("t500")].any()
    assert not draw(Subset(deny=("sondes",)))[NAMES.index("t500")].any()
    assert draw(Subset(share=0.1)).sum() < 0.3 * whole.sum()


def test_observations_depend_on_the_generator_alone(observing: Observing, tiny: World) -> None:
    time = tiny.reference.times[8]
    background = tiny.reference.array(time)
    first, same, other = (
        observing.draw(time, background, USUAL, np.random.default_rng(seed)).values for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def test_a_source_of_files_cannot_be_drawn_from_a_reference(tiny: World, tmp_path) -> None:
    with pytest.raises(ObservationError, match="source isd is not drawn from a reference"):
        Observing(tiny, [{"source": "isd", "path": str(tmp_path)}])
