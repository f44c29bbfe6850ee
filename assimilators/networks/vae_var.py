"""VAE-Var: variational assimilation with a learned prior of background errors (Xiao et al. 2025, arXiv 2405.13711).

What makes it VAE-Var: a variational autoencoder of the background's error, trained without any observation; the
analysis is x_b + D(z), and z minimises

    J(z) = 1/2 |z|^2 + 1/2 sum (y - H(x_b + D(z)))^2 / (r^2 + s^2)

with a real observation operator H: channels at the superobs, OLR, precipitation and humidity at 2 m through the tangent
of a column's operator (`planes`); r is the observation's error, s what the decoder leaves unsaid of a channel (a
sigma-VAE, Rybkin et al. 2021, arXiv 2006.13202: the original has s = 2 and leaves it out of J).

Where it departs, beside what all methods share (`base`) and all priors (`prior`):

- the decoder knows the background: functions of the state and the place multiply its features, so that the prior is
  that of the day. It is *odd*, D(-z) = -D(z), by construction: no biases, odd activations. Errors have no sign of their
  own, and without departures there is no increment;
- latents stand on blocks of 2 x 2, 4 x 4 and 8 x 8 cells, for errors of weather have the scales of weather, and one
  number for a continent costs less than many that agree; they are decoded smoothly, where the original interpolates to
  the nearest. In training the smaller blocks are at times left out (nested dropout, Rippel et al. 2014, arXiv
  1402.0915). Else they say everything, the large ones fall silent, and a prior under which they are independent knows
  no error that is larger than they are;
- conjugate gradients (Polak and Ribiere) in place of L-BFGS: the curvature along each direction is measured by one more
  decoding (that of Gauss and Newton), so that no line search is needed, and one step is one graph (`stepping`).
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
"""Shares of the samples, in training, of which the largest blocks alone, those and the next, all are decoded."""
CARRIED = ("latent", "direction", "gradient")


@dataclass(frozen=True)
class VaeVarSize:
    """How large the network is.

    Attributes:
        width: features on blocks of 2 x 2 cells.
        latent, wide, broad: latent channels on blocks of 2 x 2, of 4 x 4 and of 8 x 8 cells.
        layers: of the decoder, on blocks of 2 x 2; one more is on each of the larger.
        kernel: of each.
        iterations: steps of the minimisation.
        reach_km: distance beyond which an observation changes nothing.
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
        """Channels of the latents, those of the largest blocks first, as everywhere."""
        return self.broad, self.wide, self.latent

    @property
    def blocks(self) -> tuple[int, ...]:
        """How many blocks of 2 x 2 cells a block of each layer of the decoder is across."""
        return 4, 2, *[1] * self.layers


class OddBlock(nn.Module):
    """The input, plus a convolution and a perceptron that change their sign with it; ``gate`` multiplies the latter."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.margin = kernel // 2
        self.around = Depthwise(width, kernel, bias=False)
        self.widen = Pointwise(1, width, 2 * width, bias=False)
        self.narrow = Pointwise(1, 2 * width, width, bias=False)
        self.scale = nn.Parameter(torch.full((1, width, 1, 1), 0.3))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        return x + self.scale * self.narrow(torch.asinh(self.widen(self.around(pad_sphere(x, self.margin))) * gate))


class Decoder(nn.Module):
    """From latents and the background's gates to an error, in units of its size."""

    def __init__(self, size: VaeVarSize) -> None:
        super().__init__()
        width = size.width
        self.entries = nn.ModuleList(Pointwise(1, each, width, bias=False) for each in size.latents)
        self.ups = nn.ModuleList(Pointwise(1, width, 4 * width, bias=False) for _ in size.latents[1:])
        self.layers = nn.ModuleList(OddBlock(width, size.kernel) for _ in size.blocks)
        self.out, self.smooth = (
            Pointwise(1, width, 4 * CHANNEL_COUNT, bias=False),
            Depthwise(CHANNEL_COUNT, 3, bias=False),
        )
        nn.init.dirac_(self.smooth.weight, CHANNEL_COUNT)

    def forward(self, latents: Sequence[Tensor], gates: Sequence[Tensor]) -> Tensor:
        """(B, 69, H, W) of the latents (B, channels, rows, columns), the largest blocks' first."""
        layers = list(zip(self.layers, gates, strict=False))
        x = self.entries[0](latents[0])
        for entry, up, latent in zip(self.entries[1:], self.ups, latents[1:], strict=True):
            layer, gate = layers.pop(0)
            x = functional.pixel_shuffle(up(layer(x, gate)), 2) + entry(latent)
        for layer, gate in layers:
            x = layer(x, gate)
        return self.smooth(pad_sphere(functional.pixel_shuffle(self.out(x * gates[-1]), 2), 1))


class Gates(nn.Module):
    """What is known beside the error makes factors between 0 and 2 for the features of each layer of the decoder."""

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
        places = {each: functional.avg_pool2d(x, each) if each > 1 else x for each in self.blocks}
        return [1 + torch.tanh(head(places[each])) for head, each in zip(self.heads, self.blocks, strict=True)]


class Encoder(nn.Module):
    """From an error and what is known beside it to the latents' means and logarithms of variances; to train with."""

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
        """Of each of the latents, in the decoder's order."""
        levels = [self.layers(self.embed(torch.cat([error, known], 1)))]
        for down in self.downs:
            levels.append(down(levels[-1]))
        return [head(x) for head, x in zip(self.heads, levels, strict=True)][::-1]


class VaeVarNetwork(PriorNetwork):
    """See the module's docstring. ``forward`` is one step of the minimisation."""

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
        self.encoder, self.decoder, self.gates = Encoder(size, inputs), Decoder(size), Gates(size, inputs)
        # Of the largest blocks alone, of those and the next, of all.
        self.unsaid = nn.Parameter(torch.zeros(len(USED), CHANNEL_COUNT, 1, 1))

    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the evidence lower bound, per number of a state."""
        return self._bound(*self.error_of(state, target, generator), weights, generator)

    def _bound(
        self, state: Tensor, error: Tensor, sizes: Tensor, weights: Tensor, generator: torch.Generator,
        expected: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`prior_loss` of what `error_of` gives, where latents are `expected` to be (B, n); None: 0."""
        known = self.known_of(state, sizes)
        centres = [0.0] * len(USED) if expected is None else self._shaped(expected)
        used = torch.multinomial(torch.tensor(USED), len(error), replacement=True, generator=generator).to(error.device)
        drawn, divergence = [], torch.zeros((), device=state.device)
        for level, latent in enumerate(self.encoder(error, known)):
            mean, log_variance = latent.float().chunk(2, 1)
            log_variance = log_variance.clamp(-10, 5)
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            told = (level <= used).to(mean)[:, None, None, None]
            drawn.append(told * (mean + torch.exp(0.5 * log_variance) * noise))
            off = (mean - centres[level]).square()
            divergence = divergence + 0.5 * (told * (off + log_variance.exp() - 1 - log_variance)).sum()
        left = error - self.decoder(drawn, self.gates(known)).float()
        unsaid = self.unsaid[used]
        likelihood = 0.5 * (left * torch.exp(-unsaid)).square() + unsaid
        return (likelihood * weights).mean() + divergence / error.numel()

    def decode(self, z: Tensor, gates: Sequence[Tensor]) -> Tensor:
        """(B, 69, H, W) error, in units of its size, of latents (B, n)."""
        return self.decoder(self._shaped(z), gates)

    def _shaped(self, z: Tensor) -> list[Tensor]:
        """Latents (B, n) as those of each size of blocks, in the decoder's order."""
        parts = z.split([math.prod(shape) for shape in self.shapes], 1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def centred(self, departure: Tensor, error: Tensor, size: Tensor) -> tuple[Tensor | float, Tensor]:
        """Where the latents (B, n) are expected before the analysis, and the errors of what it then compares them with.

        Args:
            departure, error: (B, 69 + M, H, W), see `departures`; size: (B, 1, 1, 1).
        """
        return 0.0, error

    def forward(
        self, background: Tensor, observations: Tensor, observation_errors: Tensor, step: Tensor, *carried: Tensor
    ) -> tuple[Tensor, ...]:
        """The analysis of the latents that the steps before found, and one more step."""
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
