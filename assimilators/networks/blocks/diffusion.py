"""The base of diffusion methods: a prior of background errors, sampled in a few steps, guided by the observations.

A *denoiser* (`denoiser`) represents the distribution of errors. A sampler uses it to go from noise to an error, along
the probability-flow equation (EDM, arXiv 2206.00364), in steps of second order (DPM-Solver++ 2M, arXiv 2211.01095). In
each step the denoised error is corrected towards the observations.

**Guidance.** At noise sigma, the expected error is D(x), with a covariance sigma^2 dD/dx (Tweedie's formula). So
observations y = H x0 + N(0, R) add to it

    sigma^2 J^T H^T v,    (R + sigma^2 H J H^T) v = y - H D(x),    J = dD/dx,

which is exact for Gaussian errors. SDA (arXiv 2306.10574, eq. 15) approximates the matrix by R + gamma (sigma/mu)^2 I,
as if errors at different places and of different variables were independent. With real networks, in which a sonde has
65 values, this counts the same information many times. Here a few conjugate residuals solve the equation, as in the
same authors' later work (arXiv 2405.13712). The preconditioner is the diagonal that independent errors would give,
because exact and rough observations occur together. The multipliers v change little between steps, so each step starts
from those of the step before, and the solution improves from step to step.

**Pairs.** Members come in pairs of opposite noise. Because the denoiser is odd, the mean of a pair without observations
is exactly 0, the mean of Gaussian errors has no sampling error, and opposite departures give the opposite increment.
The spread is the half difference of the pairs, averaged over a neighbourhood, in units of the usual error. It does not
depend on the estimated size of the error, because departures contain no information on unobserved places, where errors
are largest.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dacycle.assimilators.networks.blocks import published
from dacycle.assimilators.networks.blocks.base import Constants, weights_of
from dacycle.assimilators.networks.blocks.denoiser import Context
from dacycle.assimilators.networks.blocks.layers import RadialConvolution
from dacycle.assimilators.networks.blocks.prior import PriorNetwork
from dacycle.assimilators.trained.stepping import Carried, Stepping
from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["DiffusionNetwork", "DiffusionSize", "least_residual", "noise_levels"]

MOST_NOISE, LEAST_NOISE = 10.0, 0.1
"""Noise at which sampling begins and ends, in units of the error. More noise would be needed to hide patterns that
cover the globe; but the mean does not depend on it (`SOLVING`), and more noise amplifies errors of the Jacobian.
"""
SOLVING = 3
"""Steps before the first of the sampler, which solve for the multipliers and set the mean of the members."""
USUAL, RANGE = 0.7, 1.6
"""Mean and standard deviation of the logarithm of the noise that a denoiser is trained with."""
NEIGHBOURHOOD = 1500.0
"""Support in km of the kernel over which the spread is averaged."""
GUIDANCES = ("solved", "published")
Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DiffusionSize:
    """Hold the size of the network and of its sampler.

    Attributes:
        context: width of the features of the background.
        width, coarse, depth, kernel: of the denoiser, see `Denoiser`.
        steps: of the sampler; the first three solve for the multipliers alone.
        pairs: of members.
        gradients: conjugate residuals in each step, beside the direction of the step before.
        guidance: `solved`, or `published`: that of arXiv 2306.10574 (`blocks.published`), which needs more steps and
            has no `gradients`.
        reach_km: distance beyond which an observation has no influence.
    """

    context: int = 48
    width: int = 96
    coarse: int = 160
    depth: int = 2
    kernel: int = 5
    steps: int = 10
    pairs: int = 1
    gradients: int = 2
    reach_km: int = 2500
    guidance: str = "solved"

    def __post_init__(self) -> None:
        if self.guidance not in GUIDANCES:
            raise ValueError(f"guidance: {self.guidance!r} is unknown; it is {' or '.join(GUIDANCES)}")


class DiffusionNetwork(PriorNetwork, ABC):
    """Sample background errors, guided by the observations; ``forward`` makes one step.

    Args:
        grid, constants, planes: as for `AnalysisNetwork`.
        size: of the network and the sampler.
        latent: (channels, H', W') of the space that is sampled.
    """

    noise: Tensor

    def __init__(
        self, grid: Grid, constants: Constants, size: DiffusionSize, latent: tuple[int, int, int],
        planes: tuple[str, ...] = tuple(PLANES),
    ) -> None:  # fmt: skip
        super().__init__(grid, constants, size.reach_km, planes)
        self.size = size
        members = 2 * size.pairs
        self.published = size.guidance == "published"
        carried = [Carried("sample", (members, *latent), "normal")]
        if self.published:
            carried += [Carried("shocks", (size.pairs, *latent), "normal")]
        else:
            carried += [Carried("denoised", (members, *latent))]
            carried += [Carried("multipliers", (members, self.inputs, *grid.shape))]
        self.stepping = Stepping(size.steps, tuple(carried))
        levels = published.noise_levels if self.published else noise_levels
        self.register_buffer("noise", levels(size.steps), persistent=False)
        self.context = Context(len(self.mean) + self.known, size.context)
        self.around = RadialConvolution(grid, (NEIGHBOURHOOD,))

    @abstractmethod
    def denoise(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """Return the expected latents of noisy ones; see `Denoiser`."""

    @abstractmethod
    def decode(self, latent: Tensor, context: Tensor) -> Tensor:
        """Return the error (B, 69, H, W), in units of its size; linear in the latent."""

    def unrepresented(self) -> Tensor:
        """Return the standard deviation (69, 1, 1), in units of the error, that no latent represents."""
        return torch.zeros_like(self.error)

    def denoising_loss(self, latent: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Return squared errors at every point, weighted so that their size is the same at every noise."""
        shape = (latent.shape[0], 1, 1, 1)
        noise = (USUAL + RANGE * torch.randn(shape, generator=generator)).exp().to(latent)
        x = latent + noise * torch.randn(latent.shape, generator=generator).to(latent)
        return (1 + noise.square()) / noise.square() * (self.denoise(x, noise, context) - latent).square()

    def forward(
        self, background: Tensor, observations: Tensor, observation_errors: Tensor, step: Tensor, *carried: Tensor
    ) -> tuple[Tensor, ...]:
        state, bias = self.unbiased((background - self.mean) / self.std)
        departure, error, sizes = self.observed(state, observations, observation_errors)
        gate, size, context = self.gate(weights_of(error)), sizes[:, :1], self.context(self.known_of(state, sizes))
        lost = torch.cat([self.unrepresented(), torch.zeros_like(self.plane_left)])
        precision = torch.where(error > 0, (error.square() + lost.square()).rsqrt(), 0.0)
        slope = self.operator.slope(self._columns(state))

        def observe(latent: Tensor) -> Tensor:
            return precision * self.equivalents(slope, size, self.decode(latent, context))

        noise = self.noise.index_select(0, step)[:, None, None, None]
        half = carried[0][: self.size.pairs]
        sample = torch.where(step == 0, noise * torch.cat([half, -half]), carried[0])
        sampled = self._published_step if self.published else self._solved_step
        guided, *carried_on = sampled(sample, step, noise, context, observe, precision, departure, carried[1:])

        errors = self.decode(guided, context)
        scale = self.std * self.error
        analysis = background + gate * (size * errors.mean(0, keepdim=True) - bias) * scale
        spread = self._spread(errors) * scale * self.calibration
        return analysis, spread, *carried_on

    def _published_step(
        self, sample: Tensor, step: Tensor, noise: Tensor, context: Tensor, observe: Linear, precision: Tensor,
        departure: Tensor, carried: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return the guided latents, and the carried tensors of the next step, as published."""
        (shocks,) = carried
        guide = published.guided_by(
            lambda x, noise: self.denoise(x, noise, context), observe, precision * departure, precision
        )
        guided = guide(sample, noise)
        ratio = self.noise[1] / self.noise[0]
        sample = ratio * sample + (1 - ratio) * guided
        noise = ratio * noise
        return (
            guided,
            published.corrected(sample, guide(sample, noise), noise, published.shock_of(shocks, step)),
            shocks,
        )

    def _solved_step(
        self, sample: Tensor, step: Tensor, noise: Tensor, context: Tensor, observe: Linear, precision: Tensor,
        departure: Tensor, carried: tuple[Tensor, ...],
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """Return the guided latents, and the carried tensors of the next step, with the equation solved."""
        denoised, multipliers = carried
        # The diagonal of the matrix if errors were independent, each of its usual size.
        diagonal = 1 + precision.square() * noise.square() / (1 + noise.square())
        guided, multipliers = self._guided(
            sample, noise, context, observe, precision * departure, multipliers, diagonal
        )
        # The members of a Gaussian posterior have its mean at every noise.
        centred = sample - sample.mean(0, keepdim=True) + guided.mean(0, keepdim=True)
        target = torch.where(step == SOLVING, guided, 1.5 * guided - 0.5 * denoised)
        ratio = self.noise[-1] / self.noise[-2]
        sample = torch.where(step < SOLVING, centred, ratio * sample + (1 - ratio) * target)
        return guided, sample, guided, multipliers

    def _guided(
        self, x: Tensor, noise: Tensor, context: Tensor, observe: Linear, departure: Tensor, multipliers: Tensor,
        diagonal: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Return the expected latents of noisy ones, given the observations, and the multipliers of the guidance."""

        def seen(x: Tensor) -> tuple[Tensor, Tensor]:
            denoised = self.denoise(x, noise, context)
            return observe(denoised), denoised

        equivalent, transpose, denoised = cast(Any, torch.func.vjp(seen, x, has_aux=True))
        variance = noise.square()
        correction, multipliers = least_residual(
            lambda v: variance * transpose(v)[0], observe, departure - equivalent, multipliers, diagonal,
            self.size.gradients,
        )  # fmt: skip
        return denoised + correction, multipliers

    def _spread(self, errors: Tensor) -> Tensor:
        positive, negative = errors.unflatten(0, (2, -1)).unbind(0)
        square = (0.5 * (positive - negative)).square().mean(0, keepdim=True)
        whole = self.around(torch.ones_like(square[:, :1]))[:, 0]
        near = self.around(square)[:, 0].clamp(min=0) / whole
        return (near + LEAST_NOISE**2 + self.unrepresented().square()).sqrt()


def noise_levels(steps: int) -> Tensor:
    """Return (steps,) standard deviations of the noise; the sampler's fall by a constant ratio from step to step."""
    falling = np.geomspace(MOST_NOISE, LEAST_NOISE, steps - SOLVING)
    return torch.from_numpy(np.concatenate([np.full(SOLVING, MOST_NOISE), falling]).astype(np.float32))


def least_residual(
    spread: Linear, observe: Linear, departure: Tensor, multipliers: Tensor, diagonal: Tensor, gradients: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Solve (I + H C H^T) v = y for v, starting from `multipliers`, and return C H^T v and v for each member.

    The method is generalised conjugate residuals (Eisenstat et al. 1983, doi:10.1137/0720023), with the given
    multipliers as the first direction. The Jacobian of a network need not be symmetric and positive like a covariance;
    with this method the residual cannot grow in any case.

    Args:
        spread: applies C H^T to multipliers.
        observe: applies H, in units of the observations' errors; 0 where there are none.
        departure: y (B, channels, H, W), in the same units.
        multipliers: those of the step before.
        diagonal: approximate diagonal of the matrix, as a preconditioner.
        gradients: number of directions beside the first.
    """

    def share(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2, 3), keepdim=True) / b.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-12)

    solution, correction, residual = torch.zeros_like(multipliers), torch.zeros(()), departure
    before: list[tuple[Tensor, Tensor, Tensor]] = []
    for k in range(gradients + 1):
        direction = residual / diagonal if k else multipliers
        along = spread(direction)
        image = direction + observe(along)
        for earlier in before:
            overlap = share(image, earlier[2])
            direction, along, image = (x - overlap * y for x, y in zip((direction, along, image), earlier, strict=True))
        before.append((direction, along, image))
        length = share(residual, image)
        solution, correction = solution + length * direction, correction + length * along
        residual = residual - length * image
    return correction, solution
