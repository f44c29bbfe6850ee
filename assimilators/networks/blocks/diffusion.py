"""What diffusion methods share: a prior of background errors, sampled in a few steps, guided by the observations.

A *denoiser* (`denoiser`) knows what errors look like; a sampler goes with it from noise to an error, along the
probability-flow equation (EDM, arXiv 2206.00364), in steps of second order (DPM-Solver++ 2M, arXiv 2211.01095). In
each, the observations pull what is denoised towards what they say.

**The pull.** At noise sigma, an error x0 is expected to be D(x), with a covariance sigma^2 dD/dx (Tweedie's formula).
So observations y = H x0 + N(0, R) add to it

    sigma^2 J^T H^T v,    (R + sigma^2 H J H^T) v = y - H D(x),    J = dD/dx,

which is exact where errors are Gaussian. SDA (arXiv 2306.10574, eq. 15) guesses R + gamma (sigma/mu)^2 I for the
matrix, as if errors at different places and of different variables were independent; with real networks, in which a
sonde has 65 values, that counts the same news many times. The equation is solved by a few conjugate residuals instead,
as the same authors came to do (arXiv 2405.13712), preconditioned with the matrix that independent errors would have:
exact and rough observations stand side by side. The multipliers v are much the same in all steps: each begins with
those of the one before, so that the solution gets better from step to step.

**Pairs.** Members come in pairs of opposite noise. The denoiser being odd, the mean of a pair that no observation pulls
is exactly 0, that of Gaussian errors has no sampling error at all, and opposite departures give the opposite increment.
The half differences of the pairs are the spread, averaged over some neighbourhood, in units of the usual error whatever
size departures tell: of where nothing is observed, and errors are largest, they say nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dacycle.assimilators.networks.blocks.base import Constants, weights_of
from dacycle.assimilators.networks.blocks.denoiser import Context
from dacycle.assimilators.networks.blocks.layers import RadialConvolution
from dacycle.assimilators.networks.blocks.prior import PriorNetwork
from dacycle.assimilators.trained.stepping import Carried, Stepping
from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = ["DiffusionNetwork", "DiffusionSize", "least_residual", "noise_levels"]

MOST_NOISE, LEAST_NOISE = 10.0, 0.1
"""Where sampling begins and ends, in units of the error. More would be needed to hide patterns that cover the globe;
but the mean does not depend on it (`SOLVING`), and the more noise, the more enlarged is what is wrong with a Jacobian.
"""
SOLVING = 3
"""Steps before the first of the sampler, which solve for the multipliers and set the mean of the members."""
USUAL, RANGE = 0.7, 1.6
"""Mean and standard deviation of the logarithm of the noise that a denoiser is trained with."""
NEIGHBOURHOOD = 1500.0
"""Support in km of the kernel over which the spread is averaged."""
Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class DiffusionSize:
    """How large the network is, and how it samples.

    Attributes:
        context: width of what is made of the background.
        width, coarse, depth, kernel: of the denoiser, see `Denoiser`.
        steps: of the sampler, the first of which solve for the multipliers alone.
        pairs: of members.
        gradients: conjugate residuals in each step, beside the direction of the step before.
        reach_km: distance beyond which an observation changes nothing.
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


class DiffusionNetwork(PriorNetwork, ABC):
    """See the module's docstring. ``forward`` makes one step.

    Args:
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
        self.stepping = Stepping(
            size.steps,
            (
                Carried("sample", (members, *latent), "normal"),
                Carried("denoised", (members, *latent)),
                Carried("multipliers", (members, self.inputs, *grid.shape)),
            ),
        )
        self.register_buffer("noise", noise_levels(size.steps), persistent=False)
        self.context = Context(len(self.mean) + self.known, size.context)
        self.around = RadialConvolution(grid, (NEIGHBOURHOOD,))

    @abstractmethod
    def denoise(self, x: Tensor, noise: Tensor, context: Tensor) -> Tensor:
        """The expected latent of noisy ones, see `Denoiser`."""

    @abstractmethod
    def decode(self, latent: Tensor, context: Tensor) -> Tensor:
        """The error (B, 69, H, W), in units of its size; linear in the latent."""

    def unrepresented(self) -> Tensor:
        """Standard deviation (69, 1, 1), in units of the error, of what no latent decodes to."""
        return torch.zeros_like(self.error)

    def denoising_loss(self, latent: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Squared errors at every point, of the same size at every noise."""
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

        sample, denoised, multipliers = carried
        noise = self.noise.index_select(0, step)[:, None, None, None]
        half = sample[: self.size.pairs]
        sample = torch.where(step == 0, noise * torch.cat([half, -half]), sample)
        # The matrix's diagonal if errors were independent, each of its usual size.
        diagonal = 1 + precision.square() * noise.square() / (1 + noise.square())
        found, multipliers = self._pulled(sample, noise, context, observe, precision * departure, multipliers, diagonal)
        # The members of a Gaussian posterior have its mean at every noise.
        centred = sample - sample.mean(0, keepdim=True) + found.mean(0, keepdim=True)
        ahead = torch.where(step == SOLVING, found, 1.5 * found - 0.5 * denoised)
        ratio = self.noise[-1] / self.noise[-2]
        sample = torch.where(step < SOLVING, centred, ratio * sample + (1 - ratio) * ahead)

        errors = self.decode(found, context)
        scale = self.std * self.error
        analysis = background + gate * (size * errors.mean(0, keepdim=True) - bias) * scale
        spread = self._spread(errors) * scale * self.calibration
        return analysis, spread, sample, found, multipliers

    def _pulled(
        self, x: Tensor, noise: Tensor, context: Tensor, observe: Linear, departure: Tensor, multipliers: Tensor,
        diagonal: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """What noisy latents are expected to be, given the observations, and the multipliers that pull them there."""

        def seen(x: Tensor) -> tuple[Tensor, Tensor]:
            denoised = self.denoise(x, noise, context)
            return observe(denoised), denoised

        equivalent, transpose, denoised = cast(Any, torch.func.vjp(seen, x, has_aux=True))
        variance = noise.square()
        pull, multipliers = least_residual(
            lambda v: variance * transpose(v)[0], observe, departure - equivalent, multipliers, diagonal,
            self.size.gradients,
        )  # fmt: skip
        return denoised + pull, multipliers

    def _spread(self, errors: Tensor) -> Tensor:
        there, back = errors.unflatten(0, (2, -1)).unbind(0)
        square = (0.5 * (there - back)).square().mean(0, keepdim=True)
        whole = self.around(torch.ones_like(square[:, :1]))[:, 0]
        near = self.around(square)[:, 0].clamp(min=0) / whole
        return (near + LEAST_NOISE**2 + self.unrepresented().square()).sqrt()


def noise_levels(steps: int) -> Tensor:
    """(steps,) standard deviations: those of the sampler fall by the same ratio from step to step."""
    falling = np.geomspace(MOST_NOISE, LEAST_NOISE, steps - SOLVING)
    return torch.from_numpy(np.concatenate([np.full(SOLVING, MOST_NOISE), falling]).astype(np.float32))


def least_residual(
    spread: Linear, observe: Linear, departure: Tensor, multipliers: Tensor, diagonal: Tensor, gradients: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Solve (I + H C H^T) v = y for v, beginning with `multipliers`; returns C H^T v and v, of each member.

    By generalised conjugate residuals (Eisenstat et al. 1983, doi:10.1137/0720023), the given multipliers' direction
    first: a network's Jacobian need not be what a covariance is, symmetric and positive, and here what is left can only
    get less.

    Args:
        spread: C H^T, of multipliers.
        observe: H, in units of the observations' errors; 0 where there are none.
        departure: y (B, channels, H, W), in the same units.
        diagonal: about that of the matrix, as a preconditioner.
        gradients: how many directions beside the first.
    """

    def share(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((1, 2, 3), keepdim=True) / b.square().sum((1, 2, 3), keepdim=True).clamp(min=1e-12)

    found, pull, left = torch.zeros_like(multipliers), torch.zeros(()), departure
    before: list[tuple[Tensor, Tensor, Tensor]] = []
    for k in range(gradients + 1):
        direction = left / diagonal if k else multipliers
        along = spread(direction)
        turned = direction + observe(along)
        for each in before:
            part = share(turned, each[2])
            direction, along, turned = (x - part * y for x, y in zip((direction, along, turned), each, strict=True))
        before.append((direction, along, turned))
        length = share(left, turned)
        found, pull, left = found + length * direction, pull + length * along, left - length * turned
    return pull, found
