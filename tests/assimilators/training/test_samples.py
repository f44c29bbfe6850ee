"""Samples of a training, and those that chains of the closed loop give."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed: torch is missing")
pytest.importorskip("lightning", reason="the extra `train` is not installed: lightning is missing")

import torch

from dacycle.assimilators.exceptions import DataError
from dacycle.assimilators.sampling.backgrounds import (
    Backgrounds,
    read_store,
    systematic_error,
    write_backgrounds,
)
from dacycle.assimilators.sampling.observing import Observing, Subset
from dacycle.assimilators.trained.recent import recent_departures
from dacycle.assimilators.training.closed_loop import ClosedLoop
from dacycle.assimilators.training.samples import ErrorPairs, Samples, idealised
from dacycle.forecast_adapter.channels import GROUPS, NAMES
from dacycle.forecast_adapter.worlds.relaxation import Relaxation, RelaxationSettings
from dacycle.forecast_adapter.worlds.world import World
from tests.assimilators.training.small import EXACT, held
from tests.conftest import TinyWorld
from tests.worlds import DAMPING, MEMORY

pytestmark = pytest.mark.slow


def test_a_sample_is_background_observations_and_what_is_missing_to_the_truth(
    backgrounds: Backgrounds, observing: Observing, tiny: World
) -> None:
    state, values, errors, target, _ = (part.numpy() for part in held(backgrounds, observing)[1])
    truth = tiny.statistics.normalise(tiny.reference.array(backgrounds.times[1]))
    np.testing.assert_allclose(state + target, truth, atol=1e-5)
    seen = errors[: len(NAMES)] > 0
    observed = tiny.statistics.normalise(np.where(seen, values[: len(NAMES)], 0))
    assert 500 < seen.sum() < 0.5 * seen.size
    assert abs(observed - truth)[seen].mean() < abs(state - truth).mean() + 1
    assert (values[errors == 0] == 0).all()


def test_errors_put_together_anew_stand_on_a_truth_of_the_reference(
    backgrounds: Backgrounds, observing: Observing, tiny: World
) -> None:
    samples = Samples(backgrounds, observing, np.arange(12) % len(backgrounds.times), 5, EXACT, mixed=0.75)
    truths = np.stack([tiny.statistics.normalise(tiny.reference.array(t)) for t in np.unique(backgrounds.times)])
    own = 0
    for item in range(len(samples)):
        state, _, _, target, _ = (part.numpy() for part in samples[item])
        assert np.abs(truths - (state + target)).max(axis=(1, 2, 3)).min() < 1e-4
        assert (tiny.statistics.denormalise(state)[GROUPS["q"]] > -1e-9).all()
        own += np.abs(-target - backgrounds.errors[samples.order[item]]).max() < 0.02
    assert 0 < own < 8  # a quarter of the samples keep the error that they came with


def test_errors_stay_at_their_dates_unless_a_recipe_mixes_them(
    backgrounds: Backgrounds, observing: Observing, tiny: World
) -> None:
    samples = Samples(backgrounds, observing, np.arange(12) % len(backgrounds.times), 5, EXACT)
    for item in range(len(samples)):
        state, _, _, target, _ = (part.numpy() for part in samples[item])
        number = samples.order[item]
        assert np.abs(-target - backgrounds.errors[number])[GROUPS["t"]].max() < 0.02
        truth = tiny.statistics.normalise(tiny.reference.array(backgrounds.times[number]))
        assert np.abs(truth - (state + target)).max() < 1e-4


def test_samples_of_a_store_are_those_of_its_arrays(
    backgrounds: Backgrounds, observing: Observing, tiny: World, tmp_path: Path
) -> None:
    for month, part in (("2024-01", slice(0, 5)), ("2024-02", slice(5, None))):
        of_part = (each[part] for each in (backgrounds.times, backgrounds.leads, np.asarray(list(backgrounds.errors))))
        write_backgrounds(Backgrounds(*of_part, backgrounds.model), tmp_path / f"{month}.nc", tiny)
    stored = read_store(tmp_path, tiny)
    assert stored.digest() == backgrounds.digest()
    np.testing.assert_array_equal(systematic_error(stored), systematic_error(backgrounds))
    order = np.arange(len(backgrounds.times))
    mapped, held = (Samples(each, observing, order, 1, EXACT) for each in (stored, backgrounds))
    for item in order.tolist():
        for one, other in zip(mapped[item], held[item], strict=True):
            np.testing.assert_array_equal(one, other)


def test_idealised_observations_stand_beside_the_others(observing: Observing, tiny: World) -> None:
    time, error = tiny.reference.times[8], EXACT[:, None, None] * tiny.statistics.std[:, None, None]
    truth = tiny.reference.array(time)
    drawn = observing.draw(time, truth, Subset(), np.random.default_rng(0))
    shares = []
    for seed in range(20):
        values, errors = idealised(drawn.values, drawn.errors, truth, error, np.random.default_rng(seed))
        real, more = drawn.errors > 0, (errors > 0) & (drawn.errors == 0)
        assert (values[real] == drawn.values[real]).all()
        assert (errors[real] == drawn.errors[real]).all()
        assert (values[errors == 0] == 0).all()
        assert not more[len(NAMES) :].any()
        shares.append(more[: len(NAMES)].mean())
        off = ((values[: len(NAMES)] - truth) / error)[more[: len(NAMES)]]
        assert abs(off.std() - 1) < 0.2  # humidity is clipped
    assert min(shares) < 0.03 < 0.2 < max(shares)


def test_every_pass_draws_other_observations(backgrounds: Backgrounds, observing: Observing) -> None:
    passes = [dataclasses.replace(held(backgrounds, observing), seed=seed)[0] for seed in (1, 1, 2)]
    assert (passes[0][1] == passes[1][1]).all()
    assert (passes[0][1] != passes[2][1]).any()


def test_pairs_of_errors_are_the_samples_without_observations(backgrounds: Backgrounds, observing: Observing) -> None:
    samples = held(backgrounds, observing)
    state, _, _, target, _ = samples[1]
    pair = ErrorPairs(samples)[1]
    torch.testing.assert_close(pair, (state, target))


@pytest.mark.parametrize(("off", "frames"), [(0.0, None), (2.0, None), (2.0, 0.5), (2.0, 1.0)])
def test_a_chain_goes_on_from_its_analyses(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld, tiny: World, off: float, frames: float | None
) -> None:
    """Backgrounds are forecasts of two analyses, each `off` standard deviations from the truth; at first, of one.

    The older frame has also the share `frames` of the later increment, which is `off` less the background's error.
    """
    first = Samples(backgrounds, observing, np.zeros(12, int), 1, EXACT)
    # A ring of four, of which two are chains of three cycles.
    chains = ClosedLoop(first, str(world.model), 4, 48, frames)
    truths = np.stack([tiny.statistics.normalise(tiny.reference.array(t)) for t in tiny.reference.times])
    times, errors = [], []
    for item in (3, 7, 11):  # of the last chain in the ring: to index it by the others' -1 would spoil it
        state, _, _, target, slot = chains[item]
        times.append(int(np.abs(truths - (state + target).numpy()).max(axis=(1, 2, 3)).argmin()))
        errors.append(-target[GROUPS["t"]].mean().item())
        chains.analysed(slot[None], (state + target)[None] + off)
        chains.analysed(chains[item - 1][-1][None], torch.full_like(state, np.nan)[None])  # one of the first data
    assert times == [times[0], times[0] + 1, times[0] + 2]
    newer, share = DAMPING * (1 - MEMORY) * off, frames or 0.0
    older = [share * (off - errors[0]), off + share * (off - errors[1])]
    expected = newer + DAMPING * MEMORY * DAMPING * np.array(older)
    np.testing.assert_allclose(errors[1:], expected, atol=0.1)


def test_the_backgrounds_of_a_chain_are_relaxed_as_those_of_an_experiment(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld, tiny: World
) -> None:
    relaxation = Relaxation.of(tiny, RelaxationSettings(tropics=pd.Timedelta("6h"), elsewhere=pd.Timedelta("12h")))
    assert relaxation is not None
    others = Samples(backgrounds, observing, np.zeros(12, int), 1, EXACT)
    free, drawn = (ClosedLoop(others, str(world.model), 4, 48, relaxation=each)[3] for each in (None, relaxation))
    truth = free[0] + free[3]
    torch.testing.assert_close(drawn[0] + drawn[3], truth)  # the target is that of the drawn background
    states = {time: tiny.statistics.normalise(tiny.reference.array(time)) for time in tiny.reference.times}
    time = next(time for time, state in states.items() if np.allclose(state, truth, atol=1e-4))
    expected = relaxation(tiny.statistics.denormalise(free[0].numpy()[None])[0], time)
    np.testing.assert_allclose(drawn[0], tiny.statistics.normalise(expected), atol=1e-4)


def test_a_chain_hands_on_the_departures_of_its_last_cycles(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld, tiny: World
) -> None:
    first = Samples(backgrounds, observing, np.zeros(12, int), 1, EXACT)
    chains = ClosedLoop(first, str(world.model), 4, 48, recent=True)
    cycles = []
    for item in (3, 7, 11):
        state, values, errors, target, slot = chains[item]
        own = tuple(part[:72].numpy() for part in (values, errors))
        departures, their_errors = recent_departures(cycles) if cycles else np.zeros((2, *state.shape))
        np.testing.assert_allclose(values[72:], departures, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(errors[72:], their_errors, rtol=1e-5)
        cycles.append((tiny.statistics.denormalise(state.numpy()[None])[0], *own))
        chains.analysed(slot[None], (state + target)[None])
        _, others, their_own, *_ = chains[item - 1]
        assert others.shape == their_own.shape == values.shape
        assert not their_own[72:].any()


@pytest.mark.parametrize(("longest", "number"), [(12, 1), (3, 2), (2, 3)])
def test_a_chain_has_at_most_so_many_cycles(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld, longest: int, number: int
) -> None:
    chains = ClosedLoop(Samples(backgrounds, observing, np.zeros(12, int), 1, EXACT), str(world.model), 1, longest)
    ring = [chains[item][-1] for item in range(12)]
    assert sum(slot >= 0 for slot in ring[: 2 * number]) == number
    assert {int(slot) for slot in ring} == {-1, *range(1, 2 * number, 2)}


def test_chains_longer_than_the_reference_are_refused(
    backgrounds: Backgrounds, observing: Observing, world: TinyWorld
) -> None:
    first = Samples(backgrounds, observing, np.zeros(4000, int), 1, EXACT)
    with pytest.raises(DataError, match="too short for chains of 48 cycles"):
        ClosedLoop(first, str(world.model), 4, longest=48)
