"""VAE-Var: variational assimilation with a learned prior of background errors (Xiao et al. 2025, arXiv 2405.13711).

What makes it VAE-Var: a variational autoencoder of the background's error, trained without any observation; the
analysis is x_b + D(z), and z minimises

    J(z) = 1/2 |z|^2 + 1/2 sum (y - H(x_b + D(z)))^2 / (r^2 + s^2)

with a real observation operator H: channels at the superobs; OLR, precipitation and humidity at 2 m through the tangent
of a column's operator (`blocks.planes`). r is the observation's error, s the standard deviation of a channel that the
decoder does not explain (a sigma-VAE, Rybkin et al. 2021, arXiv 2006.13202; the original has s = 2 and omits it in J).

Differences from the paper, beside those of all methods (`blocks.base`) and of all priors (`blocks.prior`):

- The decoder depends on the background: functions of the state and the place multiply its features, so that the prior
  is flow-dependent. It is *odd*, D(-z) = -D(z), by construction, without biases and with odd activations. Errors of
  both signs are equally likely, and without departures there is no increment.
- Latents are on blocks of 2 x 2, 4 x 4 and 8 x 8 cells, because errors have many scales, and a large-scale error costs
  less as one number than as many that agree. They are decoded smoothly, where the original interpolates to the nearest.
  In training the smaller blocks are left out at times (nested dropout, Rippel et al. 2014, arXiv 1402.0915). Otherwise
  the decoder uses the small blocks alone (posterior collapse), and the prior, under which they are independent, lacks
  large-scale errors.
- Conjugate gradients (Polak and Ribiere) replace L-BFGS. The curvature along each direction is measured by one more
  decoding (Gauss and Newton's), so that no line search is needed, and one step is one graph (`trained.stepping`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.blocks.base import Constants, weights_of
from dacycle.assimilators.networks.blocks.layers import ConvolutionBlock, Depthwise, Pointwise
from dacycle.assimilators.networks.blocks.prior import PriorNetwork
from dacycle.assimilators.trained.stepping import Carried, Stepping
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.models.mini import pad_sphere

__all__ = ["VaeVarNetwork", "VaeVarSize"]

PROBE = 0.05
"""Root mean square of the step in z by which the curvature is measured."""
TINY = 1e-12
USED = (0.2, 0.2, 0.6)
"""Shares of the training samples that are decoded from the largest blocks alone, from these and the next, from all."""
CARRIED = ("latent", "direction", "gradient")


@dataclass(frozen=True)
class VaeVarSize:
    """Hold the size of the network.

    Attributes:
        width: features on blocks of 2 x 2 cells.
        latent, wide, broad: latent channels on blocks of 2 x 2, of 4 x 4 and of 8 x 8 cells.
        layers: of the decoder, on blocks of 2 x 2; each of the larger blocks has one more.
        kernel: of each layer.
        iterations: steps of the minimisation.
        reach_km: distance beyond which an observation has no influence.
    """

    width: int = 96
    latent: int = 24
    wide: int = 32
    broad: int = 64
    layers: int = 3
    kernel: int = 5
    iterations: int = 12
    reach_km: int = 2500

    @property
    def latents(self) -> tuple[int, int, int]:
        """Channels of the latents, those of the largest blocks first."""
        return self.broad, self.wide, self.latent

    @property
    def blocks(self) -> tuple[int, ...]:
        """Width of a block of each layer of the decoder, in blocks of 2 x 2 cells."""
        return 4, 2, *[1] * self.layers


class GatedOddBlock(nn.Module):
    """Add a convolution and a perceptron, odd in the input, to the input; ``gate`` multiplies the perceptron."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.around = Depthwise(width, kernel, bias=False)
        self.widen = Pointwise(1, width, 2 * width, bias=False)
        self.narrow = Pointwise(1, 2 * width, width, bias=False)
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), 0.3))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x + self.scale * self.narrow(torch.asinh(self.widen(self.around(pad_sphere(x, self.margin))) * gate))


class ErrorDecoder(nn.Module):
    """Decode latents to an error, in units of its size, through gates that depend on the background."""

    def __init__(self, size: VaeVarSize) -> None:
        super().__init__()
        width = size.width
        self.entries = nn.ModuleList(Pointwise(1, each, width, bias=False) for each in size.latents)
        self.ups = nn.ModuleList(Pointwise(1, width, 4 * width, bias=False) for _ in size.latents[1:])
        self.layers = nn.ModuleList(GatedOddBlock(width, size.kernel) for _ in size.blocks)
        self.out, self.smooth = (
            Pointwise(1, width, 4 * CHANNEL_COUNT, bias=False),
            Depthwise(CHANNEL_COUNT, 3, bias=False),
        )
        nn.init.dirac_(self.smooth.weight, CHANNEL_COUNT)

    def forward(self, latents: Sequence[Tensor], gates: Sequence[Tensor]) -> Tensor:
        """Return (B, 69, H, W) for latents (B, channels, rows, columns), the largest blocks' first."""
        layers = list(zip(self.layers, gates, strict=False))
        x = self.entries[0](latents[0])
        for entry, up, latent in zip(self.entries[1:], self.ups, latents[1:], strict=True):
            layer, gate = layers.pop(0)
            x = functional.pixel_shuffle(up(layer(x, gate)), 2) + entry(latent)
        for layer, gate in layers:
            x = layer(x, gate)
        return self.smooth(pad_sphere(functional.pixel_shuffle(self.out(x * gates[-1]), 2), 1))


class Gates(nn.Module):
    """Compute factors between 0 and 2 for the features of each layer of the decoder, from the inputs but the error."""

    def __init__(self, size: VaeVarSize, inputs: int) -> None:
        super().__init__()
        width = size.width
        self.blocks = (*size.blocks, 1)
        self.embed = nn.Conv2d(inputs, width, 2, stride=2)
        self.layer = ConvolutionBlock(1, width, size.kernel)
        widths = [2 * width] * len(size.blocks) + [width]
        self.heads = nn.ModuleList(Pointwise(1, width, each) for each in widths)

    def forward(self, known: Tensor) -> list[Tensor]:
        x = self.layer(self.embed(known))
        pooled = {width: functional.avg_pool2d(x, width) if width > 1 else x for width in self.blocks}
        return [1 + torch.tanh(head(pooled[width])) for head, width in zip(self.heads, self.blocks, strict=True)]


class ErrorEncoder(nn.Module):
    """Encode an error and the other inputs to the latents' means and log variances, in training."""

    def __init__(self, size: VaeVarSize, inputs: int) -> None:
        super().__init__()
        width, coarser = size.width, size.latents[:-1]
        self.embed = nn.Conv2d(CHANNEL_COUNT + inputs, width, 2, stride=2)
        self.layers = nn.Sequential(*(ConvolutionBlock(1, width, size.kernel) for _ in range(2)))
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 2, stride=2), ConvolutionBlock(1, width, size.kernel))
            for _ in coarser
        )
        self.heads = nn.ModuleList(Pointwise(1, width, 2 * each) for each in reversed(size.latents))

    def forward(self, error: Tensor, known: Tensor) -> list[Tensor]:
        """Return means and log variances of the latents, in the decoder's order."""
        levels = [self.layers(self.embed(torch.cat([error, known], 1)))]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return [head(x) for head, x in zip(self.heads, levels, strict=True)][::-1]


class VaeVarNetwork(PriorNetwork):
    """Minimise the cost function in latent space; ``forward`` is one step of the minimisation."""

    def __init__(
        self, grid: Grid, constants: Constants, size: VaeVarSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size.reach_km, planes)
        self.size = size
        rows, columns = grid.shape
        self.shapes = [(each, rows // k, columns // k) for each, k in zip(size.latents, (8, 4, 2), strict=True)]
        shape = (1, sum(map(math.prod, self.shapes)))
        self.stepping = Stepping(size.iterations + 1, tuple(Carried(name, shape) for name in CARRIED))
        inputs = CHANNEL_COUNT + self.known
        self.encoder, self.decoder, self.gates = ErrorEncoder(size, inputs), ErrorDecoder(size), Gates(size, inputs)
        # Log of the unexplained standard deviation, with the largest blocks alone, with these and the next, with all.
        self.unsaid = nn.Parameter(torch.zeros(len(USED), CHANNEL_COUNT, 1, 1))

    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Return minus the evidence lower bound, per number of a state."""
        return self._bound(*self.error_of(state, target, generator), weights, generator)

    def _bound(
        self, state: Tensor, error: Tensor, sizes: Tensor, weights: Tensor, generator: torch.Generator,
        expected: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """Return `prior_loss` of the results of `error_of`; `expected` is the prior mean of latents (B, n), None: 0."""
        known = self.known_of(state, sizes)
        centres = [0.0] * len(USED) if expected is None else self._shaped(expected)
        used = torch.multinomial(torch.tensor(USED), len(error), replacement=True, generator=generator).to(error.device)
        drawn, divergence = [], torch.zeros((), device=state.device)
        for level, latent in enumerate(self.encoder(error, known)):
            mean, log_variance = latent.float().chunk(2, 1)
            log_variance = log_variance.clamp(-10, 5)
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            is_used = (level <= used).to(mean)[:, None, None, None]
            drawn.append(is_used * (mean + torch.exp(0.5 * log_variance) * noise))
            distance = (mean - centres[level]).square()
            divergence = divergence + 0.5 * (is_used * (distance + log_variance.exp() - 1 - log_variance)).sum()
        residual = error - self.decoder(drawn, self.gates(known)).float()
        unsaid = self.unsaid[used]
        likelihood = 0.5 * (residual * torch.exp(-unsaid)).square() + unsaid
        return (likelihood * weights).mean() + divergence / error.numel()

    def decode(self, z: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """Return the error (B, 69, H, W), in units of its size, of latents (B, n)."""
        return self.decoder(self._shaped(z), gates)

    def _shaped(self, z: Tensor) -> list[Tensor]:
        """Return latents (B, n) as tensors for each size of blocks, in the decoder's order."""
        levels = z.split([math.prod(shape) for shape in self.shapes], 1)
        return [latent.reshape(-1, *shape) for latent, shape in zip(levels, self.shapes, strict=True)]

    def centred(self, departure: Tensor, error: Tensor, size: Tensor) -> tuple[Tensor | float, Tensor]:
        """Return the prior mean of the latents (B, n), and the errors of the observations that the analysis uses.

        Args:
            departure, error: (B, 69 + M, H, W), see `departures`; size: (B, 1, 1, 1).
        """
        return 0.0, error

    def forward(
        self, background: Tensor, observations: Tensor, observation_errors: Tensor, step: Tensor, *carried: Tensor
    ) -> tuple[Tensor, ...]:
        """Return the analysis of the latents of the steps before, and the latents of one more step."""
        z, direction, before = carried
        state, bias = self.unbiased((background - self.mean) / self.std)
        departure, error, sizes = self.observed(state, observations, observation_errors)
        size, gates = sizes[:, :1], self.gates(self.known_of(state, sizes))
        slope = self.operator.slope(self._columns(state))
        unsaid = torch.cat([self.unsaid[-1].exp(), torch.zeros_like(self.plane_left)])
        expected, compared = self.centred(departure, error, size)
        precision = torch.where(compared > 0, 1 / (compared.square() + unsaid.square()), 0.0)

        def observe(z: Tensor) -> tuple[Tensor, Tensor]:
            decoded = self.decode(z, gates)
            return self.equivalents(slope, size, decoded), decoded

        seen, transpose, decoded = cast(tuple[Any, ...], torch.func.vjp(observe, z, has_aux=True))
        gradient = z - expected - transpose(precision * (departure - seen))[0]
        turn = ((gradient - before) * gradient).sum() / before.square().sum().clamp(min=TINY)
        direction = turn.clamp(min=0) * direction - gradient
        square = direction.square().sum()
        probe = PROBE * (z.shape[1] / square.clamp(min=TINY)).sqrt()
        change = (observe(z + probe * direction)[0] - seen) / probe
        length = -(gradient * direction).sum() / (square + (precision * change.square()).sum()).clamp(min=TINY)

        increment = self.gate(weights_of(error)) * (size * decoded - bias)
        analysis = background + increment * self.std * self.error
        return analysis, z + length * direction, direction, gradient
