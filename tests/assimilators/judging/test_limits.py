"""What limits the error of cycles: the model, the observations, or what the cycle forgets; by experiments on each.

The model's error is emulated: in each step a share of the error that the same step makes from the true states is taken
off. Cycles are those of `run_chain`, with the packaged reference as the truth.

    python -m pytest -m trial -s tests/assimilators/judging/test_limits.py     # five minutes of processor time
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from dacycle.assimilators.base import load_assimilator
from dacycle.assimilators.sampling.cycles import LAG, CycledModel, run_chain
from dacycle.assimilators.sampling.observing import observing_of
from dacycle.assimilators.trained.network import TrainedAssimilator
from dacycle.forecast_adapter.channels import HEADLINE, index
from dacycle.forecast_adapter.models.model import load_model
from dacycle.forecast_adapter.state import STEP
from dacycle.forecast_adapter.worlds.reference import Reference
from dacycle.forecast_adapter.worlds.relaxation import Relaxation, RelaxationSettings
from dacycle.forecast_adapter.worlds.world import load_world

METHOD = "adas-mini-2"
SPIN_UP, CYCLES = 20, 96
NETWORK = ["stations", "sondes", "olr"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mended(CycledModel):
    """Take a share of the error of each step from true states off."""

    reference: Reference
    share: float = 0.0

    def background(self, previous: NDArray, current: NDArray, time: np.datetime64) -> NDArray[np.float32]:
        """See `CycledModel.background`."""
        background = super().background(previous, current, time)
        if not self.share:
            return background
        older, newer, truth = (self.reference.array(time - lag * STEP)[None] for lag in (2, 1, 0))
        mended: NDArray[np.float32] = background - np.float32(self.share) * (
            super().background(older, newer, time) - truth
        )
        return mended


def errors(cycled: CycledModel, sources: list[str]) -> NDArray:
    """Return the root mean square error of the analyses by headline channel, SI."""
    world = load_world("demonstration")
    observing = observing_of(world, world.reference, [{"source": source} for source in sources])
    first, channels = world.reference.times[LAG + 2], [index(name) for name in HEADLINE]
    chain = run_chain(load_assimilator(METHOD, world), cycled, observing, first, CYCLES, seed=1)
    squares = [
        (np.square((cycle.analysis - cycle.truth)[channels].astype(float)) * world.grid.weights).mean((1, 2))
        for number, cycle in enumerate(chain)
        if number >= SPIN_UP
    ]
    return np.sqrt(np.mean(squares, axis=0))


@pytest.mark.trial
def test_the_error_falls_with_that_of_the_model_and_with_more_observations() -> None:
    world = load_world("demonstration")
    method = load_assimilator(METHOD, world)
    assert isinstance(method, TrainedAssimilator)
    training = method.metadata["training"]
    written = training.get("relaxation")
    relaxation = Relaxation.of(world, None if written is None else RelaxationSettings(**written))
    present = Mended(load_model(training["model"]), None, relaxation, reference=world.reference)
    every = [*NETWORK, "marine", "aircraft", "motion_vectors"]
    variants = {
        "as it is": (present, NETWORK),
        "without relaxation": (replace(present, relaxation=None), NETWORK),
        **{
            f"{share:.0%} of the model's error removed": (replace(present, share=share), NETWORK)
            for share in (0.25, 0.5, 1)
        },
        "without OLR": (present, NETWORK[:2]),
        "the full network": (present, every),
        "the full network, half of the model's error": (replace(present, share=0.5), every),
    }
    found = {name: errors(*variant) for name, variant in variants.items()}
    base = found["as it is"]
    print(
        f"\n{METHOD} with {training['model']}: "
        + ", ".join(f"{n} {e:.4g}" for n, e in zip(HEADLINE, base, strict=True))
    )
    for name, error in found.items():
        print(f"| {name} | {(error / base).mean():.3f} | " + " | ".join(f"{x:.3f}" for x in error / base) + " |")
    mean = {name: (error / base).mean() for name, error in found.items()}
    assert mean["100% of the model's error removed"] < mean["50% of the model's error removed"] < 1
    assert mean["the full network"] < 1 < mean["without OLR"]
