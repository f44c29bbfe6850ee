"""The multi-modal adapter of DAMBench (arXiv 2511.01468): OLR and station precipitation, added to any method.

What makes it the adapter: rasters of each modality become *patches*, by an encoder of its own; a *shared Transformer*
sees the patches of all; what it makes of them is *projected*, from zeros at the beginning, into the base method's
latent space, where it is added to what the base has fused of background and observations.

Where it departs: rasters are of departures with their weights, as everywhere here (`base`), so that opposite departures
give the opposite increment; a patch in which nothing of a modality was observed is a learnt token of its own; where
nothing of any was, the method is the base, bit for bit. The base sees these modalities in no other way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from dacycle.assimilators.networks.adas import AdasSize
from dacycle.assimilators.networks.blocks.base import Constants, weights_of
from dacycle.assimilators.networks.blocks.departures import DepartureNetwork
from dacycle.assimilators.networks.blocks.layers import Attention, Pointwise
from dacycle.assimilators.networks.fnp import FnpSize
from dacycle.assimilators.networks.vae_var import VaeVarNetwork, VaeVarSize
from dacycle.forecast_adapter.channels import CHANNEL_COUNT, PLANES
from dacycle.forecast_adapter.grid import Grid

__all__ = [
    "MODALITIES",
    "Adapted",
    "AdaptedAdasSize",
    "AdaptedFnpSize",
    "AdaptedNetwork",
    "AdaptedVaeVar",
    "AdaptedVaeVarSize",
    "AdapterSize",
]

MODALITIES = ("tp6h", "olr")
PATCH = 4
"""Cells of a patch in each direction."""
WAVES = 4
"""Zonal wavenumbers by which a patch is told where it is, beside sine and cosine of its latitude."""


@dataclass(frozen=True)
class AdapterSize:
    """How large the adapter is, beside its base.

    Attributes:
        tokens: width of the tokens.
        token_heads, token_layers: of the shared Transformer.
    """

    tokens: int = 96
    token_heads: int = 4
    token_layers: int = 2


@dataclass(frozen=True)
class AdaptedFnpSize(AdapterSize, FnpSize):
    """FNP's size, and its adapter's."""


@dataclass(frozen=True)
class AdaptedAdasSize(AdapterSize, AdasSize):
    """The size of Adas, and of its adapter."""


@dataclass(frozen=True)
class AdaptedVaeVarSize(AdapterSize, VaeVarSize):
    """The size of VAE-Var, and of its adapter."""


class Adapter(nn.Module):
    """Rasters of the modalities' departures and weights to what is added to a base's latents.

    Args:
        latent: channels of the base's latents, on 2 x 2 blocks of cells.
    """

    places: Tensor

    def __init__(self, grid: Grid, size: AdapterSize, latent: int) -> None:
        super().__init__()
        rows, columns = (n // PATCH for n in grid.shape)
        self.embed = nn.ModuleList(nn.Conv2d(2, size.tokens, PATCH, stride=PATCH) for _ in MODALITIES)
        self.missing = nn.Parameter(torch.zeros(len(MODALITIES), size.tokens, 1, 1))
        self.kind = nn.Parameter(0.1 * torch.randn(len(MODALITIES), size.tokens, 1, 1))
        self.register_buffer("places", _places(grid), persistent=False)
        self.place = Pointwise(1, self.places.shape[1], size.tokens)
        # One window holds the patches of all modalities, one below the other.
        window = (len(MODALITIES) * rows, columns)
        self.layers = nn.ModuleList(
            Attention(size.tokens, size.token_heads, window, shifted=False) for _ in range(size.token_layers)
        )
        self.project = Pointwise(1, len(MODALITIES) * size.tokens, latent * (PATCH // 2) ** 2)
        for parameter in self.project.parameters():
            nn.init.zeros_(parameter)

    def forward(self, departure: Tensor, weight: Tensor) -> Tensor:
        """(B, latent, H/2, W/2) of (B, modalities, H, W) departures times their weights, and weights."""
        tokens = []
        for k, embed in enumerate(self.embed):
            raster = torch.stack([departure[:, k], weight[:, k]], 1)
            seen = functional.max_pool2d(weight[:, k : k + 1], PATCH) > 0
            token = torch.where(seen, embed(raster), self.missing[k])
            tokens.append(token + self.kind[k] + self.place(self.places))
        x = torch.cat(tokens, 2)
        for layer in self.layers:
            x = layer(x, x)
        found = functional.pixel_shuffle(self.project(torch.cat(x.chunk(len(MODALITIES), 2), 1)), PATCH // 2)
        any_seen = (weight.amax((1, 2, 3), keepdim=True) > 0).to(found.dtype)
        return found * any_seen


def _chosen(planes: tuple[str, ...]) -> list[int]:
    """Where the modalities are among the inputs."""
    return [CHANNEL_COUNT + planes.index(name) for name in MODALITIES]


def _all_but(chosen: list[int], inputs: int) -> Tensor:
    """(inputs, 1, 1): 0 for the modalities, 1 for all else."""
    left = torch.ones(inputs, 1, 1)
    left[chosen] = 0
    return left


def _places(grid: Grid) -> Tensor:
    """(1, 2 + 2 WAVES, rows, columns) of the patches' centres."""
    latitude, longitude = (
        np.deg2rad(np.asarray(c, float).reshape(-1, PATCH).mean(1)) for c in (grid.latitude, grid.longitude)
    )
    lat, lon = np.meshgrid(latitude, longitude, indexing="ij")
    waves = [f(m * lon) for m in range(1, WAVES + 1) for f in (np.sin, np.cos)]
    return torch.from_numpy(np.stack([np.sin(lat), np.cos(lat), *waves])[None].astype(np.float32))


class Adapted(ABC):
    """What training asks of a method with an adapter."""

    @abstractmethod
    def begin_with(self, trained: nn.Module) -> None:
        """Take the weights of a trained base, and what it was told of its world: weights are worth nothing without.

        RuntimeError where it is of another method or size.
        """

    @abstractmethod
    def freeze_base(self, frozen: bool) -> None:
        """Whether the adapter alone is trained."""


class AdaptedNetwork(DepartureNetwork, Adapted):
    """A feed-forward method with the adapter; see the module's docstring.

    Args:
        base: the network of the base method, whose `latent` is how many channels it fuses.
        grid, constants, size, planes: as for the base; the size is also the adapter's.
    """

    left: Tensor

    def __init__(
        self, base: Callable[..., Any], grid: Grid, constants: Constants, size: Any,
        planes: tuple[str, ...] = tuple(PLANES),
    ) -> None:  # fmt: skip
        super().__init__(grid, constants, size.reach_km, planes)
        self.size = size
        self.base = base(grid, constants, size, planes)
        self.base.operator = self.operator  # one and the same
        self.adapter = Adapter(grid, size, self.base.latent)
        self.chosen = _chosen(planes)
        self.register_buffer("left", _all_but(self.chosen, self.inputs), persistent=False)

    def begin_with(self, trained: nn.Module) -> None:
        """See `Adapted`."""
        self.base.load_state_dict(trained.state_dict())
        with torch.no_grad():
            for field in fields(Constants):
                getattr(self, field.name).copy_(getattr(trained, field.name))

    def freeze_base(self, frozen: bool) -> None:
        """See `Adapted`."""
        for parameter in self.base.parameters():
            parameter.requires_grad_(not frozen)
        self.operator.requires_grad_(False)

    def observe(self, departure: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        """The base's features of all but the modalities, and these as they are."""
        rasters = torch.stack([departure * weight, weight], 1)[:, :, self.chosen]
        return (*self.base.observe(departure * self.left, weight * self.left), rasters)

    def encode(self, state: Tensor, known: Tensor) -> tuple[Tensor, ...]:
        """The base's."""
        features: tuple[Tensor, ...] = self.base.encode(state, known)
        return features

    def decode(
        self, state: Tensor, known: Tensor, background: tuple[Tensor, ...], observed: tuple[Tensor, ...],
        beside: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:  # fmt: skip
        """The base's, with the adapter's features beside its own."""
        *own, rasters = observed
        found: tuple[Tensor, Tensor | None] = self.base.decode(
            state, known, background, tuple(own), self.adapter(rasters[:, 0], rasters[:, 1])
        )
        return found


class AdaptedVaeVar(VaeVarNetwork, Adapted):
    """VAE-Var with the adapter; see the module's docstring."""

    observes = True
    left: Tensor

    def __init__(
        self, grid: Grid, constants: Constants, size: AdaptedVaeVarSize, planes: tuple[str, ...] = tuple(PLANES)
    ) -> None:
        super().__init__(grid, constants, size, planes)
        self.adapter = Adapter(grid, size, sum(size.latents))
        self.chosen = _chosen(planes)
        self.register_buffer("left", _all_but(self.chosen, self.inputs), persistent=False)

    def begin_with(self, trained: nn.Module) -> None:
        """See `Adapted`."""
        own = self.adapter.state_dict(prefix="adapter.")
        self.load_state_dict({**trained.state_dict(), **own})

    def freeze_base(self, frozen: bool) -> None:
        """See `Adapted`."""
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(not frozen or name.startswith("adapter."))
        self.operator.requires_grad_(False)

    def prior_loss(
        self, state: Tensor, target: Tensor, weights: Tensor, generator: torch.Generator,
        values: Tensor | None = None, errors: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """`VaeVarNetwork.prior_loss`, given the modalities among observations, (B, 69 + M, H, W) in SI units."""
        assert values is not None
        assert errors is not None
        departure, error, _ = self.observed(self.unbiased(state)[0], values, errors)
        state, found, sizes = self.error_of(state, target, generator)
        expected, _ = self.centred(departure, error, sizes[:, :1])
        return self._bound(state, found, sizes, weights, generator, expected)

    def centred(self, departure: Tensor, error: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
        """Where the modalities expect the latents, odd in their departures; they are compared with nothing then."""
        weight = weights_of(error[:, self.chosen] / size)
        rasters = departure[:, self.chosen] / size * weight
        there, back = self.adapter(torch.cat([rasters, -rasters]), torch.cat([weight, weight])).chunk(2)
        found = 0.5 * (there - back)
        parts = zip(found.split(list(self.size.latents), 1), (4, 2, 1), strict=True)
        expected = [functional.avg_pool2d(part, k).flatten(1) for part, k in parts]
        return torch.cat(expected, 1), error * self.left
