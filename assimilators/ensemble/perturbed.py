"""An ensemble of data assimilations: one method, run for each member with observations perturbed by their errors.

Houtekamer et al. 1996 (doi:10.1175/1520-0493(1996)124<1225:ASSATE>2.3.CO;2); Isaksen et al. 2010 (ECMWF Technical
Memorandum 636). What goes into an analysis differs from member to member by as much as it is uncertain: the background
by the members' forecasts and samples of the model's error, the observations by draws from their errors. So do the
analyses then, and a method without a spread has one. The method is any that takes a background and observations.

The chain itself is the control: the same forecasts and analyses as without members, to the bit. Members are
perturbations of it.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dacycle.assimilators.base import Analysis, Assimilator, AssimilatorError, has_window
from dacycle.assimilators.classical.background_error import BackgroundError
from dacycle.assimilators.ensemble.algebra import collapse, spread
from dacycle.assimilators.ensemble.settings import EnsembleSettings
from dacycle.assimilators.ensemble.static import Draws, load_static
from dacycle.forecast_adapter.channels import GROUPS, NAMES

if TYPE_CHECKING:
    from dacycle.forecast_adapter.worlds.world import World

__all__ = ["EnsembleOfAnalyses", "load", "perturbed_observations"]

_CHANNELS = len(NAMES)


def perturbed_observations(
    values: NDArray, errors: NDArray, members: int, bounded: NDArray, generator: np.random.Generator
) -> NDArray[np.float32]:
    """Return observed values for each of N members, (N, P, H, W): drawn from their errors around themselves.

    The mean of the members is the value.

    Args:
        values, errors: (P, H, W); error > 0 exactly where observed.
        members: N.
        bounded: (P,) whether a plane cannot be below 0. Where a member would be, the perturbations of all members are
            made smaller together, so that their mean remains.
        generator: of the perturbations.
    """
    observed = errors > 0
    value, error = values[observed].astype(np.float64), errors[observed]
    drawn = generator.standard_normal((members, len(value)), np.float32).astype(np.float64)
    drawn = (drawn - drawn.mean(axis=0)) * np.sqrt(members / (members - 1)) * error
    room = np.minimum(np.maximum(value, 0) / np.maximum(-drawn.min(axis=0), np.finfo(np.float64).tiny), 1)
    drawn *= np.where(np.broadcast_to(bounded[:, None, None], observed.shape)[observed], room, 1)
    perturbed = np.repeat(values[None].astype(np.float32), members, axis=0)
    perturbed[:, observed] = value + drawn
    return perturbed


class EnsembleOfAnalyses(Draws):
    """Run a method for the chain and for N members of it; see `base.EnsembleAssimilator`.

    Args:
        method: run for one chain after the other, which is faster here than a batch.
        error: the static ensemble, which first members and samples of the model's error are drawn from.
        settings: of the ensemble.
    """

    controlled = True

    def __init__(self, method: Assimilator, error: BackgroundError, settings: EnsembleSettings) -> None:
        super().__init__(method.name, error, settings.completed(method.name))
        self.name, self.grid, self.world, self.planes = method.name, method.grid, method.world, method.planes
        self.digest = hashlib.sha256(f"{method.digest} {error.digest}".encode()).hexdigest()
        self.inner, self._least = method, settings.least_spread
        self._bounded = np.array([True] * (_CHANNELS + len(self.planes)))  # humidities, precipitation and OLR
        self._bounded[[i for group in ("surface", "z", "u", "v", "t") for i in GROUPS[group]]] = False

    def with_members(
        self, perturbations: NDArray, generator: np.random.Generator, older: NDArray | None = None
    ) -> "PerturbedAnalyses":
        """Return the assimilator of one chain whose background has these perturbations (N, 69, H, W), SI.

        `older` is not used: the method has no weights that another frame could share.
        """
        return PerturbedAnalyses(self, perturbations, generator)

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Return the analysis of the method itself, without members."""
        return self.inner.analyse(background, values, errors)

    def update(
        self,
        background: NDArray,
        perturbations: NDArray,
        values: NDArray,
        errors: NDArray,
        generator: np.random.Generator,
    ) -> Analysis:
        """Correct one chain, (1, 69, H, W), and its members; the analysis holds their perturbations as `members`.

        A member whose analysis is not finite keeps the perturbation of its background, and the cycle is doubted.
        """
        state = self.inner.analyse(background, values, errors).state
        perturbed = perturbed_observations(values[0], errors[0], self.size, self._bounded, generator)
        members = background + perturbations
        members[:, GROUPS["q"]] = np.maximum(members[:, GROUPS["q"]], 0)
        after = np.stack(
            [self.inner.analyse(b[None], v[None], errors).state[0] for b, v in zip(members, perturbed, strict=True)]
        )
        lost = np.flatnonzero(~np.isfinite(after).all(axis=(1, 2, 3)))
        after[lost] = members[lost]
        after -= after.mean(axis=0, dtype=np.float64).astype(np.float32)
        doubts = [self._doubt(background[0], perturbations, values[0], errors[0])]
        if lost.size:
            numbers = ", ".join(str(number + 1) for number in lost)
            doubts.append(f"the analysis of member {numbers} is not finite, and its background remains")
        return Analysis(
            state,
            spread(after)[None],
            {"observations": [int(np.count_nonzero(errors > 0))]},
            members=after[None],
            doubts=["; ".join(doubt for doubt in doubts if doubt)],
        )

    def _doubt(self, background: NDArray, perturbations: NDArray, values: NDArray, errors: NDArray) -> str:
        """Return what is wrong with the spread of the background; empty where nothing is."""
        observed = errors[:_CHANNELS] > 0
        error = errors[:_CHANNELS][observed]
        departures = (values[:_CHANNELS] - background)[observed] / error
        return collapse(departures, spread(perturbations[:, observed]) / error, self._least, "additive")


class PerturbedAnalyses:
    """A method with the perturbations (N, 69, H, W), SI, of one chain's background; see `base.Assimilator`.

    Args:
        ensemble: of analyses.
        perturbations: of the background.
        generator: of the perturbed observations.
    """

    def __init__(self, ensemble: EnsembleOfAnalyses, perturbations: NDArray, generator: np.random.Generator) -> None:
        self.name, self.grid, self.world = ensemble.name, ensemble.grid, ensemble.world
        self.digest, self.planes = ensemble.digest, ensemble.planes
        self._ensemble, self._perturbations, self._generator = ensemble, perturbations, generator

    def analyse(self, background: NDArray, values: NDArray, errors: NDArray) -> Analysis:
        """Correct one chain's background (1, 69, H, W); see `EnsembleOfAnalyses.update`."""
        return self._ensemble.update(background, self._perturbations, values, errors, self._generator)


def load(method: Assimilator, world: "World", settings: EnsembleSettings) -> EnsembleOfAnalyses:
    """Make an ensemble of a method's analyses for a world, with an experiment's settings.

    Raises:
        AssimilatorError: the method assimilates nothing, or has a window; the static ensemble is none, or does not fit
            the world.
    """
    if method.name == "none":
        raise AssimilatorError("ensemble: without an assimilation there are no analyses to make an ensemble of")
    if has_window(method):
        raise AssimilatorError(f"ensemble: {method.name} needs the cycles before, which members do not hand on")
    return EnsembleOfAnalyses(method, load_static(settings.static, world), settings)
