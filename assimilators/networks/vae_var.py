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
- latents stand on blocks of 2 x 2 and of 4 x 4 cells and are decoded smoothly, where the original interpolates to the
  nearest;
- conjugate gradients (Polak and Ribiere) in place of L-BFGS: the curvature along each direction is measured by one more
  decoding (that of Gauss and Newton), so that no line search is needed, and one step is one graph (`stepping`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.base import CHANNELS, Constants, weights_of
from dacycle.assimilators.networks.layers import ConvolutionBlock, Depthwise, Pointwise
from dacycle.assimilators.networks.prior import PriorNetwork
from dacycle.assimilators.stepping import Carried, Stepping
from dacycle.forecast_adapter.channels import PLANES
from dacycle.forecast_adapter.grid import Grid
from dacycle.forecast_adapter.mini import pad_sphere

__all__ = ["VaeVarNetwork", "VaeVarSize"]

PROBE = 0.05
"""Root mean square of the step in z by which the curvature is measured."""
TINY = 1e-12
CARRIED = ("latent", "direction", "gradient")


@dataclass(frozen=True)
class VaeVarSize:
    """How large the network is.

    Attributes:
        width: features on blocks of 2 x 2 cells.
        latent, wide: latent channels on blocks of 2 x 2 and of 4 x 4 cells.
        layers: of the decoder, on blocks of 2 x 2; one more is on blocks of 4 x 4.
        kernel: of each.
        iterations: steps of the minimisation.
        reach_km: distance beyond which an observation changes nothing.
    """

    width: int = 96
    latent: int = 24
    wide: int = 48
    layers: int = 3
    kernel: int = 5
    iterations: int = 20
    reach_km: int = 2500


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
        self.from_wide, self.up = Pointwise(1, size.wide, width, bias=False), Pointwise(1, width, 4 * width, bias=False)
        self.from_latent = Pointwise(1, size.latent, width, bias=False)
        self.wide = OddBlock(width, size.kernel)
        self.layers = nn.ModuleList(OddBlock(width, size.kernel) for _ in range(size.layers))
        self.out, self.smooth = Pointwise(1, width, 4 * CHANNELS, bias=False), Depthwise(CHANNELS, 3, bias=False)
        nn.init.dirac_(self.smooth.weight, CHANNELS)

    def forward(self, wide: Tensor, latent: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
        """(B, 69, H, W) of (B, wide, H/4, W/4) and (B, latent, H/2, W/2)."""
        x = self.wide(self.from_wide(wide), gates[0])
        x = functional.pixel_shuffle(self.up(x), 2) + self.from_latent(latent)
        for layer, gate in zip(self.layers, gates[1:-1], strict=True):
            x = layer(x, gate)
        return self.smooth(pad_sphere(functional.pixel_shuffle(self.out(x * gates[-1]), 2), 1))


class Gates(nn.Module):
    """What is known beside the error makes factors between 0 and 2 for the features of each layer of the decoder."""

    def __init__(self, size: VaeVarSize, inputs: int) -> None:
        super().__init__()
        width = size.width
        self.embed = nn.Conv2d(inputs, width, 2, stride=2)
        self.layer = ConvolutionBlock(1, width, size.kernel)
        widths = [2 * width] * (1 + size.layers) + [width]
        self.heads = nn.ModuleList(Pointwise(1, width, each) for each in widths)

    def forward(self, known: Tensor) -> tuple[Tensor, ...]:
        x = self.layer(self.embed(known))
        places = [functional.avg_pool2d(x, 2), *[x] * (len(self.heads) - 1)]
        return tuple(1 + torch.tanh(head(place)) for head, place in zip(self.heads, places, strict=True))


class Encoder(nn.Module):
    """From an error and what is known beside it to the latents' means and logarithms of variances; to train with."""

    def __init__(self, size: VaeVarSize, inputs: int) -> None:
        super().__init__()
        width = size.width
        self.embed = nn.Conv2d(CHANNELS + inputs, width, 2, stride=2)
        self.layers = nn.Sequential(*(ConvolutionBlock(1, width, size.kernel) for _ in range(2)))
        self.down, self.wide = nn.Conv2d(width, width, 2, stride=2), ConvolutionBlock(1, width, size.kernel)
        self.to_latent, self.to_wide = Pointwise(1, width, 2 * size.latent), Pointwise(1, width, 2 * size.wide)

    def forward(self, error: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        x = self.layers(self.embed(torch.cat([error, known], 1)))
        return self.to_wide(self.wide(self.down(x))), self.to_latent(x)


class VaeVarNetwork(PriorNetwork):
    """See the module's docstring. ``forward`` is one step of the minimisation."""

    def __init__(
        self, grid: Grid, constants: Constants, size: VaeVarSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size.reach_km, planes)
        self.size = size
        rows, columns = grid.shape
        self.latents = (size.wide, rows // 4, columns // 4), (size.latent, rows // 2, columns // 2)
        shape = (1, sum(map(math.prod, self.latents)))
        self.stepping = Stepping(size.iterations + 1, tuple(Carried(name, shape) for name in CARRIED))
        inputs = CHANNELS + self.known
        self.encoder, self.decoder, self.gates = Encoder(size, inputs), Decoder(size), Gates(size, inputs)
        self.unsaid = nn.Parameter(torch.zeros(CHANNELS, 1, 1))

    def prior_loss(self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the evidence lower bound, per number of a state."""
        state, error, sizes = self.error_of(state, target, generator)
        known = self.known_of(state, sizes)
        drawn, divergence = [], torch.zeros((), device=state.device)
        for latent in self.encoder(error, known):
            mean, log_variance = latent.float().chunk(2, 1)
            log_variance = log_variance.clamp(-10, 5)
            noise = torch.randn(mean.shape, generator=generator).to(mean.device)
            drawn.append(mean + torch.exp(0.5 * log_variance) * noise)
            divergence = divergence + 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum()
        left = error - self.decoder(*drawn, self.gates(known)).float()
        likelihood = 0.5 * (left * torch.exp(-self.unsaid)).square() + self.unsaid
        return (likelihood * weights).mean() + divergence / error.numel()

    def decode(self, z: Tensor, gates: tuple[Tensor, ...]) -> Tensor:
        """(B, 69, H, W) error, in units of its size, of latents (B, n)."""
        wide, latent = z.split([math.prod(each) for each in self.latents], 1)
        return self.decoder(wide.reshape(-1, *self.latents[0]), latent.reshape(-1, *self.latents[1]), gates)

    def forward(
        self, background: Tensor, observations: Tensor, observation_errors: Tensor, step: Tensor, *carried: Tensor
    ) -> tuple[Tensor, ...]:
        """The analysis of the latents that the steps before found, and one more step."""
        z, direction, before = carried
        state, bias = self.unbiased((background - self.mean) / self.std)
        departure, error, sizes = self.observed(state, observations, observation_errors)
        size, gates = sizes[:, :1], self.gates(self.known_of(state, sizes))
        slope = self.operator.slope(self._columns(state))
        unsaid = torch.cat([self.unsaid.exp(), torch.zeros_like(self.plane_left)])
        precision = torch.where(error > 0, 1 / (error.square() + unsaid.square()), 0.0)

        def observe(z: Tensor) -> tuple[Tensor, Tensor]:
            decoded = self.decode(z, gates)
            return self.equivalents(slope, size, decoded), decoded

        seen, transpose, decoded = torch.func.vjp(observe, z, has_aux=True)
        gradient = z - transpose(precision * (departure - seen))[0]
        turn = ((gradient - before) * gradient).sum() / before.square().sum().clamp(min=TINY)
        direction = turn.clamp(min=0) * direction - gradient
        square = direction.square().sum()
        probe = PROBE * (z.shape[1] / square.clamp(min=TINY)).sqrt()
        change = (observe(z + probe * direction)[0] - seen) / probe
        length = -(gradient * direction).sum() / (square + (precision * change.square()).sum()).clamp(min=TINY)

        increment = self.gate(weights_of(error)) * (size * decoded - bias)
        analysis = background + increment * self.std * self.error
        return analysis, z + length * direction, direction, gradient
